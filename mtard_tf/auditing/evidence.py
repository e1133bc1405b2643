"""Evidence for the diagnostics: short attacks and measurements on the first images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.attacks.square import Square
from mtard_tf.attacks.tempered import AtTemperature
from mtard_tf.attacks.transfer import Transfer
from mtard_tf.auditing.batch_results import BatchRunner
from mtard_tf.auditing.suite import Attack, Suite
from mtard_tf.data.batches import to_float
from mtard_tf.files import digest

# Mean gap of the two largest logits that leaves the softmax a gradient to follow.
READABLE_GAP = 4.0


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predicted and true classes.

    Attributes:
      clean: predictions on all audited images, int `[images]`.
      attacked: those under the suite's probe, int `[examples]` of the first examples.
      labels: of all audited images, int `[images]`.
      names: name of each class that the data have.
      classes: how many classes the model has.
    """

    clean: np.ndarray
    attacked: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    classes: int


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the diagnostics compare, on the first examples; bool `[examples]` is "still correct".

    Attributes:
      clean: correct when clean.
      gradients: largest absolute input gradient of the cross-entropy by image; None for a model
        that has none to ask for.
      single_step: after FGSM.
      iterated: after the suite's probe, an iterated gradient attack.
      gaussian_start: after the probe from x + 0.001 N(0, 1); None if the probe is no PGD from a
        uniform start.
      tempered: after the probe on logits / `temperature`; `iterated` if that is 1.
      temperature: max(1, mean gap of the two largest logits / 4).
      black_box: after Square, 100 queries.
      half_box: after the probe with a radius of half the box, which reaches mid-grey.
      curve: epsilon -> after the probe.
      jitter: largest difference between two calls, relative to the largest logit.
      predictions: predicted classes.
      blind: no gradient reaches the images, though the logits depend on them.
    """

    clean: np.ndarray
    gradients: np.ndarray | None
    single_step: np.ndarray
    iterated: np.ndarray
    gaussian_start: np.ndarray | None
    tempered: np.ndarray
    temperature: float
    black_box: np.ndarray
    half_box: np.ndarray
    curve: Mapping[float, np.ndarray]
    jitter: float
    predictions: Predictions
    blind: bool = False

    @property
    def examples(self) -> int:
        """How many images these are."""
        return len(self.clean)

    def points(self) -> list[dict[str, float]]:
        """One by epsilon; its worst case counts what a smaller epsilon has broken as well."""
        points, unbroken = [], self.clean
        for epsilon, correct in sorted(self.curve.items()):
            unbroken = unbroken & correct
            point = {"epsilon": float(epsilon), "robust_accuracy": float(correct.mean())}
            points.append(point | {"worst_case": float(unbroken.mean())})
        return points


def gather(
    runner: BatchRunner,
    suite: Suite,
    correct: Mapping[str, np.ndarray],
    names: Sequence[str],
    blind: bool,
    through: Callable[[Attack], Attack] | None = None,
) -> Evidence:
    """Runs what the diagnostics need, on the first `suite.probe_examples` images.

    Args:
      runner: of the audit.
      suite: with the probe.
      correct: results of its attacks, which are not run again.
      names: of the classes.
      blind: from `Evaluator.blind`.
      through: makes an attack one for a model without gradients, see `indirect`; the suite's probe
        is one already.
    """
    examples = min(suite.probe_examples, runner.examples)
    compiled, labels = runner.evaluator.compiled, runner.split.labels
    classes, gap, jitter = _look(runner, examples)
    temperature = float(max(1.0, gap / READABLE_GAP))
    attacked = _probe_predictions(runner, suite, examples)
    clean, iterated = runner.clean()[:examples], attacked == labels[:examples]
    after = functools.partial(_after, runner, suite, correct, examples)
    gaussian = _from_gaussian(suite.probe)
    single = through(FGSM()) if through else FGSM()
    without = single == suite.probe  # there is no gradient at all
    return Evidence(
        clean=clean,
        gradients=None
        if through
        else runner.run("probe gradients", "", lambda x, y, _: compiled.gradients(x, y), examples),
        single_step=iterated if without else after("single step", single),
        iterated=iterated,
        gaussian_start=after("beside", gaussian) if gaussian else None,
        tempered=after("tempered", _tempered(suite.probe, temperature))
        if temperature > 1 and not without
        else iterated,
        temperature=temperature,
        black_box=after("black box", Square(num_queries=100, rescale_schedule=True)),
        half_box=after("half the box", suite.probe, _half_box(runner)),
        curve=_curve(runner, suite, clean, iterated, after),
        jitter=jitter,
        predictions=Predictions(runner.predictions(), attacked, labels, names, classes),
        blind=blind,
    )


def _after(
    runner: BatchRunner,
    suite: Suite,
    correct: Mapping[str, np.ndarray],
    examples: int,
    key: str,
    attack: Attack,
    epsilon: float | None = None,
) -> np.ndarray:
    """Which of the first images are correct after `attack`; taken from the suite if it has it."""
    for name, known in suite.attacks.items():
        if epsilon is None and known == attack:
            return correct[name][:examples]
    return runner.attacked(f"probe {key}", attack, examples, epsilon)


def _curve(
    runner: BatchRunner, suite: Suite, clean: np.ndarray, iterated: np.ndarray, after: Callable
) -> dict[float, np.ndarray]:
    epsilon, curve = runner.evaluator.threat.epsilon, {0.0: clean}
    for radius in sorted({epsilon * factor for factor in suite.factors} - {0.0}):
        same = np.isclose(radius, epsilon)
        curve[radius] = iterated if same else after(f"at {radius:.4g}", suite.probe, radius)
    return curve


def _probe_predictions(runner: BatchRunner, suite: Suite, examples: int) -> np.ndarray:
    probe = suite.compiled_probe
    clean, evaluator = runner.predictions(), runner.evaluator

    def compute(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> np.ndarray:
        return evaluator.attacked_predictions(probe, images, labels, ids, clean[ids.numpy()])

    return runner.run("probe iterated", digest(probe), compute, examples)


def _tempered(probe: Attack, temperature: float) -> Attack:
    if isinstance(probe, Transfer):  # the net that it follows is not the one that it is given
        return dataclasses.replace(probe, attack=AtTemperature(probe.attack, temperature))
    return AtTemperature(probe, temperature)


def _from_gaussian(probe: Attack) -> PGD | None:
    """PGD from the Gaussian start of TRADES, RSLAD and MTARD, where the probe's is uniform."""
    if type(probe) is not PGD or probe.start != "uniform":
        return None
    return dataclasses.replace(probe, start="gaussian")


def _look(runner: BatchRunner, examples: int) -> tuple[int, float, float]:
    """Number of logits, mean gap of the two largest, and the relative jitter of two calls."""
    images = to_float(runner.split.images[: min(examples, runner.evaluator.batch_size)])
    first, second = (runner.evaluator.logits(images) for _ in range(2))
    ordered = np.sort(first, axis=1)
    jitter = np.abs(first - second).max() / max(np.abs(first).max(), 1e-30)
    gap = np.diff(ordered[:, -2:], axis=1)  # of a single logit there is none
    return first.shape[1], float(gap.mean()) if gap.size else 0.0, float(jitter)


def _half_box(runner: BatchRunner) -> float:
    threat = runner.evaluator.threat
    half = (threat.maximum - threat.minimum) / 2
    if threat.norm == "linf":
        return half
    return float(half * np.sqrt(np.prod(runner.split.images.shape[1:])))
