"""Weights into models: name maps, order and shape, what is refused, and the command."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo_weights
from torch_writer import write_legacy, write_zip

from mtard_tf import registry
from mtard_tf.commands import datasets, import_
from mtard_tf.commands.requests import Import
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.importing import checks, layouts
from mtard_tf.importing.name_maps import of_model
from mtard_tf.importing.tensors import WeightsFileError
from mtard_tf.models.layers import NORMALIZATIONS

WIDE = ("models.wide_resnet.depth = 10", "models.wide_resnet.width = 1")
DEEPMIND = (*WIDE, "models.wide_resnet.asymmetric = True")


def _import(source: pathlib.Path, tmp_path: pathlib.Path, **settings) -> tuple[keras.Model, str]:
    """(the file that was written, loaded again; what was said)."""
    said: list[str] = []
    out = tmp_path / "teacher.keras"
    settings = {"model": "models.resnet20", "gin": ("models.resnet20.shortcut = 'A'",)} | settings
    import_.run(Import(source=str(source), out=str(out), **settings), said.append)
    return keras.models.load_model(out, compile=False), "\n".join(said)


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory) -> pathlib.Path:
    """A training checkpoint of a DataParallel ResNet-20, option A, as akamaster's are."""
    state = {f"module.{name}": values for name, values in zoo_weights.state("resnet20_a").items()}
    state["module.bn1.num_batches_tracked"] = np.array(100)
    path = tmp_path_factory.mktemp("source") / "resnet20.th"
    return write_legacy(path, {"state_dict": state, "best_prec1": 91.2})


def _probe(path: pathlib.Path, net: str, size: int, channels_first: bool) -> pathlib.Path:
    images = zoo_weights.images(size)
    if channels_first:
        images = images.transpose(0, 3, 1, 2)
    np.savez(path, images=images, logits=zoo_weights.logits(net, size))
    return path


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_data_parallel_th_file(channels_first, resnet20, tmp_path):
    probe = _probe(tmp_path / "probe.npz", "resnet20_a", 32, channels_first)
    model, said = _import(
        resnet20, tmp_path, normalization="imagenet", probe=str(probe), verify=True
    )
    np.testing.assert_allclose(
        model(zoo_weights.images(32)), zoo_weights.logits("resnet20_a", 32), atol=1e-4
    )
    assert "PyTorch file of before 1.6, 97 tensors" in said
    assert "akamaster" in said and "resnet20: 269,722 parameters" in said
    assert "Probe: logits equal to" in said and "on 2 images" in said


def test_a_probe_finds_the_wrong_normalisation(resnet20, tmp_path):
    probe = _probe(tmp_path / "probe.npz", "resnet20_a", 32, False)
    with pytest.raises(WeightsFileError, match="the logits differ by up to .*check the normal"):
        _import(resnet20, tmp_path, normalization="raw", probe=str(probe))
    assert not (tmp_path / "teacher.keras").exists()


def _wide(form: str) -> dict[str, np.ndarray]:
    """Weights of a wide ResNet 10-1 by the names of one form."""
    if form == "trades":
        names = ("conv1", "block{}.layer.0.", "bn{}", "conv{}", "convShortcut", "bn1", "fc", 1)
    else:
        names = ("init_conv", "layer.{}.block.0.", "batchnorm_{}", "conv_{}", "shortcut")
        names += ("batchnorm", "logits", 0)
    stem, block, norm, conv, skip, last, head, first = names
    shapes = [(f"{stem}.weight", [16, 3, 3, 3])]

    def normed(name: str, width: int) -> None:
        kinds = ("weight", "bias", "running_mean", "running_var")
        shapes.extend((f"{name}.{kind}", [width]) for kind in kinds)

    for stage, (inputs, width) in enumerate(((16, 16), (16, 32), (32, 64))):
        prefix = block.format(stage + first)
        normed(prefix + norm.format(first), inputs)
        shapes.append((f"{prefix}{conv.format(first)}.weight", [width, inputs, 3, 3]))
        normed(prefix + norm.format(first + 1), width)
        shapes.append((f"{prefix}{conv.format(first + 1)}.weight", [width, width, 3, 3]))
        if inputs != width:
            shapes.append((f"{prefix}{skip}.weight", [width, inputs, 1, 1]))
    normed(last, 64)
    shapes += [(f"{head}.weight", [10, 64]), (f"{head}.bias", [10])]
    # Equal in both forms, so that the two files are one net.
    values = zoo_weights.weights([(str(i), shape) for i, (_, shape) in enumerate(shapes)])
    return {
        name: np.abs(v) + 0.5 if name.endswith("var") else v
        for (name, _), (_, v) in zip(shapes, values, strict=True)
    }


