"""Measures the teachers of a stage before its student learns from them."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable, Mapping

import numpy as np

from mtard_tf import files
from mtard_tf.auditing.chance import at_chance, below_chance, largest_share
from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.distiller.distiller import Distiller
from mtard_tf.experiment.stage import Stage

# Enough to tell classes in another order from a bad teacher; a large one takes a minute for them.
EXAMPLES = 256
_BATCH = 64


# In a run directory: what `mtard-plan --teachers` has measured.
FITNESS = "teachers.json"


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
                "in another order than the data set's, or its images on another scale; fix the "
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


@dataclasses.dataclass(frozen=True)
class Fitness:
    """What a teacher does on validation images; shares of all of them, entropies in nats.

    Attributes:
      examples: how many images.
      clean: accuracy.
      robust: accuracy under PGD-20 on the teacher itself.
      entropy: mean over the clean images, 0 to log(classes).
      transferred: accuracy on the images of PGD-20 on the reference; None without one.
      entropy_lost: mean entropy of the clean images that the reference loses under that attack;
        None without one, or where it loses none.
      lost: the share that it loses.
    """

    examples: int
    clean: float
    robust: float
    entropy: float
    transferred: float | None = None
    entropy_lost: float | None = None
    lost: float | None = None

    def line(self, who: str) -> str:
        """One line about the teacher `who`."""
        said = (
            f"{who}, on {self.examples} validation images: clean {self.clean:.1%}, under PGD-20 "
            f"{self.robust:.1%}, entropy {self.entropy:.2f}"
        )
        if self.transferred is not None:
            said += f"; {self.transferred:.1%} on attacks on the reference student"
        if self.entropy_lost is not None:
            said += f", entropy {self.entropy_lost:.2f} on the {self.lost:.1%} that it loses"
        return said + "."


def note_fitness(stage: Stage, run_dir: pathlib.Path, digests: Mapping[str, str]) -> None:
    """Prints what `mtard-plan --teachers` has measured of the robust teacher of a stage.

    Args:
      stage: about to be trained.
      run_dir: of the run.
      digests: role -> fingerprint of the teacher's file.
    """
    known = known_fitness(run_dir) if "robust" in stage.teachers else {}
    measured = known.get(digests.get("robust", ""))
    if measured is not None:
        who = f"{stage.name}: teacher 'robust' ({stage.teachers['robust']})"
        print(Fitness(**measured).line(who), file=sys.stderr, flush=True)


def known_fitness(run_dir: pathlib.Path) -> dict[str, dict]:
    """What `keep` wrote; nothing where it is missing, or not what it writes."""
    fields = {field.name for field in dataclasses.fields(Fitness)}
    try:
        known = files.read_json(run_dir / FITNESS)["teachers"]
        numbers = [v for row in known.values() for v in row.values() if v is not None]
        whole = all(set(row) == fields for row in known.values())
        return known if whole and all(map(math.isfinite, numbers)) else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


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
