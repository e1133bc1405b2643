"""The contracts that authors of plugins run: they fail where a plugin breaks them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import testing
from mtard_tf.testing import AttackContract, tiny_data

BREAKS = {
    "ball": lambda net, x, labels, *, threat, seeds: x + 2 * threat.epsilon,
    "dtype": lambda net, x, labels, *, threat, seeds: tf.cast(x, tf.float64),
    "company": lambda net, x, labels, *, threat, seeds: threat.project(
        x + threat.epsilon * tf.cast(tf.shape(x)[0] - 3, tf.float32) / 4, x
    ),
    "zero": lambda net, x, labels, *, threat, seeds: tf.clip_by_value(x + 1e-3, 0.0, 1.0),
}


class _Broken(AttackContract):
    attacks = BREAKS


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("ball", _Broken.test_never_leaves_ball_or_box),
        ("dtype", _Broken.test_never_leaves_ball_or_box),
        ("company", _Broken.test_same_seed_same_images_alone_or_in_company),
    ],
)
def test_a_broken_attack_fails(name, test):
    with pytest.raises(AssertionError):
        test(_Broken(), name, "linf")


def test_an_attack_that_moves_at_epsilon_zero_fails():
    with pytest.raises(AssertionError):
        _Broken().test_an_empty_batch_and_epsilon_zero_change_nothing("zero")


def test_tiny_data_is_learnable_and_the_same_each_time():
    data, again = tiny_data(), tiny_data()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [40, 12, 24]
    assert (data.image_shape, data.num_classes) == ((8, 8, 3), 3)
    np.testing.assert_array_equal(data.train.images, again.train.images)
    channels = data.test.images.mean(axis=(1, 2))
    np.testing.assert_array_equal(channels.argmax(axis=1), data.test.labels)


def test_without_pytest_data_are_there_and_contracts_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest", None)
    assert testing.tiny_data is tiny_data
    message = r"^mtard_tf\.testing\.AttackContract needs pytest: pip install 'mtard_tf\[test\]'\.$"
    with pytest.raises(ModuleNotFoundError, match=message):
        testing.AttackContract  # noqa: B018