def _haiku(path: pathlib.Path, state: dict[str, np.ndarray]) -> pathlib.Path:
    """The same net as DeepMind's JAX code saves it."""
    parameters: dict = {}
    averages: dict = {}
    for name, values in state.items():
        module, _, kind = name.rpartition(".")
        module = module.replace("layer.", "resnet_lay_").replace(".block.", "_block_")
        module = "wide_res_net/~/" + module.replace(".", "/~/")
        if kind.startswith("running"):
            ema = f"{module}/~/{kind[8:]}_ema"
            averages[ema] = {"average": values.reshape(1, 1, 1, -1), "counter": np.array(1)}
            continue
        held = parameters.setdefault(module, {})
        if values.ndim == 4:
            held["w"] = values.transpose(2, 3, 1, 0)
        elif values.ndim == 2:
            held["w"] = values.T
        elif "logits" in module:
            held["b"] = values
        else:
            held["scale" if kind == "weight" else "offset"] = values.reshape(1, 1, 1, -1)
    array = np.empty(2, object)
    array[:] = [parameters, averages]
    np.save(path, array)
    return path


def test_the_three_forms_of_wide_resnets_are_one_net(tmp_path):
    settings = {"model": "models.wide_resnet", "gin": DEEPMIND}
    source = write_zip(tmp_path / "dm.pt", _wide("deepmind"))
    torch_form, said = _import(source, tmp_path, **settings)
    assert "names of DeepMind's WideResNet in PyTorch" in said
    haiku, said = _import(_haiku(tmp_path / "dm.npy", _wide("deepmind")), tmp_path, **settings)
    assert "Haiku arrays" in said and "in Haiku" in said
    settings["gin"] = WIDE
    trades, said = _import(write_zip(tmp_path / "t.pt", _wide("trades")), tmp_path, **settings)
    assert "names of TRADES' WideResNet" in said
    for ours, theirs in zip(torch_form.weights, haiku.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(torch_form.weights, trades.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("form", "bindings", "wanted"),
    [("deepmind", WIDE, "asymmetric=True"), ("trades", DEEPMIND, "asymmetric=False")],
)
def test_a_form_that_pads_otherwise_is_refused(form, bindings, wanted, tmp_path):
    source = write_zip(tmp_path / "net.pt", _wide(form))
    with pytest.raises(WeightsFileError, match=f"pads otherwise; .* with {wanted}"):
        _import(source, tmp_path, model="models.wide_resnet", gin=bindings)


def test_weights_that_are_never_used_are_named_and_counted(tmp_path):
    state = _wide("trades")
    copies = {f"sub_{k}": v for k, v in state.items() if k.startswith("block1.")}
    source = write_zip(tmp_path / "net.pt", state | copies)
    model, said = _import(source, tmp_path, model="models.wide_resnet", gin=WIDE)
    count = sum(values.size for values in copies.values())
    assert f"Left out: {len(copies)} tensors, {count:,} numbers (sub_block1, which" in said
    np.testing.assert_array_equal(
        model.get_layer("stage1_block1_bn1").gamma, state["block1.layer.0.bn1.weight"]
    )


def _changed(**changes) -> dict[str, np.ndarray]:
    state = zoo_weights.state("resnet20_a")
    for name, values in changes.items():
        if values is None:
            del state[name]
        else:
            state[name] = values
    return state


ONE = np.ones(1, np.float32)
KERNEL = np.ones((16, 16, 1, 1), np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer2.1.bn1.running_var": None},
            r"lacks layer2\.1\.bn1\.running_var, of shape \(32,\), for the layer "
            r"stage2_block2_bn1 of resnet20; it is incomplete",
        ),
        (
            {"layer3.2.conv2.weight": None},
            r"has nothing for stage3_block3_conv2 of resnet20; it is incomplete",
        ),
        (
            {"layer1.0.shortcut.0.weight": KERNEL, "extra.weight": ONE, "gain": ONE},
            r"has 3 tensors that resnet20 has no place for: layer1\.0\.shortcut\.0\.weight, "
            r"extra\.weight, .gain; give the --model .*`shortcut`.*--allow_unused",
        ),
        ({"conv1.bias": ONE}, r"1 tensors that resnet20 has no place for: conv1\.bias"),
        (
            {"linear.weight": np.ones((100, 64), np.float32)},
            r"has linear\.weight of shape \(100, 64\) and logits of resnet20 takes \(10, 64\); "
            "give the --model, --classes",
        ),
        ({"fc.weight": np.ones((10, 64), np.float32)}, "has linear and fc, and both are logits"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, message, tmp_path):
    source = write_zip(tmp_path / "net.pt", _changed(**changes))
    with pytest.raises(WeightsFileError, match=message) as caught:
        _import(source, tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "teacher.keras").exists()


def test_what_has_no_place_is_left_out_if_asked(tmp_path):
    source = write_zip(tmp_path / "net.pt", _changed(**{"extra.weight": KERNEL}))
    model, said = _import(source, tmp_path, normalization="imagenet", allow_unused=True)
    assert "Left out: 1 tensors, 256 numbers (no place in the model)" in said
    np.testing.assert_allclose(
        model(zoo_weights.images(32)), zoo_weights.logits("resnet20_a", 32), atol=1e-4
    )


FLAT = {
    "model": "models.small_cnn",
    "gin": ("models.small_cnn.widths = (4, 6)", "models.small_cnn.dense = 16"),
    "image_shape": "12,12,3",
}


@pytest.mark.parametrize(
    ("mean", "deviation", "prefix"),
    [("normalize.mean", "normalize.std", "model."), ("0.mu", "0.sigma", "1.")],
)
def test_a_file_that_says_how_it_normalises(mean, deviation, prefix, tmp_path):
    state = {f"{prefix}{name}": v for name, v in zoo_weights.state("resnet20_a").items()}
    numbers = np.array(NORMALIZATIONS["imagenet"], np.float32).reshape(2, 1, 3, 1, 1)
    source = write_zip(tmp_path / "n.pt", {mean: numbers[0], deviation: numbers[1]} | state)
    model, said = _import(source, tmp_path, normalization="imagenet")
    assert "the file's own numbers" in said
    expected = zoo_weights.logits("resnet20_a", 32)
    np.testing.assert_allclose(model(zoo_weights.images(32)), expected, atol=1e-4)
    wanted = "give --normalization=0.485,0.456,0.406/0.229,0.224,0.225, or --allow_unused"
    with pytest.raises(WeightsFileError, match=wanted):
        _import(source, tmp_path)
    _import(source, tmp_path, allow_unused=True)


def test_unknown_names_are_paired_by_order_and_shape(tmp_path):
    """A linear layer after Flatten, too: its inputs come in another order in PyTorch."""
    source = write_zip(tmp_path / "net.pt", zoo_weights.state("flat"))
    probe = _probe(tmp_path / "probe.npz", "flat", 12, True)
    model, said = _import(source, tmp_path, probe=str(probe), **FLAT)
    np.testing.assert_allclose(
        model(zoo_weights.images(12)), zoo_weights.logits("flat", 12), atol=1e-5
    )
    assert "paired by order and shape" in said and "look at the table" in said
    assert "  5  ->  dense  Dense 16x216, 16" in said


def test_a_keras_file_says_what_the_layers_are(tmp_path):
    """For nets that the registry does not know."""
    net = registry.target("models", "small_cnn")((12, 12, 3), 10, widths=(4, 6), dense=16)
    net.save(tmp_path / "net.keras")
    source = write_zip(tmp_path / "net.pt", zoo_weights.state("flat"))
    model, _ = _import(source, tmp_path, model=str(tmp_path / "net.keras"), gin=())
    with pytest.raises(ValueError, match="has its layers and its normalisation; leave"):
        _import(source, tmp_path, model=str(tmp_path / "net.keras"))
    np.testing.assert_allclose(
        model(zoo_weights.images(12)), zoo_weights.logits("flat", 12), atol=1e-5
    )


def test_another_order_of_unique_shapes_is_paired(tmp_path):
    source = write_zip(tmp_path / "net.pt", dict(reversed(zoo_weights.state("flat").items())))
    model, _ = _import(source, tmp_path, **FLAT)
    np.testing.assert_allclose(
        model(zoo_weights.images(12)), zoo_weights.logits("flat", 12), atol=1e-5
    )


def test_another_order_of_equal_shapes_is_refused(tmp_path):
    state = {f"{i}.weight": np.ones((4, 4, 3, 3), np.float32) for i in range(2)}
    state |= {f"{i}.bias": np.ones(4, np.float32) for i in range(2)}
    state["first.weight"], state["first.bias"] = np.ones((4, 3, 3, 3), np.float32), state["0.bias"]
    state["last.weight"], state["last.bias"] = np.ones((10, 4), np.float32), np.ones(10, np.float32)
    source = write_zip(tmp_path / "net.pt", state)
    bindings = ("models.small_cnn.widths = (4, 4, 4)", "models.small_cnn.dense = 0")
    with pytest.raises(
        WeightsFileError, match="another order than the model, and 0 could be any of"
    ):
        _import(source, tmp_path, model="models.small_cnn", gin=bindings)


def test_depthwise_multipliers_and_unknown_layers():
    images = keras.Input((4, 4, 3))
    layer = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)
    layer(images)
    (weight,) = layouts.weights(layer)
    # PyTorch: output channel c * 2 + m is the m-th filter of input channel c.
    kernel = np.arange(6 * 9, dtype=np.float32).reshape(6, 1, 3, 3)
    converted = weight.convert(kernel)
    assert weight.shape == kernel.shape and converted.shape == (3, 3, 3, 2)
    np.testing.assert_array_equal(converted[:, :, 2, 1], kernel[5, 0])
    other = keras.layers.Conv2DTranspose(2, 3)
    other(images)
    with pytest.raises(WeightsFileError, match="is a Conv2DTranspose; weights are imported for"):
        layouts.weights(other)


