"""What a training step looks at: the views of a batch, and the teachers' word on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.attacks import gradients, sharding
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import Split
from mtard_tf.losses import kl_divergence
from mtard_tf.models import twins
from mtard_tf.models.empty_batches import never_empty
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.schedules import CONSTANT, Schedule
from mtard_tf.threat import ThreatModel

_TABLE_BATCH = 500
FIELD = "relative_step_size"  # of an attack, which a schedule may scale

Tensors = Mapping[str, tf.Tensor]

# BatchNorm of the student while it is attacked, see `distiller.Distiller`.
ATTACK_BATCH_NORM = ("inference", "batch", "training")


class Views:
    """The part of a distiller that makes views and asks teachers; the attributes are its own."""

    student_views: tuple[str, ...] = ("clean",)
    teacher_views: Mapping[str, str | tuple[str, ...]] = {}
    cached_roles: tuple[str, ...] = ()
    # What `table` depends on beside the teacher and the images.
    table_settings: tuple = ()

    student: keras.Model
    threat: ThreatModel
    attack: Callable | None
    attack_batch_norm: str
    attack_shards: int
    step_size_schedule: Schedule
    epsilon_schedule: Schedule
    epoch: Any
    seed: int
    _student_inference: FoldedInference
    _student_training: FusedTraining
    _teacher_inference: Mapping[str, FoldedInference]

    def prove(self, images: tf.Tensor) -> None:
        """Looks at real images before the first step: which nets have a twin that is their equal.

        Args:
          images: some of the training set, float32 in [0, 1].

        Raises:
          ValueError: the attack follows gradients and the student sends none to its images.
        """
        for net in self._rebuilt_nets:
            net.prove(images)
        if not self._needs_attack or getattr(self.attack, "kind", "gradient") == "black_box":
            return
        model = self.student
        if gradients.none_reaches(lambda x: model(x, training=False), images[: twins.PROBED]):
            raise ValueError(
                f"{type(self).__name__}: no gradient of the student {model.name} reaches its "
                "images (rounding, a cast to integers or stop_gradient), so that its attack would "
                "stand still; take that out, or train with @attacks.square()."
            )

    @property
    def _rebuilt_nets(self) -> list[FoldedInference | FusedTraining]:
        """The nets that a twin may run for."""
        teachers = self._teacher_inference.values()
        return [self._student_inference, self._student_training, *teachers]

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

    def table(self, role: str, model: keras.Model, split: Split) -> np.ndarray:
        """What a cached role says of every image as it is, float32 `[images, ...]`: its logits."""
        infer = tf.function(lambda images: model(images, training=False), autograph=False)
        batches = evaluation_batches(split, _TABLE_BATCH)
        return np.concatenate([infer(images).numpy() for images, _, _ in batches])

    def said_at_start(self, copied: Sequence[str]) -> str:
        """A line on a student that starts from a teacher's weights, or "" if that changes nothing.

        Args:
          copied: roles of the teachers that it starts from.
        """
        return ""

    # What families use.

    def set_labels(self, labels: str) -> None:
        """Notes whether teachers label the plain images once ("cached") or every batch."""
        if labels not in ("cached", "online"):
            raise ValueError(
                f"{type(self).__name__}.labels is {labels!r}; use 'cached' or 'online'."
            )
        self.cached_roles = tuple(self.teacher_views) if labels == "cached" else ()

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

            def on_batch_statistics(images: tf.Tensor) -> tf.Tensor:
                return as_float32(self._student_training(images))

            on_batch_statistics.mixes_images = True  # type: ignore[attr-defined]
            return on_batch_statistics
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
        attack = self.attack
        if self.step_size_schedule != CONSTANT:
            attack = with_step_scaled(attack, self.step_size_schedule(self.epoch))
        return sharding.attack_in_parts(
            attack,
            self.attacked_fn(),
            images,
            labels,
            threat=self.current_threat,
            seeds=seeds,
            objective=objective,
            # Statistics of the batch are those of the whole batch.
            parts=self.attack_shards if self.attack_batch_norm == "inference" else 1,
        )

    def attack_divergence(self, images, labels, seeds, target) -> tf.Tensor:
        """`run_attack` on KL(target || student), of the target's logits `[batch, classes]`."""

        def objective(_, logits, rows):
            return kl_divergence(target[rows], logits)

        return self.run_attack(images, labels, seeds, objective)

    # What a step does, under the scopes that name its parts in a profile and for `mtard-plan`.

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


def as_float32(logits: tf.Tensor) -> tf.Tensor:
    """Losses, entropies and balance stay in float32 whatever the nets compute in."""
    return tf.cast(logits, tf.float32)


def with_step_scaled(attack: Callable, factor: float | tf.Tensor) -> Callable:
    """The same attack with `relative_step_size * factor`.

    Args:
      attack: one with that field, see `check_attack`.
      factor: a scalar; a tensor where a schedule gives it.
    """
    scaled = copy.copy(attack)
    # Attacks are frozen and check their fields when they are made, which a tensor cannot pass.
    object.__setattr__(scaled, FIELD, getattr(attack, FIELD) * factor)
    return scaled


def check_attack(name: str, attack: Callable | None, needed: bool, scheduled: bool) -> None:
    """Refuses an attack that a distiller cannot train with.

    Args:
      name: of the distiller, for the message.
      attack: None for none.
      needed: whether it trains on adversarial images.
      scheduled: whether the step size has a schedule.

    Raises:
      ValueError: none is given, or one without a step size.
    """
    if attack is None and needed:
        raise ValueError(
            f"{name} trains on adversarial images; give it an attack, such as @attacks.pgd()."
        )
    if attack is not None and scheduled and not hasattr(attack, FIELD):
        raise ValueError(
            f"{name}'s attack has no {FIELD} for Stage.step_size_schedule to scale; take one like "
            "@attacks.pgd()."
        )
