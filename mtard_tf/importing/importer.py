"""What `mtard-import` does: builds the net, fills it, compares and measures it, writes it."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
from collections.abc import Callable, Iterator, Sequence

import gin
import keras
import numpy as np
import tensorflow as tf

from mtard_tf import audit_flags, config, files, model_files, registry
from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import ImageData
from mtard_tf.importing import checkpoint, matching
from mtard_tf.importing.tensors import CheckpointError
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.layers import (
    NORMALIZATIONS,
    Normalization,
    normalization_statistics,
)

# Logits of two frameworks differ by rounding, which grows with the depth of the net.
PROBE_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Request:
    """The flags of `mtard-import`.

    Attributes:
      source: file of weights.
      model: "models.NAME" of the registry, or a `.keras` file of the same layers.
      out: the `.keras` file to write.
      classes: number of logits; for a registered model.
      image_shape: "height,width,channels"; for a registered model.
      normalization: a name, or "mean,.../deviation,..."; None is the model's own default.
      gin: bindings of the model, such as "models.resnet20.shortcut = 'A'".
      key: which of several state_dicts of the file.
      allow_unused: leave out what the model has no place for.
      probe: `.npz` with `images` and the source's `logits`.
      verify: refuse to go on without a probe.
      dataset: name of the data set whose test split gives the clean accuracy; None for none.
      data_dir: prepared TFDS sets.
      examples: first so many test images; None or 0 for all.
      batch_size: images at a time.
    """

    source: str
    model: str
    out: str
    classes: int = 10
    image_shape: str = "32,32,3"
    normalization: str | None = None
    gin: Sequence[str] = ()
    key: str | None = None
    allow_unused: bool = False
    probe: str | None = None
    verify: bool = False
    dataset: str | None = None
    data_dir: str | None = None
    examples: int | None = 1000
    batch_size: int = 100


def run(request: Request, say: Callable[[str], None] = print) -> keras.Model:
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
    source = checkpoint.read(request.source, request.key)
    model = build(request)
    found = matching.match(source, model, allow_unused=request.allow_unused)
    _describe(source, found, model, say)
    matching.load(source, found)
    if request.probe is not None:
        say(_probed(model, pathlib.Path(request.probe)))
    if request.dataset is not None:
        data = audit_flags.dataset(request.dataset, request.data_dir)
        model_files.check(model, data.test, data.label_names)
        for line in accuracies(model, data, request.examples, request.batch_size):
            say(line)
    with files.replacing(out) as temporary:
        model.save(temporary)
    say(f"Model: {out}")
    return model


def build(request: Request) -> keras.Model:
    """The model that the weights are for, not yet theirs.

    Raises:
      ValueError: an unknown name, settings that it does not take, or no such file.
    """
    if request.model.endswith(".keras"):
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
    with config.one_line():
        gin.parse_config(list(request.gin))
        return factory(parse_shape(request.image_shape), request.classes, **settings)


def parse_shape(text: str) -> tuple[int, ...]:
    """ "32,32,3" as (height, width, channels).

    Raises:
      ValueError: not three numbers above 0.
    """
    parts = text.replace(" ", "").split(",")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--image_shape is {text!r}; give height,width,channels, as 32,32,3.")
    return tuple(map(int, parts))


def parse_normalization(text: str) -> Normalization:
    """A name as it is, and "0.5,0.5,0.5/0.2,0.2,0.2" as (mean, standard deviation).

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


def accuracies(
    model: keras.Model, data: ImageData, examples: int | None, batch_size: int
) -> Iterator[str]:
    """Lines: the clean accuracy on test images, and that of the other known normalisations.

    The others need no other model: images are moved and scaled so that the model's own first layer
    gives what another's would. They leave [0, 1], which nothing before the first layer minds.
    """
    own = _statistics_of(model)
    names = list(NORMALIZATIONS) if data.image_shape[2] == 3 else ["raw"]
    others = {name: normalization_statistics(name, data.image_shape[2]) for name in names}
    chosen = next((name for name, numbers in others.items() if _same(numbers, own)), None)
    tried = {"chosen": own} | {name: n for name, n in others.items() if name != chosen}
    predict = tf.function(FoldedInference(model)(), reduce_retracing=True)
    right = dict.fromkeys(tried, 0)
    total = 0
    for images, labels, _ in evaluation_batches(data.test, batch_size, examples or None):
        total += len(labels)
        for name, statistics in tried.items():
            answers = np.argmax(predict(_moved(images, statistics, own)), axis=1)
            right[name] += int((answers == np.asarray(labels)).sum())
    shares = {name: 100 * count / total for name, count in right.items()}
    own_name = chosen or "its own normalisation"
    yield f"Accuracy on {total:,} test images of {data.name}: {shares['chosen']:.2f} % ({own_name})"
    rest = {name: share for name, share in shares.items() if name != "chosen"}
    if rest:
        yield "  with " + ", ".join(f"{name} {share:.2f} %" for name, share in rest.items())
        best = max(rest, key=lambda name: rest[name])
        if rest[best] > shares["chosen"]:
            yield (
                f"Warning: {best} scores {rest[best]:.2f} %, above the {shares['chosen']:.2f} % of "
                f"{own_name}; were these weights trained so? Then give --normalization={best}."
            )


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


def _probed(model: keras.Model, path: pathlib.Path) -> str:
    """Compares logits with recorded ones.

    Raises:
      CheckpointError: no such arrays, or logits that differ.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images, expected = (np.asarray(file[k], np.float32) for k in ("images", "logits"))
    except Exception as error:  # NumPy's, zipfile's and the system's, for one cause
        raise CheckpointError(
            f"{path} is no probe ({error}); give an .npz with the arrays `images` and `logits`."
        ) from error
    wanted, shape = tuple(model.input_shape[1:]), images.shape
    if images.ndim == 4 and images.shape[1:] != wanted and images.shape[1] == wanted[2]:
        images = images.transpose(0, 2, 3, 1)
    if images.shape[1:] != wanted or expected.shape != (len(images), model.output_shape[-1]):
        raise CheckpointError(
            f"{path} has images {shape} and logits {expected.shape}; {model.name} takes "
            f"{wanted} and gives {model.output_shape[-1]} logits."
        )
    difference = float(np.abs(model(images, training=False).numpy() - expected).max())
    scale = max(1.0, float(np.abs(expected).max()))
    if not difference <= PROBE_TOLERANCE * scale:
        raise CheckpointError(
            f"On the images of {path} the logits differ by up to {difference:.3g}, where they "
            f"reach {scale:.3g}; another normalisation or another variant of the net would explain "
            "it. Nothing was written."
        )
    return f"Probe: logits equal to {difference:.2g} on {len(images)} images (largest {scale:.3g})"


def _statistics_of(model: keras.Model):
    """(mean, standard deviation) of the model's first layer, or None."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            mean, variance = np.ravel(layer.mean), np.ravel(layer.variance)
            return tuple(map(float, mean)), tuple(map(float, np.sqrt(variance)))
    return None


def _same(one, other) -> bool:
    if one is None or other is None:
        return one is other
    return np.shape(one) == np.shape(other) and np.allclose(one, other, atol=1e-6)


def _moved(images: tf.Tensor, wanted, own) -> tf.Tensor:
    """Images that `own` normalises to what `wanted` makes of the given ones."""
    if _same(wanted, own):
        return images
    if wanted is not None:
        images = (images - tf.constant(wanted[0])) / tf.constant(wanted[1])
    if own is not None:
        images = images * tf.constant(own[1]) + tf.constant(own[0])
    return images