@pytest.mark.parametrize(
    "name", [n for n in registry.names("models") if "resnet" in n or n == "mobilenet_v2"]
)
def test_every_net_of_the_zoo_has_a_map_of_names(name):
    settings = {"depth": 10, "width": 1} if name == "wide_resnet" else {}
    with keras.StatelessScope(initialize_variables=False):
        model = registry.target("models", name)((32, 32, 3), 10, **settings)
    layers = {layer.name for layer in model.layers}
    maps = of_model(model.name)
    assert maps
    for name_map in maps:
        for template in name_map.rows.values():
            first = template.format(stage=2, block=1, n=1)
            assert first in layers or first.endswith(("skip", "skip_bn")), (name, first)


def _data(model: keras.Model) -> ImageData:
    """Random images, labelled by the model."""
    images = np.random.RandomState(0).randint(0, 256, (60, 12, 12, 3)).astype(np.uint8)
    labels = np.argmax(model(images / np.float32(255)), 1).astype(np.int32)
    split = Split(images, labels)
    return ImageData("toy", tuple("abcdefghij"), split, split, split)


@pytest.mark.parametrize("chosen", ["imagenet", "cifar100", ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))])
def test_accuracies_are_those_of_models_that_normalise_otherwise(chosen):
    """No second model is built for them: the images are moved so that the first layer undoes it."""

    def make(normalization):
        keras.utils.set_random_seed(1)
        model = registry.target("models", "small_cnn")(
            (12, 12, 3), 10, widths=(8,), dense=0, normalization=normalization
        )
        model.get_layer("conv1").bias.assign(tf.random.stateless_normal([8], [1, 2]))
        return model

    data = _data(make("raw"))
    lines = list(checks.accuracies(make(chosen), data, None, 25))
    for name in ("cifar10", "cifar10_chenyaofo", "cifar100", "imagenet"):
        answers = np.argmax(make(name)(data.test.images / np.float32(255)), 1)
        share = f"{100 * np.mean(answers == data.test.labels):.2f} %"
        assert (f"{name} {share}" in lines[1]) or (
            name == chosen and f"{share} ({name})" in lines[0]
        )
    assert "raw 100.00 %" in lines[1]
    assert lines[2].startswith("Warning: raw scores 100.00 %, above the ")
    assert lines[2].endswith("with it, give --normalization=raw.")
    best = list(checks.accuracies(make("raw"), data, 30, 25))
    assert best[0] == "Accuracy on 30 test images of toy: 100.00 % (raw)"
    assert len(best) == 2


