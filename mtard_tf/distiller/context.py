"""What a stage gives its distiller, as one object: a new option is a new field of it."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtard_tf.attacks import sharding
from mtard_tf.distiller.averaging import EMA, SWA
from mtard_tf.distiller.weight_perturbation import WeightPerturbation
from mtard_tf.schedules import CONSTANT, Schedule
from mtard_tf.threat import ThreatModel


@dataclasses.dataclass(frozen=True)
class TrainingContext:
    """How a distiller trains, whatever its family.

    A family passes it on to `Distiller.__init__` unchanged, so that a field that is added here
    reaches every family and breaks none.

    Attributes:
      threat: ball and box of the adversarial view.
      epsilon_schedule: factor on `threat.epsilon` by epoch; the attack's step scales with it.
      step_size_schedule: factor on the attack's step by epoch, beside that of epsilon.
      rate_schedule: factor on the balance rates by epoch.
      epochs: length of the training, over which what grows with it grows; None: all of it has grown
        from the start.
      steps_per_epoch: length of an epoch of the schedules; None takes it from `fit`.
      seed: of the attack's random starts.
      attack_precision: dtype policy in which the student is attacked; None for its own.
      quantization: "int8" trains the student as its int8 file computes, see `FakeQuantised`; None
        for the student as it is.
      attack_shards: parts of the batch that are attacked side by side. Images are attacked
        independently, so this changes only speed: 2 keep two cores busier than one does. None is
        2 without an accelerator and with two cores or more, else 1.
      skip_non_finite: leave out a step whose loss or gradient is not finite, as if its batch had
        not been there; log `skipped`.
      weight_perturbation: the gradient is taken at perturbed weights; None for the weights
        themselves.
      gradient_matching: weight of the IGDM term at the end, see `GradientMatching`; 0 for none.
      averaging: rule by which `Distiller.averages` follows the student's weights; None for none.
      labeller: role of a teacher that labels extra images, which the family need not have.
    """

    threat: ThreatModel = ThreatModel()
    epsilon_schedule: Schedule = CONSTANT
    step_size_schedule: Schedule = CONSTANT
    rate_schedule: Schedule = CONSTANT
    epochs: int | None = None
    steps_per_epoch: int | None = None
    seed: int = 0
    attack_precision: str | None = None
    quantization: str | None = None
    attack_shards: int | None = None
    skip_non_finite: bool = False
    weight_perturbation: WeightPerturbation | None = None
    gradient_matching: float = 0.0
    averaging: EMA | SWA | None = None
    labeller: str | None = None

    @property
    def shards(self) -> int:
        """`attack_shards`, or this machine's default."""
        return self.attack_shards or sharding.default_shards()

    def growth(self, epoch: tf.Tensor) -> tf.Tensor:
        """Share of the epochs that are over with the current one: 1 / `epochs` in the first."""
        if self.epochs is None:
            return tf.ones([])
        return (tf.floor(epoch) + 1.0) / self.epochs

    def threat_at(self, epoch: tf.Tensor) -> ThreatModel:
        """The threat model at an epoch of `epsilon_schedule`."""
        return self.threat.scaled(self.epsilon_schedule(epoch))
