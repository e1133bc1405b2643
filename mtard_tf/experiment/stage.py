"""A stage: one student, one distiller, teachers that are earlier stages or model files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gin
import keras

from mtard_tf.attacks.pgd import PGD
from mtard_tf.data.batches import steps_per_epoch
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.distiller.averaging import EMA, SWA
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.distiller.weight_perturbation import WeightPerturbation
from mtard_tf.experiment import stage_checks
from mtard_tf.experiment.sources import default_teachers
from mtard_tf.models.global_state import seeded
from mtard_tf.models.precision import resolved, synchronize_batch_norm, with_precision
from mtard_tf.optimizers import sgd
from mtard_tf.schedules import CONSTANT, Schedule, ScheduledRate, StepDecay
from mtard_tf.threat import ThreatModel, radius


@dataclasses.dataclass(frozen=True)
class Stage:
    """How one student is trained. Defaults are those of the MTARD papers where they have one.

    Attributes:
      name: the stage's folder, and what later stages call it.
      distiller: factory of the distiller, such as `@distillers.bmtard`.
      model: factory of the student, such as `@models.resnet18`.
      teachers: role -> name of an earlier stage, or path of a `.keras` file or SavedModel; a path
        ends in `.keras` or has a "/". Empty: the stages of
        `sources.TEACHER_STAGES` for the roles that the distiller declares.
      epochs: passes over the training split.
      batch_size: global batch size; the last batch of an epoch may be smaller.
      augmentation: "none", "crop_flip", "crop_shift", "idbh_weak" or "idbh_strong"; or the epoch
        from which each holds, counted from 0: {0: "crop_flip", 30: "idbh_strong"}. None for the
        data set's own.
      extra: factory of further images, such as `@datasets.npz`, that fill a share of every batch;
        of a data set its training split. An epoch has as many batches as without them.
      extra_share: of a batch, above 0 and below 1; `int(batch_size * extra_share)` images.
      extra_labels: role of the teacher, maybe for this alone, whose top class labels them; or None.
      optimizer: factory, such as `@optimizers.sgd`, given the scheduled learning rate.
      learning_rate: its base value.
      learning_rate_schedule: factor by epoch.
      rate_schedule: factor on balance rates by epoch; None follows the learning rate, as the
        official code does.
      epsilon_schedule: factor on the attack's epsilon by epoch.
      step_size_schedule: factor on the attack's step size by epoch, beside that of epsilon.
      epsilon: radius in training, [0, 1] pixel units, or text, "8/255"; None: the experiment's.
      validation_attack: measures robustness on the validation split; None for clean accuracy only.
      validate_every: epochs between two validations.
      validation_examples: at most this many validation images; None for all.
      patience: validations without a better W-Robust after which it ends; None for never.
      select: "best" validation W-Robust, or "last", becomes `student.keras`.
      initial: name of an earlier stage, or path, whose weights the student starts from.
      weight_perturbation: gamma of adversarial weight perturbation (AWP); 0 for none.
      weight_perturbation_start: epochs before it begins.
      gradient_matching: weight in the last epoch of a term by which the student learns the
        gradients of its teacher "robust" (IGDM); in epoch e it is e / `epochs` of that. 0 for none.
      averaging: `@averaging.EMA()` or `SWA()`: the average is validated and becomes
        `student.keras`. None for the student itself.
      precision: "float32", "mixed_bfloat16" or "mixed_float16" (with loss scaling), of student,
        teachers and attack, not of losses and `student.keras`; "auto": bfloat16 where it is native.
      attack_precision: of the student while it is attacked, as above; None for `precision`.
      quantization: "int8": trained and attacked as its int8 file computes; or None.
      gradient_accumulation_steps: batches whose gradients make one step of the optimizer; a divisor
        of the stage's batches.
      steps_per_execution: steps of one call of the compiled function; records, guards and
        checkpoints see the last one only.
      jit_compile: whether XLA compiles the step, if its result stays the same, see
        `compiled_step.choose`; None: on one GPU.
      attack_shards: parts of a batch that are attacked side by side, see `TrainingContext`.
      synchronized_batch_norm: BatchNorm takes its statistics over all replicas.
      on_non_finite: "stop" at, or "skip", a step whose loss or gradient is not finite.
      on_overfitting: "stop", or "restart" from the best state, where accuracy falls by 0.2 and
        FGSM's does not; or "ignore".
      checkpoint_every: steps between two checkpoints, beside the one after each epoch.
      keep_checkpoints: how many are kept.
      scope: gin scope that configures it; empty for the name. Replicates share one.
      sweep: (temperature, assistants before it) in the tables of a `temperature_sweep`.

    Raises:
      ValueError: a number outside its range, or an unknown choice.
    """

    name: str
    distiller: Callable
    model: Callable
    teachers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    epochs: int = 300
    batch_size: int = 128
    augmentation: str | Mapping[int, str] | None = None
    extra: Callable[[], ImageData | Split] | None = None
    extra_share: float = 0.7
    extra_labels: str | None = None
    optimizer: Callable = sgd
    learning_rate: float = 0.1
    learning_rate_schedule: Schedule = StepDecay()
    rate_schedule: Schedule | None = None
    epsilon_schedule: Schedule = CONSTANT
    step_size_schedule: Schedule = CONSTANT
    epsilon: float | str | None = None
    validation_attack: Callable | None = PGD(num_steps=10)
    validate_every: int = 1
    validation_examples: int | None = None
    patience: int | None = None
    select: str = "best"
    initial: str | None = None
    weight_perturbation: float = 0.0
    weight_perturbation_start: int = 0
    gradient_matching: float = 0.0
    averaging: EMA | SWA | None = None
    precision: str = "float32"
    attack_precision: str | None = None
    quantization: str | None = None
    gradient_accumulation_steps: int = 1
    steps_per_execution: int = 1
    jit_compile: bool | None = None
    attack_shards: int | None = None
    synchronized_batch_norm: bool = False
    on_non_finite: str = "stop"
    on_overfitting: str = "ignore"
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    scope: str = ""
    sweep: tuple[float, int] | None = None

    def __post_init__(self) -> None:
        if not self.scope:
            object.__setattr__(self, "scope", self.name)
        if not self.teachers:
            object.__setattr__(self, "teachers", default_teachers(self.distiller))
        stage_checks.check(self)

    @property
    def sources(self) -> tuple[str, ...]:
        """Earlier stages, or paths, that this one needs."""
        return (*self.teachers.values(), *([self.initial] if self.initial else []))

    @property
    def policy(self) -> str:
        """The dtype policy that `precision` means on this device."""
        return resolved(self.precision)

    @property
    def attack_policy(self) -> str:
        """The dtype policy that `attack_precision` means on this device."""
        return resolved(self.attack_precision or self.precision)

    def augmented(self, data: ImageData, epoch: int) -> ImageData:
        """The experiment's set with the augmentation that this stage has in an epoch, from 0.

        Raises:
          DataError: an augmentation that its images do not suit.
        """
        if self.augmentation is None:
            return data
        by_epoch = self.augmentation
        if isinstance(by_epoch, Mapping):
            by_epoch = by_epoch[max(start for start in by_epoch if start <= epoch)]
        return dataclasses.replace(data, augmentation=by_epoch)

    def threat(self, threat: ThreatModel) -> ThreatModel:
        """The threat model of this stage's training."""
        if self.epsilon is None:
            return threat
        what = f"{self.scope}/Stage.epsilon"
        return dataclasses.replace(threat, epsilon=radius(self.epsilon, what, threat.norm))

    def build(
        self,
        data: ImageData,
        teachers: Mapping[str, keras.Model],
        threat: ThreatModel,
        seed: int,
        check: Callable[[Any], None] | None = None,
    ) -> keras.Model:
        """The compiled distiller with a new student.

        Factories run in the stage's gin scope. `check` is given the student first, and may draw
        random numbers: not for a training.
        """
        steps = steps_per_epoch(len(data.train), self.batch_size)
        # Keras asks it with its count of batches, accumulated or not.
        rate = ScheduledRate(self.learning_rate, self.learning_rate_schedule, steps)
        stage_checks.check_rate(self, rate)
        with seeded(seed), gin.config_scope(self.scope):
            student = self.model(data.image_shape, data.num_classes)
            if check is not None:
                check(student)
            distiller = self.distiller(
                self._prepared(student),
                {role: with_precision(t, self.policy) for role, t in teachers.items()},
                context=self._context(threat, steps, seed),
            )
            optimizer = self.optimizer(rate)
            stage_checks.check_devices(self)
            stage_checks.check_optimizer(self, optimizer, self.epochs * steps)
            if self.gradient_accumulation_steps > 1:
                optimizer.gradient_accumulation_steps = self.gradient_accumulation_steps
            if self.policy == "mixed_float16":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            optimizer.build(distiller.trained_variables)
            distiller.compile(  # `compiled_step.choose` may have it compiled by XLA
                optimizer,
                jit_compile=False,
                auto_scale_loss=False,
                steps_per_execution=self.steps_per_execution,
            )
        return distiller

    def _context(self, threat: ThreatModel, steps: int, seed: int) -> TrainingContext:
        """The context of the distiller, from the experiment's threat model and steps per epoch."""
        gamma, start = self.weight_perturbation, self.weight_perturbation_start
        perturbation = WeightPerturbation(gamma, start) if gamma else None
        return TrainingContext(
            threat=self.threat(threat),
            epsilon_schedule=self.epsilon_schedule,
            step_size_schedule=self.step_size_schedule,
            rate_schedule=self.rate_schedule or self.learning_rate_schedule,
            epochs=self.epochs,
            steps_per_epoch=steps,
            seed=seed,
            attack_precision=None if self.attack_policy == self.policy else self.attack_policy,
            quantization=self.quantization,
            attack_shards=self.attack_shards,
            skip_non_finite=self.on_non_finite == "skip",
            weight_perturbation=perturbation,
            gradient_matching=self.gradient_matching,
            averaging=self.averaging,
            labeller=self.extra_labels,
        )

    def _prepared(self, student: keras.Model) -> keras.Model:
        if self.synchronized_batch_norm:
            synchronize_batch_norm(student)
        return with_precision(student, self.policy)
