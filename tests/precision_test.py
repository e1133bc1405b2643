"""Nets with plain operations and nets within nets compute in another precision, and come back."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks.pgd import PGD
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.distiller.inner_attack import InnerAttack
from mtard_tf.experiment.stage import Stage
from mtard_tf.models import precision
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.models.precision import with_precision
from mtard_tf.models.resnet_cifar import resnet8
from mtard_tf.plugins.adversarial_training.pgd_at import PGDAdversarialTraining
from mtard_tf.running import machine
from mtard_tf.threat import ThreatModel

_L = keras.layers
SHAPE = (6, 6, 3)


def _residual() -> keras.Model:
    """BatchNorm to fold, `x + shortcut`, and operations between layers."""
    inputs = keras.Input(SHAPE)
    shortcut = _L.BatchNormalization()(_L.Conv2D(3, 3, padding="same")((inputs - 0.5) / 0.25))
    x = _L.Conv2D(3, 3, padding="same", use_bias=False)(shortcut)
    x = keras.ops.relu(_L.BatchNormalization()(x) + shortcut)
    return keras.Model(inputs, _L.Dense(2)(keras.ops.mean(x, axis=(1, 2))))


def _constants() -> keras.Model:
    """Operations with arrays in float32, of which a convolution takes no two precisions."""
    inputs = keras.Input(SHAPE)
    x = _L.Conv2D(3, 3, padding="same")(inputs)
    x = keras.ops.conv(x, np.full((3, 3, 3, 3), 0.1, np.float32), padding="same")
    x = keras.ops.minimum(keras.ops.matmul(x, np.eye(3, dtype=np.float32)), inputs)
    x = keras.ops.stack([x, inputs], axis=1)
    return keras.Model(inputs, _L.Dense(2)(keras.ops.max(x, axis=(1, 2, 3))))


def _cast() -> keras.Model:
    """`keras.ops.cast` has a dtype of its own; the logits are a plain operation's."""
    inputs = keras.Input(SHAPE)
    x = keras.ops.cast(inputs > 0.5, "float32")
    return keras.Model(inputs, 2.0 * _L.Dense(2)(_L.Flatten()(x)) + 1.0)


def _nested() -> keras.Model:
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, _residual()(inputs) + 1.0)


def _sequential() -> keras.Model:
    return keras.Sequential([keras.Input(SHAPE), _residual(), _L.Dense(2)])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("make", [_residual, _constants, _cast, _nested, _sequential])
def test_plain_operations_run_in_every_precision(make, policy: str, tmp_path) -> None:
    model = make()
    images = np.random.RandomState(0).uniform(size=(4, *SHAPE)).astype(np.float32)
    wanted = np.asarray(model(images))
    mixed = with_precision(model, policy)
    tolerance = 0.05 if policy == "mixed_bfloat16" else 0.01
    for logits in (mixed(images), FoldedInference(mixed)()(images)):
        np.testing.assert_allclose(np.asarray(logits, np.float32), wanted, atol=tolerance)
    inner = [p for p in mixed._flatten_layers() if isinstance(p, _L.Dense | _L.Conv2D)]
    assert {layer.dtype_policy.name for layer in inner} == {policy}
    assert with_precision(mixed, policy) is mixed

    mixed.save(tmp_path / "mixed.keras")
    loaded = keras.models.load_model(tmp_path / "mixed.keras")
    back = with_precision(loaded, "float32")
    np.testing.assert_array_equal(np.asarray(back(images)), wanted)
    assert with_precision(model, "float32") is model


def test_what_passes_a_folded_layer_is_not_converted() -> None:
    fold = FoldedInference(with_precision(resnet8(SHAPE, 2), "mixed_bfloat16"))
    graph = tf.function(lambda images: fold()(images)).get_concrete_function(_images()).graph
    casts = [op for op in graph.get_operations() if op.type == "Cast"]
    shapes = [tuple(op.inputs[0].shape) for op in casts]
    # Nets average in float32, at the end; besides that, kernels and biases.
    assert [shape for shape in shapes if shape[0] == 4] == [(4, *SHAPE), (4, 2, 2, 64), (4, 64)]
    assert len(shapes) > 10


def _images(count: int = 4) -> tf.Tensor:
    return tf.random.stateless_uniform([count, *SHAPE], [0, 1])


def _attack(student: keras.Model, policy: str | None, batch_norm: str) -> InnerAttack:
    context = TrainingContext(ThreatModel(epsilon=0.1), attack_precision=policy, attack_shards=1)
    training = FusedTraining(student)
    return InnerAttack(PGD(num_steps=3), student, training, context, batch_norm, "Mine")