def test_accuracy_on_a_data_set(tmp_path, monkeypatch):
    model = registry.target("models", "small_cnn")((12, 12, 3), 10, widths=(4, 6), dense=16)
    monkeypatch.setattr(datasets, "dataset", lambda name, folder: _data(model))
    source = write_zip(tmp_path / "net.pt", zoo_weights.state("flat"))
    _, said = _import(source, tmp_path, dataset="toy", **FLAT)
    assert "Accuracy on 60 test images of toy: " in said
    with pytest.raises(ValueError, match="takes images of .* and the data set has"):
        data = _data(model)
        split = Split(data.test.images[:, :8, :8], data.test.labels)
        small = ImageData("small", data.label_names, split, split, split)
        monkeypatch.setattr(datasets, "dataset", lambda name, folder: small)
        _import(source, tmp_path, dataset="small", **FLAT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "models.resnet21"}, "Unknown model 'resnet21'; did you mean 'resnet"),
        ({"image_shape": "32,32"}, "--image_shape is '32,32'; give height,width,channels"),
        ({"normalization": "1,2/x"}, "--normalization is '1,2/x'; give raw, cifar10"),
        ({"normalization": "0.5,0.5/1,1"}, "the images have 3 channels; give"),
        ({"normalization": "cifar"}, "normalization is 'cifar'; use one of raw"),
        ({"gin": ("models.resnet20.shortcut = 'C'",)}, "shortcut is 'C'; use 'A'"),
        ({"gin": ("models.resnet20.option = 'A'",)}, "parameter of .*resnet20 'option'"),
        (
            {"gin": ("models.resnet56.shortcut = 'A'",)},
            "models.resnet56.shortcut has no effect: .* used are: models.resnet20",
        ),
        ({"gin": ("models.resnet20.shortcut = 1e999",)}, "shortcut holds inf; give finite"),
        ({"verify": True}, "--verify compares logits .* --probe=FILE.npz"),
        ({"probe": "none.npz"}, "none.npz cannot be read .*arrays `images` and `logits`"),
        ({"key": "ema"}, "no weights under 'ema'"),
    ],
)
def test_bad_flags_are_one_line(settings, message, resnet20, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        _import(resnet20, tmp_path, **settings)
    assert not (tmp_path / "teacher.keras").exists()
    assert len(str(caught.value).splitlines()) == 1 or "In call to" in str(caught.value)


def test_a_probe_of_another_net(resnet20, tmp_path):
    np.savez(tmp_path / "p.npz", images=np.zeros((2, 3, 8, 8)), logits=np.zeros((2, 10)))
    with pytest.raises(WeightsFileError, match=r"has images \(2, 3, 8, 8\) .* takes \(32, 32, 3\)"):
        _import(resnet20, tmp_path, probe=str(tmp_path / "p.npz"))


def test_the_file_is_a_keras_file(resnet20, tmp_path):
    with pytest.raises(ValueError, match="--out is .* that ends in .keras"):
        import_.run(Import(str(resnet20), "models.resnet20", str(tmp_path / "net.h5")))


def test_a_model_without_normalisation(resnet20, tmp_path):
    if "bare" not in registry.names("models"):
        registry.register("models", "bare")(lambda image_shape, num_classes: None)
    with pytest.raises(ValueError, match="models.bare takes no normalization; leave"):
        _import(resnet20, tmp_path, model="models.bare", normalization="raw")


def test_the_command(resnet20, tmp_path):
    out = tmp_path / "teacher.keras"
    said: list[str] = []
    wanted = Import(
        source=str(resnet20),
        model="models.resnet20",
        out=str(out),
        gin=["models.resnet20.shortcut = 'A'"],
        normalization="imagenet",
    )
    import_.run(wanted, said.append)
    assert said[-1] == f"Model: {out}"
    model = keras.models.load_model(out, compile=False)
    np.testing.assert_allclose(
        model(zoo_weights.images(32)), zoo_weights.logits("resnet20_a", 32), atol=1e-4
    )
    # Option B has shortcuts that the file has not.
    option_b = Import(source=str(resnet20), model="models.resnet20", out=str(tmp_path / "b.keras"))
    with pytest.raises(WeightsFileError, match="stage2_block1_skip") as caught:
        import_.run(option_b)
    assert len(str(caught.value).splitlines()) == 1 and not pathlib.Path(option_b.out).exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's count of memory in /proc")
def test_a_wide_resnet_of_46_million_parameters_in_time_and_memory(tmp_path):
    """The import itself below three times the file, and below 60 s.

    Pages of libraries are left out (RssFile), and what a process has that does nothing, as it
    refuses a source that is not there.
    """
    source = write_zip(tmp_path / "trades.pt", zoo_weights.state("wide_resnet34_10"))
    size = source.stat().st_size
    measured = (
        "import atexit, runpy, sys; "
        "atexit.register(lambda: print(open('/proc/self/status').read(), file=sys.stderr)); "
        "runpy.run_module('mtard_tf.bin.import_', run_name='__main__', alter_sys=True)"
    )

    def own_memory(path: pathlib.Path, code: int) -> int:
        flags = (f"--source={path}", "--model=models.wide_resnet34_10", f"--out={tmp_path}/t.keras")
        done = subprocess.run(
            [sys.executable, "-c", measured, *flags],
            cwd=pathlib.Path(__file__).parent.parent,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", done.stderr, re.M))
        return 1024 * (int(kilobytes["VmHWM"]) - int(kilobytes["RssFile"]))

    idle = own_memory(tmp_path / "missing.pt", 1)
    start = time.monotonic()
    taken = own_memory(source, 0)
    seconds = time.monotonic() - start
    print(f"{size / 1e6:.0f} MB: {seconds:.0f} s, {taken / 1e6:.0f} MB, idle {idle / 1e6:.0f} MB")
    assert taken - idle < 3 * size
    assert seconds < 60
    model = keras.models.load_model(tmp_path / "t.keras", compile=False)
    np.testing.assert_allclose(
        model(zoo_weights.images(32)), zoo_weights.logits("wide_resnet34_10", 32), atol=1e-4
    )
