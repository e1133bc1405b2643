"""The base of all attacks: their call, what it checks, and the problem that it hands on."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import tensorflow as tf

from mtard_tf.attacks import geometry
from mtard_tf.threat import ThreatModel

ModelFn = Callable[[tf.Tensor], tf.Tensor]
Objective = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_IMAGES = "float32 [batch, height, width, channels]"


class Problem(NamedTuple):
    """What one call of an attack is given; see the package docstring.

    Attributes:
      model_fn: images -> logits `[batch, classes]`.
      images: clean, float32 in [0, 1], `[batch, height, width, channels]`.
      labels: integer class ids, `[batch]`.
      threat: ball and box.
      seeds: int32 `[batch, 2]`, one per image.
      objective: (images, float32 logits) -> `[batch]`, maximised in place of the attack's own loss;
        None for the attack's own.
    """

    model_fn: ModelFn
    images: tf.Tensor
    labels: tf.Tensor
    threat: ThreatModel
    seeds: tf.Tensor
    objective: Objective | None = None

    def checked(self, asked: str) -> Problem:
        """The same with tensors, if images, labels and seeds have the shapes and types above.

        Args:
          asked: the attack or measure, for the message.

        Raises:
          ValueError: another shape or type.
        """
        images, labels, seeds = map(tf.convert_to_tensor, (self.images, self.labels, self.seeds))
        batch = images.shape[0] if images.shape.rank else None
        for name, given, typed, shape, wanted in (
            ("images", images, images.dtype == tf.float32, [batch, None, None, None], _IMAGES),
            ("labels", labels, labels.dtype.is_integer, [batch], "integers [batch]"),
            ("seeds", seeds, seeds.dtype == tf.int32, [batch, 2], "int32 [batch, 2]"),
        ):
            if not (typed and given.shape.is_compatible_with(shape)):
                raise ValueError(
                    f"{asked}: {name} are {given.dtype.name} {given.shape}; give {wanted}."
                )
        return self._replace(images=images, labels=labels, seeds=seeds)

    def solved_by(self, attack: Callable[..., tf.Tensor]) -> tf.Tensor:
        """Perturbed images of another attack: any callable, see the package docstring."""
        model_fn, images, labels, threat, seeds, objective = self
        return attack(model_fn, images, labels, threat=threat, seeds=seeds, objective=objective)


class Attack(abc.ABC):
    """Base of an attack: its fields are settings, and `run` is its algorithm.

    Attributes:
      fixed_loss: for an attack whose loss is its own, why it takes no objective, as in "Square
        searches on the margin"; empty where an objective replaces the loss.
      stops_early: whether an image is left as soon as it is misclassified, so on the boundary: on
        another net, or rounded, it comes back unless it is pushed on (see `attacks.pushed`).
    """

    fixed_loss: ClassVar[str] = ""
    stops_early: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """What it uses: "gradient", "single_step", "black_box" (no gradient) or "ensemble"."""
        return "gradient"

    def __call__(
        self,
        model_fn: ModelFn,
        images: tf.Tensor,
        labels: tf.Tensor,
        *,
        threat: ThreatModel,
        seeds: tf.Tensor,
        objective: Objective | None = None,
    ) -> tf.Tensor:
        """Perturbed images, float32, shaped like `images`; see the package docstring.

        Raises:
          ValueError: an objective where the loss is fixed; images, labels or seeds of another shape
            or type.
        """
        if objective is not None and self.fixed_loss:
            raise ValueError(f"{self.fixed_loss}; give no objective (PGD and APGD take one).")
        problem = Problem(model_fn, images, labels, threat, seeds, objective)
        return tf.stop_gradient(self.run(problem.checked(type(self).__name__)))

    @abc.abstractmethod
    def run(self, problem: Problem) -> tf.Tensor:
        """Perturbed images, shaped like `problem.images`; the caller checks ball and box."""


def kind_of(attack: Callable) -> str:
    """`Attack.kind`, or the attribute `kind` of any other callable; "gradient" without one."""
    return getattr(attack, "kind", "gradient")


class MinimalAttack(Attack):
    """Base of an attack that looks for the smallest change, whatever epsilon is.

    What is not broken within epsilon comes back unchanged.
    """

    stops_early = True

    def run(self, problem: Problem) -> tf.Tensor:
        """The images that `minimal` finds where they lie in the ball, the clean ones elsewhere."""
        return geometry.only_inside(self.minimal(problem), problem.images, problem.threat)

    @abc.abstractmethod
    def minimal(self, problem: Problem) -> tf.Tensor:
        """The same without the ball: of the threat model, only the norm and the box are used."""


def require_at_least_one(settings: object, *fields: str) -> None:
    """Raises `ValueError`, naming the field, where one of them is below 1."""
    _require(settings, fields, lambda value: value >= 1, "at least 1")


def require_above_zero(settings: object, *fields: str) -> None:
    """Raises `ValueError`, naming the field, where one of them is not above 0."""
    _require(settings, fields, lambda value: value > 0, "a number above 0")


def _require(settings: object, fields: tuple[str, ...], holds: Callable, wanted: str) -> None:
    for field in fields:
        value = getattr(settings, field)
        if not holds(value):
            raise ValueError(f"{type(settings).__name__}.{field} is {value}; give {wanted}.")
