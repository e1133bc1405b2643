"""How fit a robust teacher is to teach, measured before a student learns from it.

A stronger robust teacher can make a worse student, so that its own accuracy is not enough. The
authors of arXiv 2605.21999 (ICML 2026) look at the images that adversarially trained nets of the
student's size lose: a teacher that is unsure there teaches better, they report. Here those are what
one small *reference* student loses, and two figures look at it: whether a teacher stands under the
attacks on it, and how unsure the teacher is about the images that it loses.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files, losses
from mtard_tf.attacks.pgd import PGD
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import Split
from mtard_tf.experiment.stage import Stage
from mtard_tf.threat import ThreatModel

FITNESS = "teachers.json"
EXAMPLES = 500
_ATTACK = PGD(num_steps=20, relative_step_size=0.25)


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


@dataclasses.dataclass(frozen=True)
class Attacked:
    """Images of PGD-20 on a reference student, float32 `[n, ...]`, and which it loses, `[n]`."""

    images: np.ndarray
    lost: np.ndarray


def attacked(reference: keras.Model, split: Split, threat: ThreatModel) -> Attacked:
    """Every image of a split attacked on a reference student, those it gets wrong as well.

    Raises:
      EvaluationError: see `Evaluator`.
    """
    evaluator, images, lost = Evaluator(reference, threat), [], []
    for clean, labels, ids in evaluation_batches(split, evaluator.batch_size):
        perturbed = evaluator.perturb(_ATTACK, clean, labels, ids)
        images.append(np.asarray(perturbed))
        lost.append(~evaluator.correct(perturbed, labels))
    return Attacked(np.concatenate(images), np.concatenate(lost))


def measure(
    teacher: keras.Model, split: Split, threat: ThreatModel, on_reference: Attacked | None = None
) -> Fitness:
    """The fitness of one teacher.

    Args:
      teacher: from images to logits.
      split: of validation images; all are used.
      threat: of the experiment.
      on_reference: `attacked(reference, split, threat)`.

    Raises:
      EvaluationError: see `Evaluator`.
    """
    evaluator = Evaluator(teacher, threat)
    batches = list(evaluation_batches(split, evaluator.batch_size))
    entropies = np.concatenate(
        [losses.entropy(tf.constant(evaluator.logits(images))).numpy() for images, _, _ in batches]
    )
    found: dict[str, Any] = {
        "examples": len(split),
        "clean": float(evaluator.clean(split).mean()),
        "robust": float(evaluator.attacked(_ATTACK, split).mean()),
        "entropy": float(entropies.mean()),
    }
    if on_reference is not None:
        size, lost = evaluator.batch_size, on_reference.lost
        right = [
            evaluator.correct(tf.constant(on_reference.images[i * size : (i + 1) * size]), labels)
            for i, (_, labels, _) in enumerate(batches)
        ]
        found["transferred"] = float(np.concatenate(right).mean())
        found["entropy_lost"] = float(entropies[lost].mean()) if lost.any() else None
        found["lost"] = float(lost.mean())
    return Fitness(**found)


def robust_sources(stages: list[Stage]) -> list[str]:
    """What the robust teachers of stages are called, stages or paths, each once, in order."""
    named = [s for stage in stages for role, s in stage.teachers.items() if role == "robust"]
    return list(dict.fromkeys(named))


def keep(run_dir: pathlib.Path, digests: Mapping[str, str], found: Mapping[str, Fitness]) -> None:
    """Writes `teachers.json`: the fingerprint of each teacher's file -> its fitness.

    Those of files that were measured earlier stay.
    """
    known = _kept(run_dir)
    known |= {digests[name]: dataclasses.asdict(fitness) for name, fitness in found.items()}
    files.write_json(run_dir / FITNESS, {"teachers": known})


def note(
    stage: Stage, run_dir: pathlib.Path, digests: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """Says, of each robust teacher of a stage, what `mtard-plan --teachers` has measured of it.

    Args:
      stage: about to be trained.
      run_dir: of the run.
      digests: role -> fingerprint of the teacher's file.
      say: is given one line.
    """
    known = _kept(run_dir) if "robust" in stage.teachers else {}
    measured = known.get(digests.get("robust", ""))
    if measured is not None:
        say(Fitness(**measured).line(f"teacher 'robust' ({stage.teachers['robust']})"))


def _kept(run_dir: pathlib.Path) -> dict[str, dict]:
    """What `keep` wrote; nothing where it is missing, or not what it writes."""
    fields = {field.name for field in dataclasses.fields(Fitness)}
    try:
        known = files.read_json(run_dir / FITNESS)["teachers"]
        numbers = [v for row in known.values() for v in row.values() if v is not None]
        whole = all(set(row) == fields for row in known.values())
        return known if whole and all(map(math.isfinite, numbers)) else {}
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, *_STRANGE):
        return {}


_STRANGE = (TypeError, KeyError, AttributeError)
