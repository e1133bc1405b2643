"""The 8-bit row of an audit: what is left of its attacks once their images are what a server takes.

The attacks' own images are rounded to whole levels inside the ball, at floor(255 epsilon) / 255 in
Linf, and predicted as the uint8 signature of an export does. Where an attack broke an image and
rounding brought it back, it is pushed on first (`attacks.pushed`): what stopped on the boundary
of the decision would come back in tens, and say nothing of robustness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from mtard_tf.attacks import levels, pushed
from mtard_tf.attacks.attack import Problem
from mtard_tf.auditing import accuracies
from mtard_tf.auditing.batch_results import BatchRunner
from mtard_tf.auditing.compiled import SIZES
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.auditing.suite import Suite
from mtard_tf.data.batches import to_float
from mtard_tf.files import digest
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.runtimes.artefact import Artefact
from mtard_tf.threat import ThreatModel

NAME = "eight_bit"


def after_all(
    runner: BatchRunner, suite: Suite, attacks: Mapping[str, Callable], crafted_on: str | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Which images are correct, "clean" and after each attack and ensemble; bool `[examples]`.

    The second is the same on images of whole levels.

    Args:
      runner: of the audit.
      suite: whose ensembles are counted, and whose transfer attacks are named by their settings.
      attacks: by name, in the order in which they run.
      crafted_on: fingerprint of the surrogate.

    Raises:
      EvaluationError: an attack failed; the message names it.
    """
    correct = {"clean": runner.clean()}
    rounded = dict(correct)
    for name, attack in attacks.items():
        label = repr(attack)
        if name in suite.transfer:  # a surrogate prints as an address; its weights say what it is
            label = digest(f"{attack.attack!r} {crafted_on}")  # type: ignore[attr-defined]
        try:
            correct[name], rounded[name] = attacked(runner, name, attack, label)
        except EvaluationError as error:
            raise EvaluationError(
                f"The attack {name} failed: {error} Leave it out with --skip={name}."
            ) from error
    for name, members in suite.ensembles.items():
        for found in (correct, rounded):
            found[name] = accuracies.worst_case({key: found[key] for key in members})
    return correct, rounded


