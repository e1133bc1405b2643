"""What holds for every attack: ball, box, dtype, seeds, batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.threat import ThreatModel

SHAPE, CLASSES = (5, 5, 1), 5
KERNEL = tf.random.stateless_normal([25, 8], seed=[4, 1])
HEAD = tf.random.stateless_normal([8, CLASSES], seed=[4, 2])
EPSILONS = {"linf": (0.0, 1e-3, 0.05, 0.3, 1.0), "l2": (0.0, 1e-3, 0.3, 2.0)}


def net(images: tf.Tensor) -> tf.Tensor:
    """Logits `[batch, 5]` of a fixed net with one hidden layer, for images `[batch, 5, 5, 1]`."""
    return tf.nn.softplus(tf.reshape(images, [-1, 25]) @ KERNEL) @ HEAD


def edge_images() -> np.ndarray:
    """Eight images: black, white, halves of both, faint noise at both ends, and random ones."""
    random = np.random.RandomState(5)
    images = random.rand(8, *SHAPE).astype(np.float32)
    images[0], images[1] = 0.0, 1.0
    images[2], images[2, :2] = 0.0, 1.0
    images[3] *= 1e-4
    images[4] = 1 - images[4] * 1e-4
    images[5] = np.round(images[5])
    return images


class AttackContract:
    """Subclass it as `TestMine` and name attacks: each is run against a fixed net of five classes.

    Attributes:
      attacks: name -> attack, as `auditing` calls it: `attack(model_fn, images, labels, *, threat,
        seeds, objective=None)`. Registered or not.
      norms: what the attacks support, of "linf" and "l2".
    """

    attacks: ClassVar[Mapping[str, Callable[..., tf.Tensor]]] = {}
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if "attack_name" in metafunc.fixturenames:
            metafunc.parametrize("attack_name", list(self.attacks), scope="class")
        if "norm" in metafunc.fixturenames:
            metafunc.parametrize("norm", self.norms, scope="class")

    @classmethod
    @functools.cache
    def compiled(cls, name: str, norm: str) -> Callable[..., tf.Tensor]:
        """The attack as one graph for any batch and any epsilon."""

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *SHAPE], tf.float32),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None, 2], tf.int32),
                tf.TensorSpec([], tf.float32),
            ],
            autograph=False,
        )
        def run(
            images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, epsilon: tf.Tensor
        ) -> tf.Tensor:
            threat = ThreatModel(norm, epsilon)
            return cls.attacks[name](net, images, labels, threat=threat, seeds=seeds)

        return run

    @staticmethod
    def problem(count: int = 5) -> tuple[tf.Tensor, tf.Tensor]:
        """Random images and the labels that the net gives them."""
        images = tf.random.stateless_uniform([count, *SHAPE], seed=[2, 2])
        return images, tf.argmax(net(images), axis=1, output_type=tf.int32)

    def test_never_leaves_ball_or_box(self, attack_name: str, norm: str) -> None:
        images = edge_images()
        found = tf.argmax(net(images), axis=1, output_type=tf.int32)
        run = self.compiled(attack_name, norm)
        for seed, epsilon in enumerate(EPSILONS[norm]):
            for labels in (found, (found + 1) % CLASSES):
                x = run(images, labels, image_seeds(seed, tf.range(len(images))), epsilon)
                assert x.shape == images.shape and x.dtype == tf.float32
                outside = ThreatModel(norm, epsilon).violation(x, images)
                np.testing.assert_allclose(outside, 0, atol=1e-6, err_msg=f"epsilon {epsilon}")

    def test_same_seed_same_images_alone_or_in_company(self, attack_name: str, norm: str) -> None:
        images, labels = self.problem()
        seeds, epsilon = image_seeds(3, tf.range(5)), 0.05 if norm == "linf" else 0.3
        run = self.compiled(attack_name, norm)
        together = run(images, labels, seeds, epsilon)
        np.testing.assert_array_equal(together, run(images, labels, seeds, epsilon))
        alone = run(images[3:4], labels[3:4], seeds[3:4], epsilon)
        # Matrix products of other sizes round differently.
        np.testing.assert_allclose(together[3:4], alone, atol=1e-4)

    def test_an_empty_batch_and_epsilon_zero_change_nothing(self, attack_name: str) -> None:
        images, labels = self.problem()
        run = self.compiled(attack_name, self.norms[0])
        same = run(images, labels, image_seeds(0, tf.range(5)), 0.0)
        np.testing.assert_allclose(same, images, atol=1e-7)
        none = run(images[:0], labels[:0], image_seeds(0, tf.range(0)), 0.1)
        assert none.shape == (0, *SHAPE)
