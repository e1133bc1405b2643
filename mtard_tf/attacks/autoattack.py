"""AutoAttack: the parameter-free ensemble, each attack on the images that are not broken yet."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import apgd, shrinking_batches
from mtard_tf.attacks import seeds as random
from mtard_tf.attacks.apgd import APGDDLR, APGDCrossEntropy, APGDTargeted
from mtard_tf.attacks.attack import Attack, Problem
from mtard_tf.attacks.fab import FAB, FABTargeted
from mtard_tf.attacks.square import Square

VERSIONS = ("standard", "plus", "rand")


@dataclasses.dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack (Croce and Hein, ICML 2020, arXiv 2003.01690), one attack after the other.

        standard: apgd_ce, apgd_t, fab_t, square
        plus:     apgd_ce (5 restarts), apgd_dlr (5), fab (5), square, apgd_t, fab_t
        rand:     apgd_ce, apgd_dlr, each step averaged over 20 model calls

    The targeted DLR needs 4 classes, the untargeted 3: with fewer, `apgd_t` becomes `apgd_dlr`, and
    with 2 both become `apgd_margin`, APGD on the margin. That is no published AutoAttack, and an
    audit names it `autoattack_3_classes` or `autoattack_2_classes`.

    Each attack starts from the clean images of those that are not broken yet. The model must give
    raw logits and, but for `rand`, the same answer each time.

    Attributes:
      version: "standard", "plus" or "rand".
      num_steps: steps of APGD and FAB.
      num_queries: queries of Square.

    Raises:
      ValueError: an unknown version.
    """

    fixed_loss = "AutoAttack brings its own losses"
    kind = "ensemble"
    stops_early = True

    version: str = "standard"
    num_steps: int = 100
    num_queries: int = 5000

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise ValueError(
                f"AutoAttack.version is {self.version!r}; use one of {', '.join(VERSIONS)}."
            )

    @property
    def components(self) -> dict[str, Attack]:
        """The attacks by name, in the order in which they run."""
        steps, square = self.num_steps, Square(self.num_queries)
        if self.version == "standard":
            return {
                "apgd_ce": APGDCrossEntropy(steps),
                "apgd_t": APGDTargeted(steps),
                "fab_t": FABTargeted(steps),
                "square": square,
            }
        if self.version == "plus":
            return {
                "apgd_ce": APGDCrossEntropy(steps, restarts=5),
                "apgd_dlr": APGDDLR(steps, restarts=5),
                "fab": FAB(num_steps=steps, restarts=5),
                "square": square,
                "apgd_t": APGDTargeted(steps),
                "fab_t": FABTargeted(steps),
            }
        return {
            "apgd_ce": APGDCrossEntropy(steps, eot_samples=20),
            "apgd_dlr": APGDDLR(steps, eot_samples=20),
        }

    def for_classes(self, classes: int) -> dict[str, Attack]:
        """The attacks for a net of this many classes, by name: `components`, from 4 classes on."""
        chosen: dict[str, Attack] = {}
        for name, attack in self.components.items():
            if isinstance(attack, apgd.APGD):
                name, attack = apgd.stand_in(name, attack, classes)
            chosen.setdefault(name, attack)
        return chosen

    def run(self, problem: Problem) -> tf.Tensor:
        model_fn, images, labels, _, seeds, _ = problem
        best, logits = images, model_fn(images)
        for i, attack in enumerate(self.for_classes(logits.shape[-1]).values()):
            logits = model_fn(best)
            rows = shrinking_batches.rows_where(losses.margin(logits, labels) >= 0)
            clean, own, own_seeds = shrinking_batches.take((images, labels, seeds), rows)
            left = problem._replace(images=clean, labels=own, seeds=random.fold(own_seeds, 100 + i))
            best = shrinking_batches.scatter(best, rows, left.solved_by(attack))
        return best
