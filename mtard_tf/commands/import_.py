"""`mtard-import`: builds a net, loads the weights, compares and measures it, writes it."""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Callable

import gin
import keras

from mtard_tf import files, registry
from mtard_tf.commands import requests
from mtard_tf.config import bindings, gin_errors
from mtard_tf.config.binding_values import check_values
from mtard_tf.importing import checkpoint, checks, matching
from mtard_tf.models import model_files
from mtard_tf.models.adapters import adapted
from mtard_tf.models.layers import NORMALIZATIONS, Normalization


def run(request: requests.Import, say: Callable[[str], None] = print) -> keras.Model:
    """Imports, checks and writes a model; returns it.

    Args:
      request: the flags.
      say: is given each line as it is known.

    Raises:
      ValueError: a file, a model or settings that do not fit; the message is one line, and nothing
        is written.
    """
    out = pathlib.Path(request.out)
    if out.suffix != ".keras":
        raise ValueError(f"--out is {request.out!r}; give a name that ends in .keras.")
    if request.verify and request.probe is None:
        raise ValueError(
            "--verify compares logits with those of the source: record them there and give "
            "--probe=FILE.npz with `images` and `logits` (docs/teachers.md)."
        )
    if request.model is None:
        model = _adapted(request)
    else:
        model = _filled(request, say)
    if request.probe is not None:
        say(checks.check_recorded_logits(model, pathlib.Path(request.probe)))
    if request.dataset is not None:
        from mtard_tf.commands import datasets  # with it come plots, which take 60 MB

        data = datasets.dataset(request.dataset, request.data_dir)
        labelled = data.labelled("test", request.examples or None)
        model_files.check(model, labelled, data.label_names)
        for line in checks.accuracies(model, data, request.examples, request.batch_size):
            say(line)
    with files.replacing(out) as temporary:
        model.save(temporary)
    say(f"Model: {out}")
    return model


def _filled(request: requests.Import, say: Callable[[str], None]) -> keras.Model:
    """The net that `--model` names, with the weights of the source."""
    if request.from_probabilities or request.channels_first or request.input_scale != 1:
        raise ValueError(
            "--from_probabilities, --input_scale and --channels_first adapt a .keras --source; "
            "leave --model out, or them."
        )
    source = checkpoint.read(request.source, request.key)
    model = build(request)
    found = matching.match(source, model, allow_unused=request.allow_unused)
    _describe(source, found, model, say)
    if source.statistics is not None and not request.allow_unused:
        say(checks.check_normalization(source, model))
    matching.load(source, found)
    return model


def _adapted(request: requests.Import) -> keras.Model:
    """The source, a Keras model, as one from images in [0, 1] to logits."""
    if not request.source.endswith(".keras"):
        raise ValueError(
            f"{request.source} holds weights; name the net that they are for: --model=models.NAME."
        )
    return adapted(
        model_files.load(request.source),
        from_probabilities=request.from_probabilities,
        input_scale=request.input_scale,
        normalization=request.normalization or "raw",
        channels_first=request.channels_first,
    )


def build(request: requests.Import) -> keras.Model:
    """The model that the weights are for, not yet theirs.

    Raises:
      ValueError: an unknown name, settings that it does not take, or no such file.
    """
    assert request.model is not None  # else the source is adapted
    if request.model.endswith(".keras"):
        if request.normalization is not None or request.gin:
            raise ValueError(
                f"{request.model} has its layers and its normalisation; leave --normalization and "
                "--gin out."
            )
        return model_files.load(request.model)
    name = request.model.removeprefix("@").removeprefix("models.")
    factory = registry.get("models", name)
    settings = {}
    if request.normalization is not None:
        if "normalization" not in inspect.signature(registry.target("models", name)).parameters:
            raise ValueError(
                f"models.{name} takes no normalization; leave --normalization out, and let its "
                "first layer normalise."
            )
        settings["normalization"] = parse_normalization(request.normalization)
    gin.clear_config()
    with gin_errors.one_line():
        gin.parse_config(list(request.gin))
        check_values()
        bindings.require(None, request.gin)
        model = factory(parse_shape(request.image_shape), request.classes, **settings)
        bindings.check_read(())
    return model


def parse_shape(text: str) -> tuple[int, ...]:
    """ "32,32,3" as (height, width, channels).

    Raises:
      ValueError: not three numbers above 0.
    """
    parts = text.replace(" ", "").split(",")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"--image_shape is {text!r}; give height,width,channels, as 32,32,3.")
    return tuple(map(int, parts))


def parse_normalization(text: str) -> Normalization:
    """A name unchanged, and "0.5,0.5,0.5/0.2,0.2,0.2" as (mean, standard deviation).

    Raises:
      ValueError: numbers of another form; names are for the model to judge.
    """
    if "/" not in text:
        return text
    try:
        mean, deviation = (tuple(map(float, part.split(","))) for part in text.split("/"))
    except ValueError:
        raise ValueError(
            f"--normalization is {text!r}; give {', '.join(NORMALIZATIONS)}, or a mean and a "
            "standard deviation per channel, as 0.5,0.5,0.5/0.2,0.2,0.2."
        ) from None
    return mean, deviation


def _describe(
    source: checkpoint.Checkpoint,
    found: matching.Match,
    model: keras.Model,
    say: Callable[[str], None],
) -> None:
    numbers = sum(tensor.size for tensor in source.tensors.values())
    names = "" if found.by_order else f"; names of {found.origin}"
    say(f"{source.path}: {source.form}, {len(source.tensors)} tensors, {numbers:,} numbers{names}")
    for reason, tensors in found.unused.items():
        count = sum(tensor.size for tensor in tensors.values())
        say(f"Left out: {len(tensors)} tensors, {count:,} numbers ({reason})")
    if found.by_order:
        say(f"The names say nothing about {model.name}; paired by order and shape:")
        say(found.table())
        say("Two layers of one shape could be exchanged so: look at the table, or give --probe.")
    say(f"{model.name}: {model_files.parameters(model):,} parameters")
