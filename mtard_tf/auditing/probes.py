"""Short attacks and measurements on a few images, for the diagnostics to compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.attacks.square import Square
from mtard_tf.attacks.tempered import AtTemperature
from mtard_tf.auditing.batch_results import BatchRunner
from mtard_tf.auditing.suite import Attack, Suite
from mtard_tf.data.batches import to_float
from mtard_tf.files import digest

# Mean gap of the two largest logits that leaves the softmax a gradient to follow.
READABLE_GAP = 4.0


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What the model says, and what it should.

    Attributes:
      clean: predictions on all audited images, int `[images]`.
      attacked: those under the suite's probe, int `[examples]` of the first examples.
      labels: of all audited images, int `[images]`.
      names: name of each class that the data have.
      classes: how many the model has.
    """

    clean: np.ndarray
    attacked: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    classes: int


@dataclasses.dataclass(frozen=True)
class Probes:
    """What the checks look at: outcomes bool `[examples]` of the first examples, and measurements.

    Attributes:
      clean: right when clean.
      gradients: largest absolute input gradient of the cross-entropy by image.
      single_step: standing under FGSM.
      iterated: standing under the suite's probe.
      beside: standing under the probe begun beside the image, at x + 0.001 N(0, 1); None if the
        probe is no PGD from a uniform start.
      tempered: standing under the probe on logits / `temperature`; `iterated` if that is 1.
      temperature: max(1, mean gap of the two largest logits / 4).
      black_box: standing under Square, 100 queries.
      saturated: standing under the probe at a radius of half the box, which reaches mid-grey.
      curve: epsilon -> standing under the probe.
      jitter: largest difference between two calls, relative to the largest logit.
      predictions: what all this counts.
      blind: no gradient reaches the images, though the logits depend on them.
    """

    clean: np.ndarray
    gradients: np.ndarray
    single_step: np.ndarray
    iterated: np.ndarray
    beside: np.ndarray | None
    tempered: np.ndarray
    temperature: float
    black_box: np.ndarray
    saturated: np.ndarray
    curve: Mapping[float, np.ndarray]
    jitter: float
    predictions: Predictions
    blind: bool = False

    @property
    def examples(self) -> int:
        """How many images were looked at."""
        return len(self.clean)

    def points(self) -> list[dict[str, float]]:
        """One by epsilon; its worst case counts what a smaller epsilon has broken as well."""
        points, standing = [], self.clean
        for epsilon, outcome in sorted(self.curve.items()):
            standing = standing & outcome
            point = {"epsilon": float(epsilon), "robust_accuracy": float(outcome.mean())}
            points.append(point | {"worst_case": float(standing.mean())})
        return points


def gather(
    runner: BatchRunner,
    suite: Suite,
    outcomes: Mapping[str, np.ndarray],
    names: Sequence[str],
    blind: bool,
) -> Probes:
    """Runs what the checks need, on the first `suite.probe_examples` images.

    Args:
      runner: of the audit.
      suite: with the probe.
      outcomes: of its attacks, which are not run again.
      names: of the classes.
      blind: from `Evaluator.blind`.
    """
    examples = min(suite.probe_examples, runner.examples)
    evaluator, threat = runner.evaluator, runner.evaluator.threat
    classes, gap, jitter = _look(runner, examples)
    predictions = Predictions(
        clean=runner.predictions(),
        # By the suite's own name for it, where it has one: that is compiled already.
        attacked=_attacked(
            runner,
            next((a for a in suite.attacks.values() if a == suite.probe), suite.probe),
            examples,
        ),
        labels=runner.split.labels[: runner.examples],
        names=names,
        classes=classes,
    )
    temperature = float(max(1.0, gap / READABLE_GAP))

    def attacked(key, attack, epsilon=None):
        for name, known in suite.attacks.items():
            if epsilon is None and known == attack:
                return outcomes[name][:examples]
        return runner.attacked(f"probe {key}", attack, examples, epsilon)

    iterated = predictions.attacked == predictions.labels[:examples]
    curve = {0.0: runner.clean()[:examples]}
    for radius in sorted({threat.epsilon * factor for factor in suite.factors} - {0.0}):
        same = np.isclose(radius, threat.epsilon)
        curve[radius] = iterated if same else attacked(f"at {radius:.4g}", suite.probe, radius)
    soft = AtTemperature(suite.probe, temperature)
    return Probes(
        clean=runner.clean()[:examples],
        gradients=runner.run(
            "probe gradients",
            "",
            lambda images, labels, _: evaluator.gradients(images, labels),
            examples,
        ),
        blind=blind,
        single_step=attacked("single step", FGSM()),
        iterated=iterated,
        beside=attacked("beside", begun) if (begun := _beside(suite.probe)) else None,
        tempered=attacked("tempered", soft) if temperature > 1 else iterated,
        temperature=temperature,
        black_box=attacked("black box", Square(num_queries=100, rescale_schedule=True)),
        saturated=attacked("half the box", suite.probe, _saturation(runner)),
        curve=curve,
        jitter=jitter,
        predictions=predictions,
    )


def _attacked(runner: BatchRunner, probe: Attack, examples: int) -> np.ndarray:
    before, evaluator = runner.predictions(), runner.evaluator

    def compute(images, labels, ids):
        clean = before[ids.numpy()]
        return evaluator.attacked_predictions(probe, images, labels, ids, clean)

    return runner.run("probe iterated", digest(probe), compute, examples)


def _beside(probe: Attack) -> PGD | None:
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


def _saturation(runner: BatchRunner) -> float:
    threat = runner.evaluator.threat
    half = (threat.maximum - threat.minimum) / 2
    if threat.norm == "linf":
        return half
    return float(half * np.sqrt(np.prod(runner.split.images.shape[1:])))
