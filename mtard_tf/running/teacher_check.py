"""Measures the teachers of a stage before its student learns from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtard_tf.auditing.chance import at_chance, below_chance, largest_share
from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.distiller.distiller import Distiller
from mtard_tf.experiment.stage import Stage

# Enough to tell classes in another order from a bad teacher; a large one takes a minute for them.
EXAMPLES = 256
_BATCH = 64


class TeacherError(ValueError):
    """A teacher that cannot be learned from. The message is one line."""


def check_teachers(
    stage: Stage, distiller: Distiller, data: ImageData, say: Callable[[str], None]
) -> dict[str, dict]:
    """Measures each teacher, in the stage's precision, on at most `EXAMPLES` validation images.

    They are spread evenly over the split, and not attacked.

    Args:
      stage: which names them.
      distiller: with its teachers.
      data: its validation split is read.
      say: is given one line for each teacher that is worse than guessing, as one with its classes
        in another order is, or no better than always predicting the largest class; and the
        distiller's line about a student that starts from one of them.

    Returns:
      role -> `validation_clean`, of how many `examples`, and whether it is `at_chance`.

    Raises:
      TeacherError: logits that are not finite.
    """
    found: dict[str, dict] = {}
    split = _spread(data.validation)
    share = largest_share(split.labels)
    for role, source in stage.teachers.items():
        who = f"teacher {role!r} ({source})"
        right = _right(stage, distiller, role, split, who)
        accuracy, weak = right / len(split), at_chance(right, len(split), share)
        found[role] = {"validation_clean": accuracy, "examples": len(split), "at_chance": weak}
        line = f"{who} gets {accuracy:.1%} of {len(split)} validation images right"
        if below_chance(right, len(split), data.num_classes):
            say(
                f"{line}, fewer than by guessing ({1 / data.num_classes:.1%}): its classes may be "
                "in another order than the data set's, or its images on another scale; mend the "
                "file, or name another one in Stage.teachers."
            )
        elif weak:
            say(
                f"{line}, no more than by always naming the largest class ({share:.1%}): the "
                "student will learn nothing from it."
            )
    copied = [role for role, source in stage.teachers.items() if source == stage.initial]
    if said := distiller.said_at_start(copied):
        say(said)
    return found


def _right(stage: Stage, distiller: Distiller, role: str, split: Split, who: str) -> int:
    right = broken = 0
    ask = distiller.teachers.fn(role)
    for images, labels, _ in evaluation_batches(split, _BATCH):
        logits = ask(images).numpy()
        broken += int((~np.isfinite(logits)).any(axis=1).sum())
        right += int((logits.argmax(axis=1) == labels.numpy()).sum())
    if broken:
        advice = "look at its weights, or name another one in Stage.teachers"
        if stage.policy != "float32":
            advice = f"set {stage.scope}/Stage.precision = 'float32', or {advice}"
        raise TeacherError(
            f"{stage.name}: {who} returns logits that are not finite in {stage.policy} on "
            f"{broken} of {len(split)} validation images; {advice}."
        )
    return right


def _spread(split: Split) -> Split:
    count = min(EXAMPLES, len(split))
    return split.take(np.arange(count) * len(split) // count)
