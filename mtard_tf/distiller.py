"""The distiller: one Keras model, one `train_step`; a family declares what enters it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.attacks import sharding
from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import Split
from mtard_tf.distribution import (
    apply_if,
    average_replicas,
    mean_shares,
    replica_sum,
    replica_sums,
)
from mtard_tf.keras_shims import DistributedFit
from mtard_tf.models.compatibility import check_fit
from mtard_tf.models.empty_batches import never_empty
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.schedules import CONSTANT, Schedule, epoch_of
from mtard_tf.threat import ThreatModel

_TABLE_BATCH = 500

Tensors = Mapping[str, tf.Tensor]

# BatchNorm of the student while it is attacked, see `Distiller`.
ATTACK_BATCH_NORM = ("inference", "batch", "training")


class Distiller(DistributedFit, keras.Model):
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
    * `weigh`: the weight of each term, and what state moves (default: 1 each, no state);
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
      rate_schedule: factor on the balance rates by epoch.
      steps_per_epoch: what an epoch is, for the schedules.
      seed: seeds the attack's starts.
      attack_shards: parts of the batch that are attacked side by side. Images are attacked
        independently, so this changes only speed: 2 keep two cores busier than one does. None is
        2 without an accelerator and with two cores or more, else 1.
      skip_non_finite: leave a step out whose loss or gradient is not finite, as if its batch had
        not been there; log `skipped`.

    Raises:
      ValueError: the teachers' roles are not those that the family needs, a teacher's classes or
        image size differ from the student's, or a mode of BatchNorm that is none.
    """

    student_views: tuple[str, ...] = ("clean",)
    teacher_views: Mapping[str, str | tuple[str, ...]] = {}
    cached_roles: tuple[str, ...] = ()
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
        rate_schedule: Schedule = CONSTANT,
        steps_per_epoch: int = 1,
        seed: int = 0,
        attack_shards: int | None = None,
        skip_non_finite: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.skip_non_finite = skip_non_finite
        # Not the optimizer's own count: that leaves out skipped and accumulated steps.
        self.steps_done = self.add_weight(
            name="steps_done",
            shape=(),
            initializer="zeros",
            dtype="int64",
            trainable=False,
            aggregation="only_first_replica",
        )
        if attack_shards is None:
            attack_shards = sharding.default_shards()
        self.attack_shards = attack_shards
        self.student = student
        self.threat = threat or ThreatModel()
        self.attack = attack
        if attack_batch_norm not in ATTACK_BATCH_NORM:
            raise ValueError(
                f"{type(self).__name__}.attack_batch_norm is {attack_batch_norm!r}; use one of "
                f"{', '.join(ATTACK_BATCH_NORM)}."
            )
        self.attack_batch_norm = attack_batch_norm
        self.epsilon_schedule = epsilon_schedule
        self.rate_schedule = rate_schedule
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        teachers = dict(teachers or {})
        name = type(self).__name__
        check_fit(name, student, teachers, self.teacher_views, self.extra_classes)
        if attack is None and self._needs_attack:
            raise ValueError(
                f"{type(self).__name__} trains on adversarial images; give it an attack, such as "
                "@attacks.pgd()."
            )
        self._student_inference = FoldedInference(student)
        self._student_training = FusedTraining(student)
        self._teacher_inference = {role: FoldedInference(t) for role, t in teachers.items()}

    # Hooks of a family.

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        """The adversarial view, `[batch, height, width, channels]`: cross-entropy is maximised.

        Args:
          images: clean images, `[batch, height, width, channels]`.
          labels: class ids, `[batch]`.
          seeds: one per image, int32 `[batch, 2]`.
          teachers: as in `terms`, of the teachers that see the clean view.
        """
        return self.run_attack(images, labels, seeds)

    def further_views(self, views: Tensors) -> dict[str, tf.Tensor]:
        """Views beside "clean" and "adversarial", made from these."""
        return {}

    @property
    def trained_models(self) -> tuple[keras.Model, ...]:
        """The student, and what is trained beside it; all are part of a checkpoint."""
        return (self.student,)

    def run_student(self, views: Tensors) -> dict[str, tf.Tensor]:
        """Training-mode logits by name, inside the tape: the student's on each of its views."""
        return {
            view: as_float32(self._student_training(views[view])) for view in self.student_views
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

    def weigh(self, means: Tensors, teachers: Tensors) -> tuple[Tensors, Tensors]:
        """The weights of this step's terms, and scalars to log.

        Args:
          means: name -> mean over the global batch, no gradient.
          teachers: role -> logits on this replica, `[batch, classes]`.
        """
        return {name: tf.ones([]) for name in means}, {}

    def table(self, role: str, model: keras.Model, split: Split) -> np.ndarray:
        """What a cached role says of every image as it is, float32 `[images, ...]`: its logits."""
        infer = tf.function(lambda images: model(images, training=False))
        batches = evaluation_batches(split, _TABLE_BATCH)
        return np.concatenate([infer(images).numpy() for images, _, _ in batches])

    # What families share.

    def set_temperature(self, temperature: float) -> None:
        """Notes what divides the student's logits in training; refuses what is not above 0."""
        if not temperature > 0:
            raise ValueError(
                f"{type(self).__name__}.temperature is {temperature}; give a number above 0."
            )
        self.temperature = float(temperature)

    def set_labels(self, labels: str) -> None:
        """Notes whether teachers label the plain images once ("cached") or every batch."""
        if labels not in ("cached", "online"):
            raise ValueError(
                f"{type(self).__name__}.labels is {labels!r}; use 'cached' or 'online'."
            )
        self.cached_roles = tuple(self.teacher_views) if labels == "cached" else ()

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
    def _needs_attack(self) -> bool:
        asked = [view for _, _, view in self._questions()]
        return "adversarial" in (*self.student_views, *asked)

    def _questions(self) -> Iterator[tuple[str, str, str]]:
        """(name of the logits, role, view) of all that teachers are asked."""
        for role, views in self.teacher_views.items():
            if isinstance(views, str):
                yield role, role, views
            else:
                yield from ((f"{role}_{view}", role, view) for view in views)

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

    @property
    def current_threat(self) -> ThreatModel:
        """The threat model at this step of the epsilon schedule."""
        return self.threat.scaled(self.epsilon_schedule(self.epoch))

    def teacher_fn(self, role: str) -> Callable[[tf.Tensor], tf.Tensor]:
        """A teacher as a function: images -> float32 logits; gradients reach the images."""
        inference = never_empty(self._teacher_inference[role]())
        return lambda images: as_float32(inference(images))

    def attacked_fn(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The student as the attack sees it: images -> float32 logits."""
        if self.attack_batch_norm != "inference":
            return lambda images: as_float32(self._student_training(images))
        inference = never_empty(self._student_inference())  # BatchNorm folded
        return lambda images: as_float32(inference(images))

    def run_attack(self, images, labels, seeds, objective=None) -> tf.Tensor:
        """The attack on `attacked_fn`, projected by us.

        Args:
          images: clean images of this replica, `[batch, height, width, channels]`.
          labels: class ids, `[batch]`.
          seeds: one per image, int32 `[batch, 2]`.
          objective: `objective(perturbed, logits, rows) -> [batch]` replaces cross-entropy; `rows`
            is the slice of the batch that is attacked.
        """
        assert self.attack is not None  # the constructor has seen to it
        model_fn = self.attacked_fn()
        threat = self.current_threat
        count = images.shape[0] or tf.shape(images)[0]
        # Statistics of the batch are those of the whole batch.
        shards = self.attack_shards if self.attack_batch_norm == "inference" else 1
        parts = []
        for rows in sharding.shards(count, shards):
            perturbed = self.attack(
                model_fn,
                images[rows],
                labels[rows],
                threat=threat,
                seeds=seeds[rows],
                objective=objective and partial(objective, rows=rows),
            )
            parts.append(threat.project(perturbed, images[rows]))
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)[:count]

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """One step on (images, labels, ids, logits of each cached role); returns scalars by name.

        Among them `non_finite`, how many elements of loss and gradient are not finite.
        """
        images, labels, ids, *cached = data
        state = [tf.convert_to_tensor(v.value) for v in self._guarded_state]
        views = {"clean": images}
        teachers = self._ask(views, dict(zip(self.cached_roles, cached, strict=False)))
        if self._needs_attack:
            views["adversarial"] = self._perturbed(images, labels, ids, teachers)
            views |= self.further_views(views)
            teachers = self._ask(views, teachers)
        with tf.GradientTape() as tape:
            student = self.run_student(views)
            shares = mean_shares(self.terms(labels, student, teachers))
            means = replica_sums({k: tf.stop_gradient(v) for k, v in shares.items()})
            weights, logs = self.weigh(means, teachers)
            loss = tf.add_n([weights[name] * share for name, share in shares.items()])
            scaled = self.optimizer.scale_loss(loss)
        trained = self.trained_variables
        gradients = tape.gradient(scaled, trained)
        for model in self.trained_models:
            average_replicas(model.non_trainable_variables)
        total = tf.add_n([weights[name] * means[name] for name in means])
        overflow = replica_sum(_non_finite(gradients))
        non_finite = _non_finite([total])
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # It leaves steps that overflow out by itself, which is no fault; but it looks at one
            # replica's gradients, so each must know of the others' overflow.
            gradients = [tf.where(overflow > 0, float("inf"), g) for g in gradients]
        else:
            non_finite += overflow
        logs = {"loss": total, **means, **logs, "non_finite": non_finite}
        if self.skip_non_finite:
            finite = non_finite == 0
            apply_if(finite, self.optimizer, gradients, trained)
            for variable, before in zip(self._guarded_state, state, strict=True):
                variable.assign(tf.where(finite, variable.value, before))
            logs["skipped"] = tf.cast(~finite, tf.float32)
        else:
            self.optimizer.apply(gradients, trained)
        self.steps_done.assign_add(1)
        return self.fit_logs(logs)

    # The scopes name the parts of a step in a profile and for `mtard-plan`.

    def _ask(self, views: Tensors, known: Tensors) -> dict[str, tf.Tensor]:
        """What is known of the teachers' logits, and those on the views that are there by now."""
        answers = dict(known)
        with tf.name_scope("teachers/"):  # the slash goes on with the scope
            for name, role, view in self._questions():
                if name not in answers and view in views:
                    answers[name] = tf.stop_gradient(self.teacher_fn(role)(views[view]))
        return answers

    def _perturbed(self, images, labels, ids, teachers: Tensors) -> tf.Tensor:
        still = self.student.non_trainable_variables if self.attack_batch_norm == "batch" else []
        before = [tf.convert_to_tensor(v.value) for v in still]
        with tf.name_scope("attack"):
            seeds = image_seeds(self.seed, ids)
            perturbed = self.perturb(images, labels, seeds, teachers)
        for variable, value in zip(still, before, strict=True):
            variable.assign(value)
        return perturbed

    @property
    def _guarded_state(self) -> list[keras.Variable]:
        """What a skipped step must not move, beside what the optimizer moves."""
        if not self.skip_non_finite:
            return []
        return [v for v in self.non_trainable_variables if v is not self.steps_done]

    def call(self, inputs, training=False):
        """The student's logits."""
        return self.student(inputs, training=training)


def as_float32(logits: tf.Tensor) -> tf.Tensor:
    """Losses, entropies and balance stay in float32 whatever the nets compute in."""
    return tf.cast(logits, tf.float32)


def _non_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
    """How many elements are not finite, float32 scalar."""
    counts = [tf.math.count_nonzero(~tf.math.is_finite(t), dtype=tf.float32) for t in tensors]
    return tf.add_n(counts) if counts else tf.zeros([])


def default_attack(start: str = "gaussian", relative_step_size: float = 0.25) -> PGD:
    """The inner maximisation of the papers: PGD-10 with 2/255 at 8/255."""
    return PGD(num_steps=10, relative_step_size=relative_step_size, start=start)
