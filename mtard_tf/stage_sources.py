"""What a stage learns from and starts from, and whether what it made of that still stands."""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Sequence

import keras

from mtard_tf import run_files
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


def finished(stage: Stage, run_dir: pathlib.Path) -> dict | None:
    """The `stage.json` of a finished stage, None for one that is not.

    Raises:
      RunError: it learned from other files than those now there, or its student is gone.
    """
    folder = run_dir / stage.name
    if not (folder / "stage.json").exists():
        return None
    result = run_files.stage(folder / "stage.json")
    sources = fingerprints(stage, run_dir)
    before = result.get("sources", sources)  # runs of version 0.1 did not note them
    changed = sorted(role for role in sources if before.get(role) != sources[role])
    if changed:
        raise RunError(
            f"{folder} was trained from other files than those now there for "
            f"{', '.join(changed)}; remove {folder} to train it anew."
        )
    if not (folder / "student.keras").exists():
        raise RunError(
            f"{folder / 'student.keras'} of a finished stage is gone; put it back, or remove "
            f"{folder} to train it anew."
        )
    return result


def fingerprints(stage: Stage, run_dir: pathlib.Path) -> dict[str, str]:
    """Role -> fingerprint of the teacher's file, and of what the student starts from.

    Raises:
      RunError: a file is missing.
    """
    named = {**stage.teachers, **({"initial": stage.initial} if stage.initial else {})}
    return {role: file_digest(existing(run_dir, name)) for role, name in named.items()}
