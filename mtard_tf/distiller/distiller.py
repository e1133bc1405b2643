"""The distiller: one Keras model, one `train_step`; a family declares what enters it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import losses
from mtard_tf.data.image_data import Split
from mtard_tf.distiller.averaging import Averages
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.distiller.fake_quantised import FakeQuantised
from mtard_tf.distiller.fit_data import FitModel, with_ids
from mtard_tf.distiller.gradient import Weighed, step_gradient
from mtard_tf.distiller.gradient_matching import GradientMatching
from mtard_tf.distiller.inner_attack import Attack, InnerAttack
from mtard_tf.distiller.teachers import Models, Teachers, Tensors, logits_table
from mtard_tf.distiller.updates import snapshot, update
from mtard_tf.distiller.views import seen
from mtard_tf.distribute.replicas import average_replicas
from mtard_tf.models.compatibility import check_fit, check_views
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining


class Distiller(FitModel):
    """Trains `student` from `teachers`, or from labels alone.

    A family declares which views of a batch the student is trained on and the teachers see
    (`student_views`, `teacher_views`), how the adversarial view is made (`perturb`), and which
    losses follow (`terms`) at which weights (`term_weights`, or `weigh` where they change).

    Args:
      student: model from images to logits; trained in place.
      teachers: role -> model, for the roles of `teacher_views`; see `Teachers`.
      context: what the stage gives.
      attack: makes the adversarial view; None for none.
      attack_batch_norm: the student's BatchNorm while it is attacked, see `InnerAttack`.
      label_smoothing: share of the label in `cross_entropy` that is uniform over the classes, in
        [0, 1). The attack keeps the labels as they are.

    Raises:
      ValueError: models that do not fit together, an adversarial view without an attack, or an
        argument outside its range.
    """

    # Each view is a separate forward pass, in this order: BatchNorm sees separate batches.
    student_views: tuple[str, ...] = ("clean",)
    # Role -> view, or several: the logits of several are named `<role>_<view>`.
    teacher_views: Mapping[str, str | Sequence[str]] = {}
    # Of the student's logits in training; an audit attacks at it as well.
    temperature: float = 1.0
    # What `table` depends on besides the teacher and the images.
    table_settings: tuple = ()

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        context: TrainingContext | None = None,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(student, context or TrainingContext())
        name, teachers = type(self).__name__, dict(teachers or {})
        makes_views = type(self).further_views is not Distiller.further_views
        check_views(name, self.student_views, self.teacher_views, makes_views)
        roles = {*self.teacher_views, *filter(None, [self.context.labeller])}
        check_fit(name, student, teachers, roles, self.extra_classes)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {label_smoothing!r}; give a number from 0 to below 1."
            )
        self.label_smoothing = label_smoothing
        rule, weights = self.context.averaging, student.trainable_variables
        self.averages = None if rule is None else Averages(rule, self, weights)
        rounds = self.context.quantization is not None
        self.student_training = FakeQuantised(student, self) if rounds else FusedTraining(student)
        self.teachers = Teachers(teachers, self.teacher_views, name)
        self.inner_attack: InnerAttack | None = None
        if "adversarial" in (*self.student_views, *self.teachers.seen):
            self.inner_attack = InnerAttack(
                attack, student, self.student_training, self.context, attack_batch_norm, name
            )
        self.matching = GradientMatching(self) if self.context.gradient_matching else None

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
        """Views beside "clean" and "adversarial", made from those that there are."""
        return {}

    def own_answers(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Logits on the clean images that a family adds to its teachers', no gradient."""
        return {}

    def run_student(self, views: Tensors, weights: list | None = None) -> dict[str, tf.Tensor]:
        """Training-mode logits by name, inside the tape: the student's on each of its views.

        Args:
          views: view -> images.
          weights: tensors that stand in for the student's trainable variables.
        """
        return {view: self.student_logits(views[view], weights) for view in self.student_views}

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

    def weigh(self, means: Tensors, teachers: Tensors) -> Weighed:
        """The weights of this step's terms (default: `term_weights`), and scalars to log.

        Args:
          means: name -> mean over the global batch, no gradient.
          teachers: role -> logits on this replica, `[batch, classes]`.
        """
        fixed = self.term_weights
        return {name: tf.constant(float(fixed.get(name, 1.0))) for name in means}, {}

    def table(self, role: str, model: keras.Model, split: Split) -> np.ndarray:
        """What is cached of a teacher for each plain image, float32 `[images, ...]`: its logits."""
        return logits_table(model, split)

    def said_at_start(self, copied: Sequence[str]) -> str:
        """A note on a student that starts from the weights of these roles; "" for none."""
        return ""

    # What families use.

    def set_temperature(self, temperature: float) -> None:
        """Sets the temperature of the student's logits in training, above 0."""
        if not temperature > 0:
            raise ValueError(
                f"{type(self).__name__}.temperature is {temperature}; give a number above 0."
            )
        self.temperature = float(temperature)

    def check_smoothing(self, label_weight: float, because: str) -> None:
        """Refuses label smoothing where the cross-entropy has no weight, `because` of a setting."""
        if self.label_smoothing and abs(label_weight) < 1e-9:  # what rounding leaves of 1 - a - b
            raise ValueError(
                f"label_smoothing is {self.label_smoothing!r}, but {because} leaves no term with "
                "labels; change one of the two."
            )

    def cross_entropy(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Cross-entropy with the smoothed labels, `[batch]`."""
        return losses.cross_entropy(logits, labels, smoothing=self.label_smoothing)

    def student_logits(self, images: tf.Tensor, weights: list | None = None) -> tf.Tensor:
        """The student's logits in training mode, float32 `[batch, classes]`; see `run_student`."""
        return tf.cast(self.student_training(images, weights), tf.float32)

    def attacked_fn(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The student as the attack sees it: images -> float32 logits."""
        assert self.inner_attack is not None  # of a family with an adversarial view
        return self.inner_attack.model_fn()

    def run_attack(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        seeds: tf.Tensor,
        objective: Callable | None = None,
    ) -> tf.Tensor:
        """The adversarial view that maximises cross-entropy or `objective`, see `InnerAttack`."""
        assert self.inner_attack is not None  # of a family with an adversarial view
        if not self.needs_labels:  # -1 stands for none, which attacks that look at labels refuse
            labels = tf.maximum(labels, 0)
        return self.inner_attack(images, labels, seeds, self.epoch, objective)

    def attack_divergence(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, target: tf.Tensor
    ) -> tf.Tensor:
        """`run_attack` on KL(target || student), of the target's logits `[batch, classes]`."""
        kl = losses.kl_divergence
        return self.run_attack(images, labels, seeds, lambda _, z, rows: kl(target[rows], z))

    # What a run uses.

    @property
    def twins(self) -> list[FusedTraining | FoldedInference]:
        """Rebuilt nets that run in place of student and teachers."""
        return [self.student_training, *self.teachers.inference.values()]

    def prove(self, images: tf.Tensor) -> None:
        """Compares twins with their models on training images; see `InnerAttack.prove`."""
        if self.inner_attack is not None:
            self.inner_attack.prove(images)
        for twin in self.twins:
            twin.prove(images)

    def train_step(self, data: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on (images, labels, ids, logits of each cached role); returns scalars by name.

        Among them `non_finite`, how many elements of loss and gradient are not; see `update`.
        """
        images, labels, ids, *cached = with_ids(data, self.steps_done.value)
        before = snapshot(self.step_state()) if self.context.skip_non_finite else None
        views, teachers = seen(self, images, labels, ids, cached)
        gradients, logs = step_gradient(self, labels, views, teachers)
        for model in self.trained_models:
            average_replicas(model.non_trainable_variables)
        updates = tf.convert_to_tensor(self.optimizer.iterations)
        logs |= update(self.optimizer, gradients, self.trained_variables, logs["loss"], before)
        self.steps_done.assign_add(1)
        if self.averages is not None:
            updated = tf.convert_to_tensor(self.optimizer.iterations) > updates
            self.averages.update(updated, self.steps_done.value, self.steps_per_epoch)
        return self.fit_logs(logs)

    def step_state(self) -> list[keras.Variable]:
        """Variables that a pass changes and no optimizer: BatchNorm, seeds, balance."""
        averages = [] if self.averages is None else self.averages.variables
        ours = {id(v) for v in (self.steps_done, *averages)}
        return [v for v in self.non_trainable_variables if id(v) not in ours]
