"""The parts of an evaluation: compiled attacks, batches over devices, and counts."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.auditing.compiled import CompiledModel
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.data.image_data import Split
from mtard_tf.distribute import spreading
from mtard_tf.losses import margin
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel("linf", 0.25)


def _net() -> keras.Model:
    """Logits p and q of the two pixels p and q."""
    net = keras.Sequential(
        [keras.Input((1, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2, use_bias=False)]
    )
    net.set_weights([np.eye(2, dtype=np.float32)])
    return net


def _batch(*pixels: tuple[float, float]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    images = tf.reshape(tf.constant(pixels, tf.float32), [-1, 1, 2, 1])
    return images, tf.zeros(len(pixels), tf.int32), tf.range(len(pixels), dtype=tf.int64)


class Counted:
    """Moves nothing, and counts how often it is traced."""

    def __init__(self) -> None:
        self.traced: list[tuple] = []

    def __call__(self, model_fn, images, labels, *, threat, seeds, objective=None):
        self.traced.append((tuple(images.shape), threat.epsilon))
        return images


def test_an_attack_is_compiled_once_for_the_audit_and_once_for_sweeps() -> None:
    compiled, attack = CompiledModel(_net(), THREAT), Counted()
    for count in (3, 1, 20):
        compiled.attacked(attack, *_batch(*[(0.5, 0.25)] * count))
    assert attack.traced == [((None, 1, 2, 1), 0.25)]
    for epsilon in (0.1, 0.2):
        compiled.attacked(attack, *_batch((0.5, 0.25)), epsilon=epsilon)
    assert len(attack.traced) == 2 and tf.is_tensor(attack.traced[1][1])
    compiled.attacked(Counted(), *_batch((0.5, 0.25)))  # an equal one is another one
    assert len(attack.traced) == 2


def test_threads_share_what_is_compiled() -> None:
    compiled, attack = CompiledModel(_net(), THREAT), Counted()
    batch, results = _batch((0.5, 0.25)), []
    threads = [
        threading.Thread(target=lambda: results.append(compiled.attacked(attack, *batch)[1]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(attack.traced) == 1
    np.testing.assert_array_equal(results, np.zeros((4, 1)))


@pytest.mark.parametrize("count", [31, 32, 70])
def test_a_batch_is_attacked_in_parts_that_give_what_the_whole_gives(count, monkeypatch) -> None:
    pixels = np.random.default_rng(0).uniform(0.2, 0.8, (count, 2))
    found, sizes = {}, {}
    for cores in (1, 2):
        monkeypatch.setattr("mtard_tf.auditing.compiled.default_shards", lambda cores=cores: cores)
        compiled, seen = CompiledModel(_net(), THREAT), []

        def attack(model_fn, images, labels, *, threat, seeds, seen=seen):
            size = tf.numpy_function(
                lambda n: seen.append(int(n)) or n, [tf.shape(images)[0]], tf.int32
            )
            with tf.control_dependencies([size]):
                return PGD(num_steps=3)(model_fn, images, labels, threat=threat, seeds=seeds)

        found[cores], _ = compiled.attacked(attack, *_batch(*pixels))
        sizes[cores] = sorted(seen)
    np.testing.assert_allclose(found[1], found[2], atol=1e-6)
    # Filled up to multiples of 16; a part of fewer is not worth a thread.
    assert sizes == {1: [-(-count // 16) * 16], 2: {31: [32], 32: [16, 16], 70: [48, 48]}[count]}


def test_parts_are_dealt_by_margin_and_filled_up_with_the_smallest(monkeypatch) -> None:
    monkeypatch.setattr("mtard_tf.auditing.compiled.default_shards", lambda: 2)
    pixels = np.random.default_rng(1).uniform(0.2, 0.8, (40, 2))
    compiled, seen = CompiledModel(_net(), THREAT), []
    images, labels, ids = _batch(*pixels)

    def attack(model_fn, images, labels, *, threat, seeds):
        size = tf.numpy_function(lambda x: seen.append(x) or x, [images], tf.float32)
        with tf.control_dependencies([size]):
            return tf.identity(images)

    attack.stops_early = True
    perturbed, _ = compiled.attacked(attack, images, labels, ids)
    np.testing.assert_array_equal(perturbed, images)  # in the order in which they came
    margins = margin(tf.constant(compiled.logits(images)), labels).numpy()
    ranks = [np.argsort(-margins, kind="stable")[first::2] for first in range(2)]
    for part in seen:
        assert part.shape[0] == 32  # 20 images, and 12 copies of the last
        rows = ranks[0] if np.array_equal(part[0], images[int(ranks[0][0])]) else ranks[1]
        np.testing.assert_array_equal(part[:20], tf.gather(images, rows))
        np.testing.assert_array_equal(part[20:], np.repeat(part[19:20], 12, axis=0))
    assert len(seen) == 2


def test_violations_are_measured_and_failures_name_the_attack() -> None:
    def out(model_fn, images, labels, *, threat, seeds, objective=None):
        return images + [[[[0.0], [0.375]]]]

    def broken(model_fn, images, labels, *, threat, seeds, objective=None):
        raise ValueError("no such layer")

    compiled = CompiledModel(_net(), THREAT)
    perturbed, violation = compiled.attacked(out, *_batch((0.5, 0.25), (0.5, 0.75)))
    np.testing.assert_array_equal(perturbed[:, 0, 1, 0], [0.625, 1.125])
    np.testing.assert_array_equal(violation, [0.125, 0.125])  # beyond the ball, and the box
    with pytest.raises(EvaluationError, match="broken.*: no such layer"):
        compiled.attacked(broken, *_batch((0.5, 0.25)))


def test_weights_are_read_at_each_call() -> None:
    net = _net()
    compiled, (images, labels, _) = CompiledModel(net, THREAT), _batch((0.75, 0.5))
    np.testing.assert_array_equal(compiled.logits(images), [[0.75, 0.5]])
    # Cross-entropy at (0.75, 0.5), label 0: both gradients are 1 - p_0 = 1 / (1 + e^0.25).
    expected = 1 / (1 + np.exp(0.25))
    np.testing.assert_allclose(compiled.gradients(images, labels), [expected], rtol=1e-6)
    net.set_weights([2 * np.eye(2, dtype=np.float32)])
    np.testing.assert_array_equal(compiled.logits(images), [[1.5, 1.0]])
    np.testing.assert_allclose(
        compiled.gradients(images, labels), [2 / (1 + np.exp(0.5))], rtol=1e-6
    )


def test_own_functions_get_the_model_and_a_seed_by_image() -> None:
    compiled, batch = CompiledModel(_net(), THREAT, seed=7), _batch((0.5, 0.25), (0.0, 1.0))

    def compute(model_fn, images, labels, seeds, factor):
        return factor * tf.reduce_sum(model_fn(images), 1), seeds

    sums, seeds = compiled.run((compute, None), compute, *batch, tf.constant(2.0))
    np.testing.assert_array_equal(sums, [1.5, 2.0])
    np.testing.assert_array_equal(seeds, [[7, 0], [7, 1]])


@pytest.mark.parametrize("devices", [["CPU:0"], ["CPU:0"] * 3])
@pytest.mark.parametrize(("workers", "index", "own"), [(1, 0, range(5)), (2, 1, (1, 3))])
def test_batches_go_to_devices_and_workers_in_turn(
    devices, workers, index, own, monkeypatch
) -> None:
    monkeypatch.setattr(spreading, "local_devices", lambda strategy: devices)
    monkeypatch.setattr(spreading, "worker_count", lambda strategy: workers)
    monkeypatch.setattr(spreading, "worker_index", lambda strategy: index)
    seen = []

    def compute(images, labels, ids):
        seen.extend(ids.numpy() // 2)
        return labels.numpy() > 0

    labels = tf.constant([0, 1, 1, 1, 0, 1, 1, 0, 1, 1])
    batches = [
        (None, labels[i : i + 2], tf.range(i, i + 2, dtype=tf.int64)) for i in range(0, 10, 2)
    ]
    found = spreading.over_batches(compute, batches, 10, tf.distribute.get_strategy())
    assert sorted(set(seen)) == list(own)
    mine = np.isin(np.arange(10) // 2, list(own))  # the other workers' are summed in
    np.testing.assert_array_equal(found, (labels.numpy() > 0) & mine)


@pytest.mark.parametrize("devices", [["CPU:0"], ["CPU:0"] * 2])
def test_an_error_on_a_device_is_the_callers(devices, monkeypatch) -> None:
    monkeypatch.setattr(spreading, "local_devices", lambda strategy: devices)

    def compute(images, labels, ids):
        raise EvaluationError("one line")

    batches = [(None, None, tf.range(2, dtype=tf.int64))]
    with pytest.raises(EvaluationError, match="^one line$"):
        spreading.over_batches(compute, batches, 2, tf.distribute.get_strategy())


def test_counts_of_four_images_by_hand() -> None:
    # Margins p - q of label 0: 0.8, 0.4, 0.0 (a tie goes to class 0) and, wrong, -0.2. A step of
    # 0.25 to each pixel takes 0.5 of the margin, less where a pixel meets the box.
    pixels = np.array([[255, 51], [153, 51], [51, 51], [51, 102]], np.uint8)
    split = Split(pixels.reshape(4, 1, 2, 1), np.zeros(4, np.int32))
    for batch_size in (1, 3, 250):
        evaluator = Evaluator(_net(), THREAT, batch_size=batch_size)
        np.testing.assert_array_equal(evaluator.clean(split), [True, True, True, False])
        np.testing.assert_array_equal(evaluator.clean(split, 2), [True, True])
        for attack in (FGSM(), PGD(10)):
            survived = evaluator.attacked(attack, split)
            np.testing.assert_array_equal(survived, [True, False, False, False])
    unattacked = Evaluator(_net(), ThreatModel("linf", 0.0))
    np.testing.assert_array_equal(unattacked.attacked(Counted(), split), evaluator.clean(split))


def test_images_that_are_wrong_when_clean_keep_their_prediction() -> None:
    evaluator, attack = Evaluator(_net(), THREAT), Counted()
    images, labels, ids = _batch((0.25, 0.5), (0.5, 0.25))
    found = evaluator.attacked_predictions(attack, images, labels, ids, np.array([1, 0]))
    np.testing.assert_array_equal(found, [1, 0])
    none = evaluator.attacked_predictions(Counted(), images, labels, ids, np.array([1, 1]))
    np.testing.assert_array_equal(none, [1, 1])
