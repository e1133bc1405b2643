"""What a stage learns from and starts from, and whether what it made of that still stands."""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Mapping, Sequence

import keras

from mtard_tf import files, identity, run_files
from mtard_tf.checkpoints import Checkpoints
from mtard_tf.model_files import file_digest
from mtard_tf.run_directory import RunError, existing, is_path
from mtard_tf.stage import Stage


def check_source(stage: str, source: str, earlier: Sequence[str]) -> None:
    """Refuses, with ValueError, a teacher that is neither an earlier stage nor a path."""
    if source in earlier or is_path(source):
        return
    near = difflib.get_close_matches(source, earlier, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"Stage {stage!r} names {source!r}, which is neither an earlier stage nor a path (that "
        f"ends in .keras or has a '/'); {hint}earlier stages: {', '.join(earlier) or 'none'}."
    )


def check_initial(stage: str, source: str) -> None:
    """Refuses, with ValueError, a start without weights that can be set."""
    if is_path(source) and not source.endswith(".keras"):
        raise ValueError(
            f"Stage {stage!r} starts from {source!r}; only a stage or a .keras file has weights to "
            "start from."
        )


def check_start(stage: Stage, student: keras.Model, start: keras.Model) -> None:
    """Refuses, with RunError, a start whose weights are of other shapes."""
    shapes, given = ([tuple(v.shape) for v in model.weights] for model in (student, start))
    if shapes != given:
        raise RunError(
            f"Stage {stage.name!r} starts from {stage.initial!r}, whose {len(given)} weights are "
            f"not of the shapes of its own {len(shapes)}; give both the same model."
        )


class Changed(RunError):
    """What is in a stage's folder was begun with other data, code, settings or teachers."""


def finished(stage: Stage, run_dir: pathlib.Path, now: Mapping[str, Mapping]) -> dict | None:
    """The `stage.json` of a finished stage, None for one that is not.

    Args:
      stage: of the experiment.
      run_dir: of the run.
      now: what the stage is, from `identity.of_stage`.

    Raises:
      Changed: it was begun as another, whether it is finished or was cut off.
      RunError: its student, or a teacher's, is gone.
    """
    folder = run_dir / stage.name
    result = None
    if (folder / "stage.json").exists():
        result = run_files.stage(folder / "stage.json")
    before = Checkpoints(folder / "checkpoints").notes() if result is None else result
    if before is None:
        return None
    sources = _told(fingerprints(stage, run_dir))
    former = {**before.get("identity", {}), "sources": _told(before.get("sources", {}))}
    changed = identity.changes(former, {**now, "sources": sources})
    if changed:
        raise Changed(
            f"{folder} was begun with something else: {'; '.join(changed)}. Put it back, choose "
            f"another --run_dir, or begin the stage anew with mtard-train --restart={stage.name}."
        )
    if result is not None and not (folder / "student.keras").exists():
        raise RunError(
            f"{folder / 'student.keras'} of a finished stage is gone; put it back, or remove "
            f"{folder} to train it anew."
        )
    return result


def restart(stage: Stage, run_dir: pathlib.Path, now: Mapping[str, Mapping]) -> None:
    """Moves a stage that was begun as another out of the way, to `<name>.before`.

    One that is what it was stays: the same command, repeated, goes on with it.
    """
    try:
        finished(stage, run_dir, now)
    except Changed as error:
        aside = files.set_aside(run_dir / stage.name, "before")
        reason = str(error).split(". Put it back")[0]
        print(f"{stage.name}: begins anew; what was there is in {aside} ({reason}).", flush=True)


def _told(sources: Mapping[str, str]) -> dict[str, str]:
    """The fingerprints by what a message calls their files."""
    initial = {"initial": "the file that it starts from"}
    return {initial.get(k, f"the file of the teacher {k}"): v for k, v in sources.items()}


def fingerprints(stage: Stage, run_dir: pathlib.Path) -> dict[str, str]:
    """Role -> fingerprint of the teacher's file, and of what the student starts from.

    Raises:
      RunError: a file is missing.
    """
    named = {**stage.teachers, **({"initial": stage.initial} if stage.initial else {})}
    return {role: file_digest(existing(run_dir, name)) for role, name in named.items()}
