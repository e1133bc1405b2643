"""How fit a robust teacher is to teach, measured before a student learns from it.

A stronger robust teacher can make a worse student, so that its own accuracy is not enough. The
authors of arXiv 2605.21999 (ICML 2026) look at the images that adversarially trained nets of the
student's size lose: a teacher that is unsure there teaches better, they report. Here those are what
one small *reference* student loses, and two figures use it: whether a teacher withstands the
attacks on it, and how unsure the teacher is about the images that it loses.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
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
from mtard_tf.reporting.tables import Table
from mtard_tf.running.teacher_check import FITNESS, Fitness, known_fitness
from mtard_tf.threat import ThreatModel

_NOTES = """\
Validation images, entropies in nats. A robust teacher that is more accurate need not teach better.
The paper behind the columns of the reference (arXiv 2605.21999) reports that a teacher should be
unsure about the images that small robust students lose; docs/teachers.md has what was measured."""
_ATTACK = PGD(num_steps=20, relative_step_size=0.25)


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


def robust_sources(stages: Sequence[Stage]) -> list[str]:
    """What the robust teachers of stages are called, stages or paths, each once, in order."""
    named = [s for stage in stages for role, s in stage.teachers.items() if role == "robust"]
    return list(dict.fromkeys(named))


def keep(run_dir: pathlib.Path, digests: Mapping[str, str], found: Mapping[str, Fitness]) -> None:
    """Writes `teachers.json`: the fingerprint of each teacher's file -> its fitness.

    Those of files that were measured earlier stay.
    """
    known = known_fitness(run_dir)
    known |= {digests[name]: dataclasses.asdict(fitness) for name, fitness in found.items()}
    files.write_json(run_dir / FITNESS, {"teachers": known})


def markdown(found: Mapping[str, Fitness]) -> str:
    """The table of the teachers, and what is known about its columns."""
    header = ["teacher", "clean", "PGD-20", "entropy", "on the reference's attacks"]
    header += ["entropy on what it loses", "images"]
    cells = []
    for name, fitness in found.items():
        shares = [_number(v, ".1%") for v in (fitness.clean, fitness.robust)]
        proxies = [_number(fitness.transferred, ".1%"), _number(fitness.entropy_lost, ".2f")]
        cells.append([name, *shares, _number(fitness.entropy, ".2f"), *proxies])
        cells[-1].append(f"{fitness.examples:,}")
    return "\n".join([*Table(header, cells).markdown(), "", _NOTES])


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
