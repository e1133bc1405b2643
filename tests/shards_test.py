"""A training step on batches that do not fill the attack's shards."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.distiller import _shards
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.optimizers import sgd
from mtard_tf.plugins.multi_teacher.bmtard import BMTARD


def _net():
    return small_cnn((8, 8, 1), 3, widths=(4, 4), dense=8, batch_normalization=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_short_batch_trains(batch):
    distiller = BMTARD(_net(), {"clean": _net(), "robust": _net()}, attack_shards=2)
    distiller.compile(optimizer=sgd(0.1), jit_compile=False)
    images = tf.random.stateless_uniform([4, 8, 8, 1], [0, 1])
    step = tf.function(
        distiller.train_step,
        input_signature=[
            (
                tf.TensorSpec([None, 8, 8, 1]),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.int64),
            )
        ],
    )
    logs = step((images[:batch], tf.zeros([batch], tf.int32), tf.range(batch, dtype=tf.int64)))
    assert np.isfinite(logs["loss"])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_shards_cover_the_batch_in_order_and_none_is_empty(count, shards):
    rows = np.arange(count)
    parts = [rows[int(s.start) : int(s.stop)] for s in _shards(tf.constant(count), shards)]
    assert all(len(part) for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts)[:count], rows)
