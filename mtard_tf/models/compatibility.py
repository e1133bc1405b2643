"""Whether a student and its teachers fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import keras


def check_fit(
    name: str,
    student: keras.Model,
    teachers: Mapping[str, keras.Model],
    roles: Iterable[str],
    extra_classes: int = 0,
) -> None:
    """Refuses models that cannot be distilled from one another.

    Args:
      name: of the distiller, for the message.
      student: from images to logits.
      teachers: role -> model.
      roles: those that the distiller needs.
      extra_classes: logits that the student has beyond the teachers'.

    Raises:
      ValueError: a model that is not functional, a student with losses of its own, other roles, or
        other classes or image sizes than the student's.
    """
    for role, model in {"student": student, **teachers}.items():
        if not isinstance(model, keras.Model) or not hasattr(model, "output_shape"):
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
            if tuple(ours[1:]) != tuple(theirs[1:]):
                raise ValueError(
                    f"{name}: teacher {role!r} has {what} of shape {tuple(theirs[1:])}, the "
                    f"student {tuple(ours[1:])}; teach on the same data set."
                )
