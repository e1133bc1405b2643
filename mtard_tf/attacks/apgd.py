"""Auto-PGD: projected gradient descent that sets its own step size, Linf and L2."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import apgd_run, shrinking_batches
from mtard_tf.attacks.attack import Attack, Problem, require_at_least_one

LOSSES = ("ce", "dlr", "dlr_targeted", "margin")
LEAST_CLASSES = {"dlr": 3, "dlr_targeted": 4}


@dataclasses.dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD (Croce and Hein, ICML 2020, arXiv 2003.01690, algorithm 1).

        z = project(x_k + step * direction(grad))
        x_(k+1) = project(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_(k-1)))

    The step starts at 2 epsilon. At each checkpoint it is halved, and the image goes back to its
    best point, if fewer than `rho` of the steps since the last one raised the loss, or if neither
    the step nor the best loss changed. The start lies on the boundary of the ball. An image leaves
    the batch at the step that breaks it.

    Attributes:
      loss: "ce", "margin" (max other - z_label), "dlr" or "dlr_targeted" (one round
        for each of the `num_targets` likeliest wrong classes, or all of them if there are fewer).
      num_steps: gradient steps of each round.
      restarts: rounds (for each target class), each on the images that are not broken yet.
      num_targets: target classes of "dlr_targeted".
      rho: share of rising steps below which the step is halved.
      eot_samples: model calls whose gradients and logits are averaged at each step, for models
        that draw random numbers (expectation over transformation).

    Raises:
      ValueError: an unknown loss or a number below 1; when called, fewer classes than the loss
        needs.
    """

    stops_early = True

    loss: str = "ce"
    num_steps: int = 100
    restarts: int = 1
    num_targets: int = 9
    rho: float = 0.75
    eot_samples: int = 1

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(
                f"{type(self).__name__}.loss is {self.loss!r}; use one of {', '.join(LOSSES)}."
            )
        require_at_least_one(self, "num_steps", "restarts", "num_targets", "eot_samples")

    def run(self, problem: Problem) -> tf.Tensor:
        logits, targets = problem.model_fn(problem.images), 1
        likely = shrinking_batches.wrong_classes(logits, problem.labels)
        if problem.objective is None and self.loss in LEAST_CLASSES:
            losses.require_classes(self.loss, logits, LEAST_CLASSES[self.loss])
            if self.loss == "dlr_targeted":
                targets = min(self.num_targets, logits.shape[-1] - 1)
        run = apgd_run.Run(problem, self.loss, self.num_steps, self.rho, self.eot_samples)

        def single(
            i: tf.Tensor, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, ranking: tf.Tensor
        ) -> tuple:
            return run(images, labels, ranking[:, i % targets], seeds)

        return shrinking_batches.run_rounds(
            single, problem, logits, rounds=self.restarts * targets, extra=likely
        )


class APGDCrossEntropy(APGD):
    """APGD on the cross-entropy: `apgd_ce`."""

    def __init__(self, num_steps: int = 100, restarts: int = 1, eot_samples: int = 1) -> None:
        super().__init__("ce", num_steps, restarts, eot_samples=eot_samples)


class APGDMargin(APGD):
    """APGD on the margin max other - z_label, which two classes have as well: `apgd_margin`."""

    def __init__(self, num_steps: int = 100, restarts: int = 1, eot_samples: int = 1) -> None:
        super().__init__("margin", num_steps, restarts, eot_samples=eot_samples)


class APGDDLR(APGD):
    """APGD on the untargeted difference of logits ratio: `apgd_dlr`."""

    def __init__(self, num_steps: int = 100, restarts: int = 1, eot_samples: int = 1) -> None:
        super().__init__("dlr", num_steps, restarts, eot_samples=eot_samples)


class APGDTargeted(APGD):
    """APGD on the targeted difference of logits ratio, target by target: `apgd_t`."""

    def __init__(self, num_steps: int = 100, restarts: int = 1, num_targets: int = 9) -> None:
        super().__init__("dlr_targeted", num_steps, restarts, num_targets)


def stand_in(name: str, attack: APGD, classes: int) -> tuple[str, APGD]:
    """An attack under its name, or what goes in its place for too few classes.

    The targeted DLR needs 4 classes, the untargeted one 3: with 3 it is `apgd_dlr`, with 2 it is
    `apgd_margin`. Steps, restarts and samples stay.
    """
    if classes >= LEAST_CLASSES.get(attack.loss, 2):
        return name, attack
    settings = attack.num_steps, attack.restarts, attack.eot_samples
    if classes >= LEAST_CLASSES["dlr"]:
        return "apgd_dlr", APGDDLR(*settings)
    return "apgd_margin", APGDMargin(*settings)
