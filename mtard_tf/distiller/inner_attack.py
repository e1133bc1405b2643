"""The inner maximisation of a training step: an attack on the current student."""

from __future__ import annotations

import copy
from collections.abc import Callable

import keras
import tensorflow as tf

from mtard_tf.attacks import gradients, sharding
from mtard_tf.attacks.attack import kind_of
from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.distiller.fake_quantised import FakeQuantised
from mtard_tf.models import twins
from mtard_tf.models.cpu_kernels import never_empty
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.schedules import CONSTANT

# See `mtard_tf.attacks`.
Attack = Callable[..., tf.Tensor]
BATCH_NORM = ("inference", "batch", "training")
STEP_SIZE = "relative_step_size"  # the field of an attack that `step_size_schedule` scales


class InnerAttack:
    """Attacks a student in training, at the epsilon and step size of the epoch.

    Args:
      attack: as `mtard_tf.attacks` describes it.
      student: from images to logits.
      training: runs the student in training mode.
      context: threat model, schedules, shards and seed.
      batch_norm: the student's BatchNorm while it is attacked. "inference": the running
        statistics; "batch": the batch's own, the running ones stay; "training": the batch's own,
        and every pass of the attack moves the running ones. The last two attack in one shard.
      owner: name of the distiller, for messages.

    Raises:
      ValueError: another mode, no attack, or a step-size schedule and an attack without one.
    """

    def __init__(
        self,
        attack: Attack | None,
        student: keras.Model,
        training: FusedTraining,
        context: TrainingContext,
        batch_norm: str = "inference",
        owner: str = "The distiller",
    ) -> None:
        if batch_norm not in BATCH_NORM:
            raise ValueError(
                f"{owner}.attack_batch_norm is {batch_norm!r}; use one of {', '.join(BATCH_NORM)}."
            )
        if attack is None:
            raise ValueError(
                f"{owner} trains on adversarial images; give it an attack, such as @attacks.pgd()."
            )
        if context.step_size_schedule != CONSTANT and not hasattr(attack, STEP_SIZE):
            raise ValueError(
                f"{owner}'s attack has no {STEP_SIZE} for Stage.step_size_schedule to scale; take "
                "one like @attacks.pgd()."
            )
        self.attack, self.batch_norm = attack, batch_norm
        self._student, self._context, self._owner = student, context, owner
        policy = context.attack_precision
        self._inference = FoldedInference(student, policy)
        self._rounded = training if isinstance(training, FakeQuantised) else None
        self._training = training if policy is None else FusedTraining(student, policy)

    def prove(self, images: tf.Tensor) -> None:
        """Compares the folded twin with the student, and looks for the student's input gradient.

        Args:
          images: of the training set, float32 in [0, 1].

        Raises:
          ValueError: the attack follows gradients and none reaches the student's images, or the
            student cannot be rebuilt in another precision.
        """
        attacked = self._inference if self.batch_norm == "inference" else self._training
        attacked.prove(images)
        if self._context.attack_precision is not None and not attacked.proven:
            raise ValueError(
                f"{self._owner}: the student {self._student.name} gives other logits when rebuilt "
                f"in {self._context.attack_precision} (a subclassed model, or a layer that its "
                "config does not rebuild); leave Stage.attack_precision out."
            )
        if kind_of(self.attack) == "black_box":
            return
        model = self._student
        if gradients.none_reaches(lambda x: model(x, training=False), images[: twins.PROBED]):
            raise ValueError(
                f"{self._owner}: no gradient of the student {model.name} reaches its images "
                "(rounding, a cast to integers or stop_gradient), so its attack would change "
                "nothing; remove that, or train with @attacks.square()."
            )

    def model_fn(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The student as the attack sees it: images -> float32 logits, with its weights of now."""
        if self.batch_norm == "inference":
            rounded = self._rounded
            inference = never_empty(self._inference() if rounded is None else rounded.inference())
            return lambda images: tf.cast(inference(images), tf.float32)

        def on_batch_statistics(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(self._training(images), tf.float32)

        on_batch_statistics.mixes_images = True  # type: ignore[attr-defined]
        return on_batch_statistics

    def __call__(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        seeds: tf.Tensor,
        epoch: tf.Tensor,
        objective: Callable | None = None,
    ) -> tf.Tensor:
        """The perturbed images, projected into the ball and the box of the epoch.

        Args:
          images: clean images of this replica, `[batch, height, width, channels]`.
          labels: class ids, `[batch]`.
          seeds: one per image, int32 `[batch, 2]`.
          epoch: epochs done, float32 scalar.
          objective: `objective(perturbed, logits, rows) -> [batch]` is maximised instead of
            cross-entropy; `rows` is the slice of the batch that is attacked.
        """
        attack = self.attack
        if self._context.step_size_schedule != CONSTANT:
            attack = with_step_scaled(attack, self._context.step_size_schedule(epoch))
        return sharding.attack_in_parts(
            attack,
            self.model_fn(),
            images,
            labels,
            threat=self._context.threat_at(epoch),
            seeds=seeds,
            objective=objective,
            # Statistics of the batch are those of the whole batch.
            parts=self._context.shards if self.batch_norm == "inference" else 1,
        )

    def view(self, perturb: Callable[[tf.Tensor], tf.Tensor], ids: tf.Tensor) -> tf.Tensor:
        """What `perturb(seeds)` returns, in the scope that a profile shows as "attack".

        Args:
          perturb: makes the adversarial view; in mode "batch" the running statistics of BatchNorm
            are put back after it.
          ids: of the images, int64 `[batch]`.
        """
        kept = self._student.non_trainable_variables if self.batch_norm == "batch" else []
        before = [tf.convert_to_tensor(variable.value) for variable in kept]
        with tf.name_scope("attack"):
            perturbed = perturb(image_seeds(self._context.seed, ids))
        for variable, value in zip(kept, before, strict=True):
            variable.assign(value)
        return perturbed


def default_attack(start: str = "gaussian", relative_step_size: float = 0.25) -> PGD:
    """The inner maximisation of the papers: PGD-10 with 2/255 at 8/255."""
    return PGD(num_steps=10, relative_step_size=relative_step_size, start=start)


def with_step_scaled(attack: Attack, factor: float | tf.Tensor) -> Attack:
    """The same attack with `relative_step_size * factor`.

    Args:
      attack: one with that field.
      factor: a scalar; a tensor where a schedule gives it.
    """
    scaled = copy.copy(attack)
    # Attacks are frozen and check their fields when they are made, which a tensor cannot pass.
    object.__setattr__(scaled, STEP_SIZE, getattr(attack, STEP_SIZE) * factor)
    return scaled
