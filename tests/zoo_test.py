"""Every net of the zoo against PyTorch: parameters to the unit, and logits of the same weights.

`reference/zoo_logits.npz` is what the nets of `torch_zoo.py` answer; where torch can be imported,
that is run again.
"""

from __future__ import annotations

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
import zoo_weights

from mtard_tf import registry
from mtard_tf.importing import matching
from mtard_tf.importing.checkpoint import Checkpoint
from mtard_tf.importing.tensors import Tensor
from mtard_tf.models.folding import FoldedInference

TORCH = importlib.util.find_spec("torch") is not None

# Name in the reference -> (model, settings, classes).
NETS = {
    **{
        f"resnet{d}_{option.lower()}": (f"resnet{d}", {"shortcut": option}, 10)
        for d in (20, 32, 44, 56, 110)
        for option in "AB"
    },
    "resnet20_a": ("resnet20", {"shortcut": "A", "normalization": "imagenet"}, 10),
    "resnet18": ("resnet18", {}, 10),
    "resnet34": ("resnet34", {}, 10),
    "flat": ("small_cnn", {"widths": (4, 6), "dense": 16}, 10),
    "preact_resnet18": ("preact_resnet18", {}, 10),
    "preact_resnet18_input": (
        "preact_resnet18",
        {"final_batch_norm": False, "shortcut_of": "input"},
        10,
    ),
    "preact_resnet34": ("preact_resnet34", {}, 10),
    "mobilenet_v2": ("mobilenet_v2", {}, 10),
    "wide_resnet34_10": ("wide_resnet34_10", {}, 10),
    "wide_resnet28_10": ("wide_resnet28_10", {}, 10),
    "wide_resnet22_6": ("wide_resnet22_6", {}, 100),
    "wide_resnet28_10_dm": ("wide_resnet28_10_dm", {}, 10),
    "wide_resnet34_20": ("wide_resnet34_20", {}, 10),
    "wide_resnet34_20_dm": ("wide_resnet34_20_dm", {}, 10),
    "wide_resnet70_16": ("wide_resnet70_16", {}, 100),
}
# The rest takes minutes; one net of each definition stays, at one size.
FAST = ("flat", "resnet18", "resnet20_a", "resnet20_b", "mobilenet_v2")
FAST += ("preact_resnet18_input", "wide_resnet22_6")
SLOW = [name for name in NETS if name not in FAST]


def _model(name: str, size: int = 32) -> keras.Model:
    model, settings, classes = NETS[name]
    return registry.target("models", model)((size, size, 3), classes, **settings)


def _weighted(name: str, size: int) -> keras.Model:
    model = _model(name, size)
    tensors = {
        key: Tensor(values.shape, lambda values=values: values)
        for key, values in zoo_weights.state(name).items()
    }
    checkpoint = Checkpoint(pathlib.Path(name), "random", tensors)
    matching.load(checkpoint, matching.match(checkpoint, model))
    return model


def _keys() -> list[str]:
    with np.load(zoo_weights.REFERENCE) as file:
        return list(file)


def _cases() -> list:
    cases = [key.split("/") for key in _keys() if not key.endswith("shapes")]
    return [
        pytest.param(name, int(size), marks=[pytest.mark.slow] if _slow(name, size) else [])
        for name, size in cases
    ]


def _slow(name: str, size: str) -> bool:
    return name in SLOW or size in ("28", "64")


def test_the_reference_holds_every_net() -> None:
    assert {case.values[0] for case in _cases()} == NETS.keys()
    zoo = {name for name in registry.names("models") if "mtard_tf.models" in _home(name)}
    # These have no counterpart whose weights the reference holds.
    others = {"wide_resnet", "defensive_cnn", "vit_tiny", "convnext_femto"}
    others |= {"from_file", "keras_application", "resnet8"}
    assert zoo == {model for model, _, _ in NETS.values()} | others


def _home(name: str) -> str:
    return registry.target("models", name).__module__


@pytest.mark.parametrize(("name", "size"), _cases())
def test_logits_equal_pytorchs(name: str, size: int) -> None:
    model = _weighted(name, size)
    images = zoo_weights.images(size)
    expected = zoo_weights.logits(name, size)
    logits = model(images, training=False).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-5)
    # Two images differ by far more, so that the weights and the images matter.
    assert np.abs(expected[0] - expected[1]).max() > 0.02
    # Attacks run the net so: BatchNorm folded where it follows a convolution, and only there.
    np.testing.assert_allclose(FoldedInference(model)()(images), logits, atol=1e-4, rtol=1e-5)


