"""IKL: the improved KL divergence in TRADES' place (NeurIPS 2024, arXiv 2305.13948), and GKL."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.attacks.pgd import PGD
from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.distiller.gradient import Weighed
from mtard_tf.distribute.replicas import global_means, replica_sum, replicated_state
from mtard_tf.losses import kl_divergence, soft_cross_entropy


class IKL(Distiller):
    """TRADES' KL taken apart into a weighted distance of logits and a soft cross-entropy.

        loss = CE(S(x), y) + beta distance(S(x) - S(x'), s) + alpha SCE
        distance(D, s) = 1/4 sum_jk s_j s_k (D_j - D_k)^2,  s = W[y]
        SCE = -sum_c p_c(x) log p_c(x'), p(x) detached
        x' = PGD-10 on SCE, S in inference mode, from x + 0.001 N(0, 1)

    The distance's gradient goes to both sides. Row y of W is the mean of softmax(S(x) / T) over the
    last epoch's images of class y, in training mode; 1 / classes in the first epoch, the old row
    where an epoch has no such image. GKL has s^gamma for s, and divides the distance by the batch's
    mean of (sum s^gamma)^2. In the code epsilon grows over all epochs: `Stage.epsilon_schedule =
    @schedules.Warmup()`; its attack has 5 steps of epsilon / 2, as with `official_quirks`.

    Args:
      alpha: weight of SCE; on CIFAR-100 also 5, with T = 2.
      beta: weight of the distance.
      class_temperature: T, of W alone.
      gamma: of GKL, which has 0.2 or 0.4 at T = 1.
      attack_distance: the attack climbs SCE + distance, as the code does on CIFAR-100.
      attack: default PGD-10, step epsilon / 4, Gaussian start.
      official_quirks: what the code does.

    Source: `jiequancui/DKL`, `train_dkl_cifar10.py:257-363`, `utils_awp.py:7-14`; GKL: 2503.08038.
    """

    student_views = ("adversarial", "clean")

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        alpha: float = 4.0,
        beta: float = 20.0,
        class_temperature: float = 4.0,
        gamma: float = 1.0,
        attack_distance: bool = False,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
    ) -> None:
        attack = attack or (PGD(5, 0.5, "gaussian") if official_quirks else default_attack())
        super().__init__(student, teachers, context, attack, attack_batch_norm, label_smoothing)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.class_temperature, self.attack_distance = class_temperature, attack_distance
        shape = (student.output_shape[-1],) * 2
        uniform = keras.initializers.Constant(1 / shape[0])
        self.class_weights = replicated_state(self, "class_weights", shape, uniform)
        self.class_sums = replicated_state(self, "class_sums", shape)
        self.epochs_ended = replicated_state(self, "epochs_ended", dtype="int64")

    def rows(self, labels: tf.Tensor) -> tf.Tensor:
        """s, for GKL with its divisor, `[batch, classes]`."""
        own = tf.gather(tf.convert_to_tensor(self.class_weights.value), labels) ** self.gamma
        if self.gamma != 1:
            own *= tf.math.rsqrt(global_means([tf.reduce_sum(own, axis=1) ** 2])[0])
        return own

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        clean = tf.stop_gradient(self.attacked_fn()(images))
        if not self.attack_distance:
            return self.attack_divergence(images, labels, seeds, clean)  # SCE up to a constant
        own = self.rows(labels)

        def objective(_: tf.Tensor, logits: tf.Tensor, rows: slice) -> tf.Tensor:
            return kl_divergence(clean[rows], logits) + distance(clean[rows] - logits, own[rows])

        return self.run_attack(images, labels, seeds, objective)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        clean, fixed = student["clean"], tf.stop_gradient(student["clean"])
        p = tf.nn.softmax(fixed / self.class_temperature)
        sums = tf.math.unsorted_segment_sum(p, labels, p.shape[-1])
        self.class_sums.assign_add(replica_sum(sums))
        return {
            "cross_entropy": self.cross_entropy(clean, labels),
            "distance": distance(clean - student["adversarial"], self.rows(labels)),
            "soft_cross_entropy": soft_cross_entropy(fixed, student["adversarial"]),
        }

    def weigh(self, means: Tensors, teachers: Tensors) -> Weighed:
        epochs = (self.steps_done.value + 1) // self.steps_per_epoch
        ends = epochs > self.epochs_ended.value
        self.epochs_ended.assign(epochs)
        old, sums = self.class_weights.value, tf.convert_to_tensor(self.class_sums.value)
        total = tf.reduce_sum(sums, axis=1, keepdims=True)
        self.class_weights.assign(tf.where(ends & (total > 0), sums / total, old))
        self.class_sums.assign(tf.where(ends, 0.0, sums))
        return super().weigh(means, teachers)

    @property
    def term_weights(self) -> dict[str, float]:
        return {"distance": self.beta, "soft_cross_entropy": self.alpha}


def distance(difference: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """1/4 sum_jk s_j s_k (D_j - D_k)^2, `[batch]`, of D and s, `[batch, classes]`, any sum of s."""
    total = tf.reduce_sum(weights, axis=1, keepdims=True)
    mean = tf.reduce_sum(weights * difference, axis=1, keepdims=True) / total
    return 0.5 * total[:, 0] * tf.reduce_sum(weights * (difference - mean) ** 2, axis=1)
