"""Models that expect or return something else: what mtard-eval says, and its figures once told.

    python benchmarks/wrong_models.py

Trains a small net on images with three channels and one on two classes, builds from each the same
function with another input or output, audits those without and with the flag, and prints a table.
Exits with 1 if a flag is not named, or if a figure is not the right model's.
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable

import keras
import numpy as np

import mtard_tf as mt
from mtard_tf.commands import eval as command
from mtard_tf.commands import requests
from mtard_tf.data import Split, fashion_mini, tfds, writing
from mtard_tf.models.adapters import adapted
from mtard_tf.models.layers import NORMALIZATIONS

COLOUR, TWO = "colour", "two"
EXAMPLES = 200
SUITE = """
Suite.attacks = {'pgd': @attacks.pgd()}
attacks.pgd.num_steps = 20
Suite.probe_examples = 20
"""
_L = keras.layers
Make = Callable[[keras.Model], keras.Model]


def after(*layers: keras.layers.Layer) -> Make:
    return lambda net: keras.Sequential([net, *layers], name="net")


def before(shape: tuple[int, ...], *layers: keras.layers.Layer) -> Make:
    def make(net: keras.Model) -> keras.Model:
        images = x = keras.Input(shape)
        for layer in layers:
            x = layer(x)
        return keras.Model(images, net(x), name="net")

    return make


def denormalised(name: str) -> keras.layers.Layer:
    mean, deviation = NORMALIZATIONS[name]
    return _L.Rescaling(np.float32(deviation), offset=np.float32(mean))


def one_output(net: keras.Model) -> keras.Model:
    """The sigmoid of the difference of two logits."""
    hidden = keras.Model(net.input, net.layers[-1].input)
    kernel, bias = net.layers[-1].get_weights()
    last = _L.Dense(1, activation="sigmoid", name="probability")
    made = keras.Model(hidden.input, last(hidden.output), name="net")
    last.set_weights([kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]])
    return made


SHAPE = (28, 28, 3)
# (what it is, its data, how it is made from the right model, the flag)
CASES: tuple[tuple[str, str, Make, str], ...] = (
    ("ends in softmax", COLOUR, after(_L.Softmax()), "--from_probabilities"),
    ("ends in sigmoid", COLOUR, after(_L.Activation("sigmoid")), "--from_probabilities"),
    ("one output for two classes", TWO, one_output, "--from_probabilities"),
    ("takes 0 to 255", COLOUR, before(SHAPE, _L.Rescaling(1 / 255)), "--input_scale=255"),
    *(
        (
            f"takes {name}'s normalisation",
            COLOUR,
            before(SHAPE, denormalised(name)),
            f"--normalization={name}",
        )
        for name in ("imagenet", "cifar10")
    ),
    (
        "takes channels first",
        COLOUR,
        before((3, 28, 28), _L.Permute((2, 3, 1))),
        "--channels_first",
    ),
)


def changes(flag: str) -> dict:
    """What the flag gives `adapted`."""
    name, _, value = flag.removeprefix("--").partition("=")
    return {name: float(value) if value.isdecimal() else value or True}


def write_sets(folder: pathlib.Path) -> None:
    """fashion_mini with three equal channels, and its trousers and dresses alone."""
    data = fashion_mini()

    def coloured(split: Split) -> Split:
        return Split(np.repeat(split.images, 3, axis=3), split.labels)

    def two(split: Split) -> Split:
        chosen = split.take(np.flatnonzero(np.isin(split.labels, (1, 3))))
        return Split(chosen.images, (chosen.labels == 3).astype(np.int32))

    for name, change, labels in (
        (COLOUR, coloured, data.label_names),
        (TWO, two, ("Trouser", "Dress")),
    ):
        splits = {"train": change(data.train), "test": change(data.test)}
        writing.write_tfds(folder / name / "1.0.0", name, splits, label_names=labels)


def trained(name: str, folder: pathlib.Path) -> keras.Model:
    data = tfds(name, str(folder))
    net = mt.models.small_cnn(data.image_shape, data.num_classes, widths=(8, 8, 16, 16), dense=32)
    return mt.train("natural", net, data, epochs=3)


def audited(folder: pathlib.Path, path: str, name: str, flag: str = "") -> tuple[str, dict]:
    """What `mtard-eval` says on stderr, and the figures of its report."""
    out = folder / f"audit{len(list(folder.glob('audit*')))}"
    request = requests.Eval(
        model=str(folder / path),
        dataset=name,
        data_dir=str(folder),
        epsilon="8/255",
        suite=str(folder / "suite.gin"),
        examples=EXAMPLES,
        out=str(out),
        **(changes(flag) if flag else {}),
    )
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            command.run(request)
    except ValueError as error:
        return f"mtard-eval: {error}", {}
    said = [line for line in heard.getvalue().splitlines() if line.startswith("warning")]
    found = json.loads((out / "report.json").read_text())
    figures = {"clean": found["clean"], "worst": found["worst_case"]["robust_accuracy"]}
    return " ".join(said), figures


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        write_sets(folder)
        (folder / "suite.gin").write_text(SUITE)
        right, known = {}, {}
        for name in (COLOUR, TWO):
            right[name] = trained(name, folder)
            right[name].save(folder / f"{name}.keras")
            _, known[name] = audited(folder, f"{name}.keras", name)
        print("| model | without the flag | said | the flag | with it | right model | logits |")
        print("|---|---|---|---|---|---|---|")
        return max([row(folder, case, right[case[1]], known[case[1]]) for case in CASES])


def row(folder: pathlib.Path, case: tuple, right: keras.Model, known: dict) -> int:
    what, name, make, flag = case
    net = make(right)
    net.save(folder / "net.keras")
    said, unadapted = audited(folder, "net.keras", name)
    _, figures = audited(folder, "net.keras", name, flag)
    images = np.random.RandomState(0).uniform(0, 1, (64, *right.input_shape[1:])).astype("float32")
    logits = [np.asarray(model(images)) for model in (adapted(net, **changes(flag)), right)]
    # Logits that differ by a constant are the same: two classes become (0, z).
    given, wanted = (one - one[:, :1] for one in logits)
    difference = float(np.abs(given - wanted).max() / np.abs(wanted).max())
    told = shown(unadapted), f"`{said}`", f"`{flag}`", shown(figures), shown(known)
    print(f"| {what} | {' | '.join(told)} | {difference:.1e} |", flush=True)
    same = all(abs(figures[key] - known[key]) <= 1e-6 for key in known)
    return int(not same or flag not in said)


def shown(figures: dict) -> str:
    return ", ".join(f"{figures[key]:.1%} {key}" for key in figures) or "refused"


if __name__ == "__main__":
    sys.exit(main())