@pytest.mark.skipif(
    not TORCH,
    reason="torch is not installed (extra `torch`); its answers in tests/reference/zoo_logits.npz "
    "stand in: test_logits_equal_pytorchs compares with them",
)
@pytest.mark.parametrize("name", FAST)
def test_the_reference_is_what_pytorch_answers_here(name: str) -> None:
    import torch_zoo

    net = torch_zoo.make(name)
    assert [(key, list(shape)) for key, shape in zoo_weights.shapes(name)] == torch_zoo.shapes(net)
    for size in torch_zoo.NETS[name][1]:
        expected = zoo_weights.logits(name, size)
        np.testing.assert_allclose(torch_zoo.logits(net, size), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "settings", "parameters"),
    [
        ("resnet18", {}, {10: 11_173_962, 100: 11_220_132, 200: 11_271_432}),
        ("mobilenet_v2", {}, {10: 2_296_922, 100: 2_412_212}),
        ("preact_resnet18", {}, {10: 11_172_170, 100: 11_218_340}),
        ("preact_resnet18", {"final_batch_norm": False}, {10: 11_171_146}),
        ("resnet56", {"shortcut": "B"}, {10: 855_770, 100: 861_620}),
        ("resnet56", {"shortcut": "A"}, {10: 853_018}),
        ("wide_resnet34_10", {}, {10: 46_160_474}),
        ("wide_resnet34_20", {}, {10: 184_531_674}),
        ("wide_resnet28_10", {}, {10: 36_479_194, 100: 36_536_884}),
        ("wide_resnet70_16", {}, {10: 266_796_506, 100: 266_888_756}),
        ("wide_resnet22_6", {}, {100: 9_693_108}),
    ],
)
def test_parameter_counts_of_the_papers(model, settings, parameters) -> None:
    # Shapes alone: in this scope Keras makes no values, of which the largest net has a gigabyte.
    with keras.StatelessScope(initialize_variables=False):
        for classes, expected in parameters.items():
            net = registry.target("models", model)((32, 32, 3), classes, **settings)
            assert sum(int(np.prod(v.shape)) for v in net.trainable_variables) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETS if name != "flat"])
def test_parameters_equal_pytorchs(name: str) -> None:
    with keras.StatelessScope(initialize_variables=False):
        model = _model(name)
    theirs = sum(
        int(np.prod(shape))
        for key, shape in zoo_weights.shapes(name)
        if "running" not in key and not key.startswith("sub_block1")
    )
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == theirs


def _swish(**settings) -> keras.Model:
    make = registry.target("models", "wide_resnet")
    return make((32, 32, 3), 10, depth=10, width=1, activation="swish", **settings)


def test_padding_on_one_side_is_not_padding_on_both() -> None:
    """What would be lost if DeepMind's weights came into the form of TRADES."""
    images = zoo_weights.images(32)
    model, other = _swish(asymmetric=True), _swish()
    other.set_weights(model.get_weights())
    assert np.abs(other(images).numpy() - model(images).numpy()).max() > 0.02


@pytest.mark.parametrize("name", ["resnet20", "wide_resnet"])
def test_a_saved_file_loads_without_this_package(name: str, tmp_path: pathlib.Path) -> None:
    model = _swish(normalization="cifar100") if name == "wide_resnet" else _model("resnet20_a")
    model.save(tmp_path / "net.keras")
    assert "mtard_tf" not in model.to_json()
    loaded = keras.models.load_model(tmp_path / "net.keras", compile=False)
    images = zoo_weights.images(32)
    np.testing.assert_array_equal(loaded(images), model(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 33, "width": 10}, r"depth is 33; give 6n \+ 4"),
        ({"depth": 10, "width": 1, "activation": "gelu"}, "activation is 'gelu'; use 'relu'"),
        ({"depth": 10, "width": 1, "normalization": "cifar"}, "normalization is 'cifar'; use one"),
        ({"depth": 10, "width": 1, "normalization": ((0.5,), (0.2,))}, "have 3 channels; give"),
        (
            {"depth": 10, "width": 1, "normalization": ((0.5,) * 3, (0.0,) * 3)},
            "standard deviations",
        ),
        ({"shortcut_of": "output"}, "shortcut_of is 'output'; use 'activation' or 'input'"),
    ],
)
def test_bad_settings(settings, message) -> None:
    name = "preact_resnet18" if "shortcut_of" in settings else "wide_resnet"
    with pytest.raises(ValueError, match=message):
        registry.target("models", name)((32, 32, 3), 10, **settings)
