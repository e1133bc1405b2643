"""The distiller: one Keras model, one `train_step`; a family declares what enters it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from mtard_tf.attacks import sharding
from mtard_tf.attacks.pgd import PGD
from mtard_tf.distiller.averaging import EMA, SWA, Averages
from mtard_tf.distiller.fit_data import CheckedFit, with_ids
from mtard_tf.distiller.inner_attack import (
    ATTACK_BATCH_NORM,
    Tensors,
    Views,
    as_float32,
    check_attack,
)
from mtard_tf.distiller.keras_shims import DistributedFit
from mtard_tf.distiller.updates import connected, snapshot, update
from mtard_tf.distiller.weight_perturbation import WeightPerturbation
from mtard_tf.distribute.replicas import (
    average_replicas,
    mean_shares,
    replica_sums,
    replicated_state,
)
from mtard_tf.models.compatibility import check_fit
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.schedules import CONSTANT, Schedule, epoch_of
from mtard_tf.threat import ThreatModel


class Distiller(Views, CheckedFit, DistributedFit, keras.Model):
    """Trains `student` from `teachers` (or from labels alone, with no teacher).

    One step: make the views of the batch (clean, adversarial), ask the teachers, run the student
    on its views in training mode in the declared order, form named per-example terms, weigh
    their means over the global batch, take one gradient, apply. A family declares

    * `student_views`: names of the views that the student is trained on, in order. Each is a
      forward pass of its own, so BatchNorm sees them as separate batches, as the papers' code does;
    * `teacher_views`: role of each teacher -> the view that this teacher sees, or several: the
      logits of one view are named by the role, those of several `<role>_<view>`;
    * `perturb`: how the adversarial view is made (default: the attack on cross-entropy);
    * `further_views`: views made from these two (default: none);
    * `trained_models`, `run_student`: nets that are trained beside the student, and their passes
      (default: none);
    * `terms`: named per-example losses;
    * `term_weights`: fixed weights of terms (default: 1 each), or `weigh`: weights that change, and
      what state moves;
    * `cached_roles`: teachers whose word on the plain training images may come with the batch
      instead of being computed (default: none), and `table`, what that word is (default: logits).

    Teachers run in inference mode outside the tape. They are not changed, not tracked by Keras, and
    not part of a checkpoint.

    Args:
      student: model from images to logits; trained in place.
      teachers: role -> model. The roles must be those of `teacher_views`.
      threat: ball and box of the adversarial view.
      attack: makes the adversarial view; None for none.
      attack_batch_norm: the student's BatchNorm while it is attacked. "inference": the running
        statistics; "batch": the batch's own, the running ones stay; "training": the batch's own,
        and every pass of the attack moves the running ones. The last two attack in one shard.
      epsilon_schedule: factor on `threat.epsilon` by epoch (the attack's step scales with it).
      step_size_schedule: factor on the attack's step by epoch, beside that of epsilon.
      rate_schedule: factor on the balance rates by epoch.
      steps_per_epoch: what an epoch is, for the schedules; None takes it from `fit`.
      seed: seeds the attack's starts.
      attack_shards: parts of the batch that are attacked side by side. Images are attacked
        independently, so this changes only speed: 2 keep two cores busier than one does. None is
        2 without an accelerator and with two cores or more, else 1.
      skip_non_finite: leave a step out whose loss or gradient is not finite, as if its batch had
        not been there; log `skipped`.
      weight_perturbation: where the gradient is taken; None for at the weights themselves.
      averaging: rule by which `averages` follows the student's weights; None for no averages.

    Raises:
      ValueError: the teachers' roles are not those that the family needs, a teacher's classes or
        image size differ from the student's, a mode of BatchNorm that is none, or an attack that is
        missing or has no step to schedule.
    """

    # What divides the student's logits in training; an audit attacks at it as well.
    temperature: float = 1.0
    # Logits of the student beyond the teachers'.
    extra_classes: int = 0

    def __new__(cls, student, teachers=None, **settings):
        """Notes the settings for `get_config`, whatever a family's constructor makes of them."""
        distiller = super().__new__(cls)
        object.__setattr__(distiller, "_settings", settings)  # Keras would track what is in it
        return distiller

    def __init__(
        self,
        student: keras.Model,
        teachers: Mapping[str, keras.Model] | None = None,
        *,
        threat: ThreatModel | None = None,
        attack: Callable | None = None,
        attack_batch_norm: str = "inference",
        epsilon_schedule: Schedule = CONSTANT,
        step_size_schedule: Schedule = CONSTANT,
        rate_schedule: Schedule = CONSTANT,
        steps_per_epoch: int | None = None,
        seed: int = 0,
        attack_shards: int | None = None,
        skip_non_finite: bool = False,
        weight_perturbation: WeightPerturbation | None = None,
        averaging: EMA | SWA | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.skip_non_finite = skip_non_finite
        # Not the optimizer's own count: that leaves out skipped and accumulated steps.
        self.steps_done = replicated_state(self, "steps_done", dtype="int64")
        self.attack_shards = attack_shards or sharding.default_shards()
        self.student = student
        self.threat = threat or ThreatModel()
        self.attack = attack
        if attack_batch_norm not in ATTACK_BATCH_NORM:
            raise ValueError(
                f"{type(self).__name__}.attack_batch_norm is {attack_batch_norm!r}; use one of "
                f"{', '.join(ATTACK_BATCH_NORM)}."
            )
        self.attack_batch_norm = attack_batch_norm
        self.epsilon_schedule, self.rate_schedule = epsilon_schedule, rate_schedule
        self.step_size_schedule = step_size_schedule
        self._epoch_steps, self._steps_given = steps_per_epoch, steps_per_epoch is not None
        self.seed = seed
        teachers, name = dict(teachers or {}), type(self).__name__
        check_fit(name, student, teachers, self.teacher_views, self.extra_classes)
        check_attack(name, attack, self._needs_attack, step_size_schedule != CONSTANT)
        self.weight_perturbation = weight_perturbation
        self.averages: Averages | None = None
        if averaging is not None:
            self.averages = Averages(averaging, self, student.trainable_variables)
        self._student_inference = FoldedInference(student)
        self._student_training = FusedTraining(student)
        self._teacher_inference = {role: FoldedInference(t) for role, t in teachers.items()}
        self.built = True  # the nets are; Keras saves and restores what is built

    # Hooks of a family.

    @property
    def trained_models(self) -> tuple[keras.Model, ...]:
        """The student first, and what is trained beside it; all are part of a checkpoint."""
        return (self.student,)

    def run_student(self, views: Tensors, weights: list | None = None) -> dict[str, tf.Tensor]:
        """Training-mode logits by name, inside the tape: the student's on each of its views.

        Args:
          views: view -> images.
          weights: tensors that stand in for the student's trainable variables.
        """
        return {
            view: as_float32(self._student_training(views[view], weights))
            for view in self.student_views
        }

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        """Named losses per example.

        Args:
          labels: class ids, `[batch]`.
          student: what `run_student` returned, `[batch, classes]`.
          teachers: role -> logits, `[batch, classes]`, no gradient.

        Returns:
          name -> `[batch]`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define terms().")

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weights of terms that are not 1, where they are fixed."""
        return {}

    def weigh(self, means: Tensors, teachers: Tensors) -> tuple[Tensors, Tensors]:
        """The weights of this step's terms (default: `term_weights`), and scalars to log.

        Args:
          means: name -> mean over the global batch, no gradient.
          teachers: role -> logits on this replica, `[batch, classes]`.
        """
        fixed = self.term_weights
        return {name: tf.constant(float(fixed.get(name, 1.0))) for name in means}, {}

    # What families share.

    def set_temperature(self, temperature: float) -> None:
        """Notes what divides the student's logits in training; refuses what is not above 0."""
        if not temperature > 0:
            raise ValueError(
                f"{type(self).__name__}.temperature is {temperature}; give a number above 0."
            )
        self.temperature = float(temperature)

    @property
    def step(self) -> int:
        """Steps done, outside of a `tf.function`."""
        # Not int(variable): Keras' goes wrong for one that lies on several replicas.
        return int(self.steps_done.numpy())

    @property
    def epoch(self) -> tf.Tensor:
        """Epochs done, as a float32 scalar."""
        return epoch_of(self.steps_done.value, self.steps_per_epoch)

    @property
    def trained_variables(self) -> list[keras.Variable]:
        """What the optimizer moves."""
        return [v for model in self.trained_models for v in model.trainable_variables]

    def get_config(self) -> dict:
        """The settings that were given, as they were: `cls(student, teachers, **get_config())`.

        Nets are not among them, and values may be objects (attacks, schedules): what describes a
        distiller on disk is the run's gin text, and what is saved of it is its student.
        """
        return dict(self._settings)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """One step on (images, labels, ids, logits of each cached role); returns scalars by name.

        Among them `non_finite`, how many elements of loss and gradient are not; see `update`.
        """
        images, labels, ids, *cached = with_ids(data, self.steps_done.value)
        before = snapshot(self._step_state()) if self.skip_non_finite else None
        views = {"clean": images}
        teachers = self._ask(views, dict(zip(self.cached_roles, cached, strict=False)))
        if self._needs_attack:
            views["adversarial"] = self._perturbed(images, labels, ids, teachers)
            views |= self.further_views(views)
            teachers = self._ask(views, teachers)

        def loss(weights=None):
            return self._loss(labels, views, teachers, weights)

        weights = self.trained_variables
        own = self.student.trainable_variables
        moved: list[tf.Tensor] | None = None
        if self.weight_perturbation is not None:
            moved = self.weight_perturbation.ascended(
                lambda: loss()[0], own, self._step_state(), self.epoch
            )
        with tf.GradientTape() as tape:
            if moved is not None:
                tape.watch(moved)
            scaled, logs = loss(moved)
        # The student's are the first of the trained variables.
        sources = weights if moved is None else [*moved, *weights[len(moved) :]]
        gradients = connected(tape.gradient(scaled, sources), weights)
        for model in self.trained_models:
            average_replicas(model.non_trainable_variables)
        updates = tf.convert_to_tensor(self.optimizer.iterations)
        logs |= update(self.optimizer, gradients, weights, logs["loss"], before)
        self.steps_done.assign_add(1)
        if self.averages is not None:
            updated = tf.convert_to_tensor(self.optimizer.iterations) > updates
            self.averages.update(updated, self.steps_done.value, self.steps_per_epoch)
        return self.fit_logs(logs)

    def _loss(self, labels, views, teachers, weights=None) -> tuple[tf.Tensor, dict]:
        """This replica's share of the weighed loss, scaled for the optimizer, and what to log.

        Args:
          labels: class ids, `[batch]`.
          views: view -> images.
          teachers: role -> logits.
          weights: tensors that stand in for the student's trainable variables.
        """
        student = self.run_student(views, weights)
        shares = mean_shares(self.terms(labels, student, teachers))
        means = replica_sums({k: tf.stop_gradient(v) for k, v in shares.items()})
        term_weights, logs = self.weigh(means, teachers)
        loss = tf.add_n([term_weights[name] * share for name, share in shares.items()])
        total = tf.add_n([term_weights[name] * means[name] for name in means])
        return self.optimizer.scale_loss(loss), {"loss": total, **means, **logs}

    def _step_state(self) -> list[keras.Variable]:
        """What a pass moves, beside what the optimizer moves: BatchNorm, seeds, balance."""
        averages = [] if self.averages is None else self.averages.variables
        ours = {id(v) for v in (self.steps_done, *averages)}
        return [v for v in self.non_trainable_variables if id(v) not in ours]

    def call(self, inputs, training=False):
        """The student's logits."""
        return self.student(inputs, training=training)


def default_attack(start: str = "gaussian", relative_step_size: float = 0.25) -> PGD:
    """The inner maximisation of the papers: PGD-10 with 2/255 at 8/255."""
    return PGD(num_steps=10, relative_step_size=relative_step_size, start=start)