def attacked(
    runner: BatchRunner, key: str, attack: Callable, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which images are correct after an attack, and after it on whole levels: bool `[examples]`.

    Args:
      runner: of the audit.
      key: name of the result.
      attack: see `mtard_tf.attacks`.
      label: what the result depends on.
    """
    clean = runner.predictions()

    def compute(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> np.ndarray:
        return outcomes(runner.evaluator, attack, images, labels, ids, clean[ids.numpy()])

    # Both in one result: the images are not kept, and would have to be crafted again.
    both = runner.run(key, digest(label, NAME), compute, shape=(2,))
    return both[:, 0], both[:, 1]


def outcomes(
    evaluator: Evaluator,
    attack: Callable,
    images: tf.Tensor,
    labels: tf.Tensor,
    ids: tf.Tensor,
    clean: np.ndarray,
) -> np.ndarray:
    """Which images of one batch are correct after `attack`, in float and in 8 bits.

    Args:
      evaluator: of the model, whose images are of whole levels.
      attack: see `mtard_tf.attacks`.
      images: float32, uint8 divided by 255, `[batch, height, width, channels]`.
      labels: int32 `[batch]`.
      ids: int64 `[batch]`, which fix each image's random numbers.
      clean: predictions on the clean images, `[batch]`; wrong ones are not attacked.

    Returns:
      bool `[batch, 2]`.

    Raises:
      EvaluationError: the attack left ball or box.
    """
    known = np.asarray(labels)
    result = np.repeat((clean == known)[:, np.newaxis], 2, axis=1)
    chosen = np.flatnonzero(clean == known)
    if len(chosen) and evaluator.threat.epsilon != 0:
        images, labels, ids = (tf.gather(tensor, chosen) for tensor in (images, labels, ids))
        found = evaluator.perturb(attack, images, labels, ids)
        result[chosen, 0] = evaluator.predictions(found) == known[chosen]
        broken = ~result[chosen, 0]
        _, result[chosen, 1] = on_levels(evaluator, found, images, labels, ids, broken)
    return result


def on_levels(
    evaluator: Evaluator,
    found: tf.Tensor,
    images: tf.Tensor,
    labels: tf.Tensor,
    ids: tf.Tensor,
    broken: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """An attack's images as uint8, inside the ball, and which of them the model gets right.

    Those that come back are pushed on.

    Args:
      evaluator: of the model.
      found: the attack's images, float32 `[batch, height, width, channels]`.
      images: the clean ones, of whole levels.
      labels: int32 `[batch]`.
      ids: int64 `[batch]`.
      broken: which of `found` the model gets wrong, bool `[batch]`.

    Raises:
      EvaluationError: clean images that are not of whole levels, or a rounded one outside the ball.
    """
    threat, clean = evaluator.threat, np.rint(levels.WHITE * np.asarray(images))
    if np.abs(levels.WHITE * np.asarray(images) - clean).max() > 1e-3:
        raise EvaluationError("The images are not of 8 bits; give uint8 divided by 255.")
    rounded = levels.inside(found, images, threat).numpy().astype(np.uint8)
    right = evaluator.correct(to_float(rounded), labels)
    back = np.flatnonzero(broken & right)
    if len(back) and not isinstance(evaluator.model, Artefact):  # no gradient to follow
        parts = [tf.gather(tensor, back) for tensor in (images, labels, ids, found)]
        pushed_on = _pushed(evaluator, *parts).numpy()
        rounded[back] = np.rint(levels.WHITE * pushed_on).astype(np.uint8)
        right[back] = evaluator.correct(to_float(rounded[back]), parts[1])
    left = levels.outside(rounded, clean.astype(np.uint8), threat)
    if left.any():
        raise EvaluationError(
            f"{int(left.sum())} rounded images are outside the ball ({threat.norm}, epsilon "
            f"{threat.epsilon:.6g}); none is counted."
        )
    return rounded, right


def _pushed(
    evaluator: Evaluator, images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor, found: tf.Tensor
) -> tf.Tensor:
    def run(
        model_fn: Callable,
        images: tf.Tensor,
        labels: tf.Tensor,
        seeds: tf.Tensor,
        found: tf.Tensor,
    ) -> tf.Tensor:
        problem = Problem(model_fn, images, labels, evaluator.threat, seeds)
        return pushed.push(problem, found, on_levels=True)

    count = len(labels)
    rows = np.pad(np.arange(count), (0, -count % SIZES), mode="edge")
    padded = (tf.gather(tensor, rows) for tensor in (images, labels, ids, found))
    return evaluator.compiled.run((pushed.push, NAME), run, *padded)[:count]


def entry(
    correct: Mapping[str, np.ndarray],
    rounded: Mapping[str, np.ndarray],
    threat: ThreatModel,
    seed: int,
) -> dict:
    """What a report says of the row: as `worst_case`, and which images differ from it.

    Args:
      correct: "clean" and each attack and ensemble -> which images are correct, bool `[images]`.
      rounded: the same on whole levels.
      threat: of the audit.
      seed: of the intervals.

    Returns:
      The numbers of the worst case over the rounded images; `levels`, those of a Linf radius, or
      None; `come_back` and `fall_only_here`, how many images the worst case breaks and this does
      not, and the other way round; the three of each attack in `attacks`.
    """
    return {
        **accuracies.summarise(rounded, seed)["worst_case"],
        "levels": levels.whole(threat) if threat.norm == "linf" else None,
        **_changes(accuracies.worst_case(correct), accuracies.worst_case(rounded)),
        "attacks": {
            name: {
                "robust_accuracy": float(after.mean()),
                **_changes(correct[name], after),
            }
            for name, after in rounded.items()
            if name != "clean"
        },
    }


def arrays(rounded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outcomes on whole levels under names that no attack has, for `examples.npz`."""
    return {f"{NAME}/{name}": after for name, after in rounded.items() if name != "clean"}


def _changes(before: np.ndarray, after: np.ndarray) -> dict[str, int]:
    return {
        "come_back": int((after & ~before).sum()),
        "fall_only_here": int((before & ~after).sum()),
    }
