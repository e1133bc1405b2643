"""Checks that a student and its teachers have the same images and classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from mtard_tf import keras_environment

VIEWS = ("clean", "adversarial")


def check_views(owner: str, student_views: Any, teacher_views: Mapping, further: bool) -> None:
    """Refuses, with ValueError, views that a step does not have.

    Args:
      owner: the distiller, for the message.
      student_views: of its class.
      teacher_views: of its class.
      further: whether it makes views of its own.
    """
    seen = [view for views in teacher_views.values() for view in _several(views)]
    for view in [] if further else [*_several(student_views), *seen]:
        if view not in VIEWS:
            raise ValueError(
                f"{owner} has the view {view!r}; use {' and '.join(map(repr, VIEWS))}, as in "
                "student_views = ('adversarial',)."
            )
    if isinstance(student_views, str):
        raise ValueError(
            f"{owner}.student_views is the text {student_views!r}; give a tuple: "
            f"({student_views!r},)."
        )


def _several(views: Any) -> Sequence[str]:
    return [views] if isinstance(views, str) else views


def check_fit(
    name: str,
    student: keras.Model,
    teachers: Mapping[str, Any],
    roles: Iterable[str],
    extra_classes: int = 0,
) -> None:
    """Refuses a student and teachers that do not fit together.

    Args:
      name: of the distiller, for the message.
      student: from images to logits.
      teachers: role -> Keras model, or another callable from images to logits with `input_shape`
        and `output_shape`.
      roles: that the distiller needs.
      extra_classes: number of logits that the student has beyond the teachers'.

    Raises:
      KerasEnvironmentError: Keras has another backend, image layout or float type.
      ValueError: a model that is not functional, a student with losses of its own, other roles, or
        teachers with other classes or image sizes than the student's.
    """
    keras_environment.check()  # Keras may have been reconfigured since its import
    for role, model in {"student": student, **teachers}.items():
        keras_model = isinstance(model, keras.Model) or role != "student"
        if not (keras_model and hasattr(model, "input_shape") and hasattr(model, "output_shape")):
            raise ValueError(
                f"{name}: {role} is not a functional or Sequential Keras model; build it with "
                "keras.Model(inputs, outputs)."
            )
    if student.losses:
        raise ValueError(
            f"{name}: the student adds losses of its own (a regulariser), which no distiller "
            "counts; use the optimizer's weight decay."
        )
    if sorted(teachers) != (needed := sorted(roles)):
        raise ValueError(
            f"{name} has the teachers {sorted(teachers) or 'none'}; it needs "
            f"{needed or 'none'}: set Stage.teachers = "
            f"{{{', '.join(f'{role!r}: ...' for role in needed)}}}."
        )
    for role, teacher in teachers.items():
        logits = (None, student.output_shape[-1] - extra_classes)
        _check_alike(name, role, "logits", logits, teacher.output_shape)
        _check_alike(name, role, "images", student.input_shape, teacher.input_shape)


def _check_alike(
    name: str, role: str, what: str, ours: tuple[int | None, ...], theirs: tuple[int | None, ...]
) -> None:
    """Raises ValueError unless a teacher's shape is the student's; None fits any size."""
    alike = (their in (None, our) for our, their in zip(ours[1:], theirs[1:], strict=False))
    if len(ours) != len(theirs) or not all(alike):
        raise ValueError(
            f"{name}: teacher {role!r} has {what} of shape {tuple(theirs[1:])}, the student "
            f"{tuple(ours[1:])}; teach on the same data set."
        )


def is_functional(model: Any) -> bool:
    """Whether a model is functional and of Keras' own class: its layers say all that it computes.

    False for Sequential models, SavedModels and subclasses, whose `call` may do more.
    """
    # Only functional models have `operations`.
    return hasattr(model, "operations") and type(model).__module__.partition(".")[0] == "keras"
