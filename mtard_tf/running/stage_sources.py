"""The teachers and initial weights of a stage, and whether they have changed since it began."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from mtard_tf import files
from mtard_tf.experiment.stage import Stage
from mtard_tf.models import model_files
from mtard_tf.models.model_files import file_digest, fingerprint
from mtard_tf.reporting import run_files
from mtard_tf.running import identity
from mtard_tf.running.checkpoints import Checkpoints
from mtard_tf.running.run_directory import CONFIG, EXPERIMENT, RunError, existing, student_path


def check_start(stage: Stage, student: keras.Model, start: keras.Model) -> None:
    """Refuses, with RunError, a start whose weights are of other shapes."""
    shapes, given = ([tuple(v.shape) for v in model.weights] for model in (student, start))
    if shapes != given:
        raise RunError(
            f"Stage {stage.name!r} starts from {stage.initial!r}, whose {len(given)} weights are "
            f"not of the shapes of its own {len(shapes)}; give both the same model."
        )


def kept(run_dir: pathlib.Path, role: str, given: Any) -> str:
    """The path of a teacher; a model in memory is kept in the run, as `teachers/<role>.keras`.

    Args:
      run_dir: of a run that a Python program starts or resumes.
      role: of the teacher, or "initial".
      given: a Keras model, or a path, which need not exist.

    Raises:
      RunError: the directory holds a run of a gin file, or was begun with another model.
    """
    if (run_dir / CONFIG).exists():
        raise RunError(f"{run_dir} holds a run of a gin file; choose another run_dir.")
    if isinstance(given, str | pathlib.Path):
        return str(pathlib.Path(given).expanduser().absolute())
    path = (run_dir / "teachers" / f"{role}.keras").absolute()
    with files.temporary(path) as partial:
        given.save(partial)
        known = path.exists() and fingerprint(model_files.load(path)) == fingerprint(given)
        if not known and (run_dir / EXPERIMENT).exists():
            raise RunError(
                f"{run_dir} was begun with another {role} teacher; choose another run_dir."
            )
        if not known:
            files.to_disk(partial)
            partial.replace(path)
    return str(path)


class Changed(RunError):
    """What is in a stage's folder was begun with other data, code, settings or teachers."""


def finished(stage: Stage, run_dir: pathlib.Path, now: Mapping[str, Mapping]) -> dict | None:
    """The `stage.json` of a finished stage, None for one that is not.

    Args:
      stage: of the experiment.
      run_dir: of the run.
      now: what the stage is, from `identity.of_stage`.

    Raises:
      Changed: it has changed since it began, whether it is finished or was interrupted.
      RunError: its student, or a teacher's, is gone.
    """
    folder = run_dir / stage.name
    before = _noted(stage, run_dir)
    if before is None:
        return None
    sources = _described(fingerprints(stage, run_dir))
    former = {**before.get("identity", {}), "sources": _described(before.get("sources", {}))}
    changed = identity.changes(former, {**now, "sources": sources})
    if changed:
        raise Changed(
            f"{folder} has changed since it began: {'; '.join(changed)}. Undo that, choose "
            f"another --run_dir, or restart the stage with mtard-train --restart={stage.name}."
        )
    if not (folder / "stage.json").exists():
        return None
    if not (folder / "student.keras").exists():
        raise RunError(
            f"{folder / 'student.keras'} of a finished stage is missing; restore it, or "
            f"remove {folder} to train it again."
        )
    return dict(before)


def _noted(stage: Stage, run_dir: pathlib.Path) -> Mapping | None:
    """The `stage.json` of a stage, or the notes of its newest state; None if it was not begun."""
    folder = run_dir / stage.name
    if (folder / "stage.json").exists():
        return run_files.stage(folder / "stage.json")
    return Checkpoints(folder / "checkpoints").notes()


def check_begun(
    stages: Sequence[Stage],
    run_dir: pathlib.Path,
    identities: Mapping[str, Mapping[str, Mapping]],
    restart: Sequence[str] = (),
) -> None:
    """Refuses, before anything is trained, stages that would be refused once it is their turn.

    Args:
      stages: to run, in order.
      run_dir: of the run.
      identities: name -> what the stage is now.
      restart: names of those to begin anew where they were begun as another.

    Raises:
      Changed: one that is not to begin anew was begun as another, or learns from one that begins
        anew.
    """
    anew: list[str] = []
    for stage in stages:
        again = stage.name in restart
        if not all(student_path(run_dir, source).exists() for source in stage.sources):
            continue  # what it learns from is trained first
        try:
            finished(stage, run_dir, identities[stage.name])
        except Changed:
            if not again:
                raise
            anew.append(stage.name)
            continue
        lost = [source for source in stage.sources if source in anew]
        if lost and _noted(stage, run_dir) is not None:
            if not again:
                raise Changed(
                    f"{run_dir / stage.name} learned from {lost[0]}, which is to be trained again; "
                    f"restart it as well with --restart={stage.name}, or choose another "
                    "--run_dir."
                )
            anew.append(stage.name)


def restart(stage: Stage, run_dir: pathlib.Path, now: Mapping[str, Mapping]) -> None:
    """Moves a stage that has changed since it began out of the way, to `<name>.before`.

    One that is unchanged stays: the same command, repeated, resumes it.
    """
    try:
        finished(stage, run_dir, now)
    except Changed as error:
        aside = files.set_aside(run_dir / stage.name, "before")
        reason = str(error).split(". Undo that")[0]
        print(f"{stage.name}: starts again; the old files are in {aside} ({reason}).", flush=True)


def _described(sources: Mapping[str, str]) -> dict[str, str]:
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
