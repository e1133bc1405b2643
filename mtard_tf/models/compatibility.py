"""Whether a student and its teachers fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from mtard_tf import keras_environment


def check_fit(
    name: str,
    student: keras.Model,
    teachers: Mapping[str, Any],
    roles: Iterable[str],
    extra_classes: int = 0,
) -> None:
    """Refuses models that cannot be distilled from one another.

    Args:
      name: of the distiller, for the message.
      student: from images to logits.
      teachers: role -> Keras model, or anything else that is called with images and has their
        shape as `input_shape` and that of the logits as `output_shape`.
      roles: those that the distiller needs.
      extra_classes: logits that the student has beyond the teachers'.

    Raises:
      KerasEnvironmentError: Keras is set up for something else.
      ValueError: a model that is not functional, a student with losses of its own, other roles, or
        other classes or image sizes than the student's.
    """
    keras_environment.check()  # as Keras is set by now
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
    needed = sorted(roles)
    if sorted(teachers) != needed:
        raise ValueError(
            f"{name} has the teachers {sorted(teachers) or 'none'}; it needs "
            f"{needed or 'none'}: set Stage.teachers = "
            f"{{{', '.join(f'{role!r}: ...' for role in needed)}}}."
        )
    for role, teacher in teachers.items():
        for what, ours, theirs in (
            ("logits", (None, student.output_shape[-1] - extra_classes), teacher.output_shape),
            ("images", student.input_shape, teacher.input_shape),
        ):
            # A teacher may take images of any size.
            alike = (their in (None, our) for our, their in zip(ours[1:], theirs[1:], strict=False))
            if len(ours) != len(theirs) or not all(alike):
                raise ValueError(
                    f"{name}: teacher {role!r} has {what} of shape {tuple(theirs[1:])}, the "
                    f"student {tuple(ours[1:])}; teach on the same data set."
                )


def is_plain(model: Any) -> bool:
    """Whether a model is functional, and computes no more than its layers say.

    Not one that is Sequential, a SavedModel, or of a class of its own, which may do more in `call`.
    """
    # Only functional models have operations.
    return hasattr(model, "operations") and type(model).__module__.partition(".")[0] == "keras"
