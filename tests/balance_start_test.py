"""L(0) of a student that starts from one of its teachers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.losses import kl_divergence
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.plugins.multi_teacher.balance import first_losses
from mtard_tf.plugins.multi_teacher.mtard import MTARD


def test_first_losses_are_the_first_losses_to_the_bit():
    losses, uniform = tf.constant([0.123456, 3.0]), tf.constant([0.2, 0.3])
    np.testing.assert_array_equal(first_losses(losses, uniform), losses)
    np.testing.assert_array_equal(
        first_losses(tf.constant([3e-4, 3.0]), uniform), [np.float32(3e-4), 3.0]
    )


@pytest.mark.parametrize("rounding", [8e-6, 0.0, -1e-7])
def test_a_rounding_constant_gives_way_to_the_loss_of_equal_logits(rounding):
    uniform = tf.constant([0.2, 0.3])
    found = first_losses(tf.constant([rounding, 3.0]), uniform)
    np.testing.assert_array_equal(found, uniform)


@pytest.mark.parametrize("log_offset", [1e-5, 0.0])
def test_a_copied_student_is_balanced_by_equal_logits(log_offset):
    def net(seed):
        keras.utils.set_random_seed(seed)
        return small_cnn((8, 8, 1), 3, widths=(2,), dense=4)

    clean, robust = net(1), net(2)
    weights = [3 * w for w in clean.get_weights()]
    clean.set_weights(weights)
    student = net(1)
    student.set_weights(weights)
    distiller = MTARD(student, {"clean": clean, "robust": robust}, log_offset=log_offset)
    distiller.compile(optimizer="sgd", jit_compile=False)
    images = tf.constant(np.random.RandomState(0).rand(4, 8, 8, 1), tf.float32)
    distiller.train_step((images, tf.constant([0, 1, 2, 0]), tf.range(4, dtype=tf.int64)))
    logits = clean(images)
    expected = kl_divergence(logits, tf.zeros_like(logits), log_offset=log_offset) / 10
    found = dict(zip(distiller.roles, distiller.first_losses.numpy(), strict=True))
    assert found["clean"] == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-5)
    assert found["clean"] > 1e-4
    assert distiller.said_at_start(["clean"]).startswith(
        "the student starts as a copy of its teacher 'clean', so its own L(0) is only a "
        "rounding error"
    )
    assert distiller.said_at_start([]) == ""