@pytest.mark.parametrize("batch_norm", ["inference", "batch"])
@pytest.mark.parametrize("make", [_residual, _nested])
def test_a_student_is_attacked_in_a_precision_of_its_own(make, batch_norm: str) -> None:
    student, images = make(), _images()
    plain, apart = (_attack(student, p, batch_norm) for p in (None, "mixed_bfloat16"))
    apart.prove(images)
    before = student.get_weights()
    own, other = plain.model_fn()(images), apart.model_fn()(images)
    assert other.dtype == tf.float32
    difference = np.abs(own - other).max() / np.abs(own).max()
    assert 1e-5 < difference < 0.05  # a product in bfloat16 is right to 0.4 %
    seeds = tf.zeros([4, 2], tf.int32)
    labels = tf.constant([0, 1, 0, 1])
    moved = apart(images, labels, seeds, tf.constant(0.0)) - images
    assert 0.09 < np.abs(moved).max() <= 0.1 + 1e-6
    # It follows the student's weights, and changes none of them.
    for was, now in zip(before, student.get_weights()[: len(before)], strict=True):
        assert batch_norm == "batch" or np.array_equal(was, now)
    *_, kernel, bias = student.trainable_variables
    kernel.assign(tf.zeros_like(kernel)), bias.assign([1.0, 2.0])
    shift = float(make is _nested)
    expected = np.full((4, 2), [1.0, 2.0]) + shift
    np.testing.assert_array_equal(apart.model_fn()(images), expected)


def test_a_student_that_cannot_be_rebuilt_is_not_attacked_in_another_precision() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = _L.Dense(2)

        def call(self, images: tf.Tensor) -> tf.Tensor:
            return self.dense(keras.ops.mean(images, axis=(1, 2)))

    student = Own()
    student(_images())
    with pytest.raises(ValueError) as caught:
        _attack(student, "mixed_bfloat16", "inference").prove(_images())
    assert str(caught.value).startswith(
        f"Mine: the student {student.name} gives other logits when rebuilt in "
    )
    assert str(caught.value).endswith("leave Stage.attack_precision out.")


FLAGS = """processor : 0
flags : fpu vme avx512f{} sse2
bugs : none
"""


@pytest.mark.parametrize(
    ("text", "native"),
    [(FLAGS.format(" avx512_bf16"), True), (FLAGS.format(" amx_bf16"), True), (FLAGS, False)],
)
def test_cpus_that_multiply_bfloat16_are_known_by_their_flags(tmp_path, text, native) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    flags = precision._cpu_flags(str(path))
    assert "sse2" in flags and bool(precision._CPU_FLAGS & flags) == native
    assert precision._cpu_flags(str(tmp_path / "absent")) == set()


def test_a_stage_may_leave_its_precision_to_the_device(monkeypatch) -> None:
    stage = Stage("net", PGDAdversarialTraining, lambda shape, classes: None, precision="auto")
    said: list[str] = []
    for native, policy in ((True, "mixed_bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision, "native_bfloat16", lambda native=native: native)
        monkeypatch.setattr(machine, "native_bfloat16", lambda native=native: native)
        assert (stage.policy, stage.attack_policy) == (policy, policy)
        apart = dataclasses.replace(stage, precision="float32", attack_precision="auto")
        assert (apart.policy, apart.attack_policy) == ("float32", policy)
        machine.say_precision(stage, said.append)
        machine.say_precision(apart, said.append)
        assert machine.computing(stage, tf.distribute.get_strategy()).endswith(
            f", precision: {policy}"
        )
    fixed = dataclasses.replace(stage, precision="mixed_bfloat16")
    machine.say_precision(fixed, said.append)
    assert said == [
        "precision: mixed_bfloat16 (this device multiplies bfloat16 in hardware).",
        "precision: float32, attack mixed_bfloat16 (this device multiplies bfloat16 in hardware).",
        "precision: float32 (this device does not multiply bfloat16 in hardware).",
        "precision: float32 (this device does not multiply bfloat16 in hardware).",
    ]
    assert "precision" not in machine.computing(fixed, tf.distribute.get_strategy())
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(stage, attack_precision="bfloat16")
    assert str(caught.value) == (
        "net/Stage.attack_precision is 'bfloat16'; use None or 'float32' or 'mixed_bfloat16' or "
        "'mixed_float16' or 'auto'."
    )
