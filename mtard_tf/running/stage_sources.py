"""What a stage learns from and starts from, and whether what it made of that still stands."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import keras

from mtard_tf import files
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.model_files import file_digest
from mtard_tf.reporting import run_files
from mtard_tf.running import identity
from mtard_tf.running.checkpoints import Checkpoints
from mtard_tf.running.run_directory import RunError, existing


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
