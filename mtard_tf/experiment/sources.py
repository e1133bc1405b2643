"""Where teachers and starting weights come from: earlier stages, or files."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from mtard_tf import registry

# Role of a teacher -> the stage that it is where `Stage.teachers` is not set.
TEACHER_STAGES = {
    "assistant": "assistant",
    "clean": "clean_teacher",
    "robust": "robust_teacher",
    "teacher": "clean_teacher",
}


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


def is_path(source: str) -> bool:
    """Whether a teacher is named by its path; else it is a stage, whose name is one folder."""
    return "/" in source or source.endswith(".keras")


def default_teachers(distiller: Callable) -> dict[str, str]:
    """Role -> stage, for the roles that a distiller declares."""
    selector = registry.selector(distiller)
    cls = registry.target(*selector.split(".")) if selector else distiller
    roles = getattr(cls, "teacher_views", {})
    return {role: TEACHER_STAGES.get(role, f"{role}_teacher") for role in sorted(roles)}
