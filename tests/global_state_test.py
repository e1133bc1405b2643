"""What runs below the binaries leaves seeds, names and settings of the process as they were."""

from __future__ import annotations

import random
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.models.global_state import fresh_names, seeded
from mtard_tf.running import recorder


def _draws() -> tuple:
    initial = keras.initializers.HeNormal()((2, 2))
    return (
        random.random(),
        np.random.rand(),
        float(tf.random.uniform([])),
        float(keras.random.uniform([])),
        np.asarray(initial).tolist(),
    )


def test_inside_are_the_draws_of_the_seed_and_outside_the_caller_s() -> None:
    keras.utils.set_random_seed(3)
    wanted = _draws()
    keras.utils.set_random_seed(8)
    caller = [random.random(), np.random.rand(), random.random(), np.random.rand()]
    keras.utils.set_random_seed(8)
    before = [random.random(), np.random.rand()]
    with seeded(3):
        assert _draws() == wanted
    np.testing.assert_array_equal([*before, random.random(), np.random.rand()], caller)
    after = float(tf.random.uniform([]))
    tf.random.set_seed(8)
    assert float(tf.random.uniform([])) == after  # the caller's seed, not 3


def test_seeds_nest_and_are_put_back_after_an_error() -> None:
    random.seed(1)
    wanted = random.random()
    random.seed(1)
    with pytest.raises(KeyError), seeded(3):
        with seeded(4):
            first = random.random()
        second = random.random()  # goes on from the inner seed, as after setting it
        raise KeyError
    assert random.random() == wanted
    random.seed(4)
    np.testing.assert_array_equal([random.random(), random.random()], [first, second])


def test_a_process_without_a_seed_stays_without() -> None:
    tf.random.set_seed(None)
    with seeded(3):
        pass
    assert float(tf.random.uniform([])) != float(tf.random.uniform([]))
    with seeded(3):
        first = float(tf.random.uniform([]))
    with seeded(3):
        assert float(tf.random.uniform([])) == first


def test_names_begin_anew_inside_and_go_on_outside() -> None:
    with fresh_names():
        keras.layers.Dense(1)
        assert [keras.layers.Dense(1).name, keras.layers.Dense(1).name] == ["dense_1", "dense_2"]
        with fresh_names():
            assert keras.layers.Dense(1).name == "dense"
        assert keras.layers.Dense(1).name == "dense_3"


def test_peak_memory_in_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = types.SimpleNamespace(ru_maxrss=512 * 2**10)
    module = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: usage)
    monkeypatch.setitem(sys.modules, "resource", module)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", "linux")
    assert recorder.peak_memory_mb() == 512
    monkeypatch.setattr(sys, "platform", "darwin")
    assert recorder.peak_memory_mb() == pytest.approx(0.5)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert recorder.peak_memory_mb() is None


def test_the_data_package_is_used_as_it_says() -> None:
    import mtard_tf

    data = mtard_tf.data.fashion_mini()
    batches = mtard_tf.data.training_batches(data, batch_size=128, epochs=2, seed=0)
    images, labels, ids = next(iter(batches))
    assert (images.shape, labels.shape, ids.shape) == ((128, 28, 28, 1), (128,), (128,))
