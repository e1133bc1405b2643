"""MixedNUTS: a clean and a robust net answer together; nothing is trained (arXiv 2402.02263)."""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from mtard_tf.models import model_files
from mtard_tf.models.layers import MIXTURE_LAYER

_TOP = 250  # logits that count in the normalisation
_CERTAIN = 1 - 1e-6  # the largest margin that float32 tells from 1
_SMALLEST = 1e-3  # margins below are near rounding, and alpha is 1


class Nonlinearity(NamedTuple):
    """What `fit` chooses.

    Attributes:
      scale: s, above 0.
      power: p, at least 1.
      shift: c.
      alpha: weight of the robust net, in [0.5, 1).
    """

    scale: float
    power: float
    shift: float
    alpha: float


GRID = tuple(
    itertools.product(np.geomspace(0.05, 5, 8), np.linspace(1, 4, 8), np.linspace(-2, 0, 8))
)


def transformed(logits: Any, scale: float, power: float, shift: float) -> Any:
    """The robust net's logits, made surer where they are sure: s sign(v) |v|^p, v = GELU(LN + c).

    LN subtracts the mean and divides by the deviation (unbiased) of the 250 largest logits.

    Args:
      logits: `[batch, classes]`.
      scale: s.
      power: p.
      shift: c.

    Returns:
      `[batch, classes]`.

    Source: `Bai-YT/MixedNUTS`, `models/output_maps.py`.
    """
    count = min(_TOP, logits.shape[-1])
    largest = logits if count == logits.shape[-1] else ops.top_k(logits, count)[0]
    mean = ops.mean(largest, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(largest - mean), axis=-1, keepdims=True) * count / (count - 1)
    v = ops.gelu((logits - mean) / ops.sqrt(variance + 1e-8) + shift, approximate=False)
    return scale * ops.sign(v) * ops.power(ops.abs(v), power)


def mixed(clean: Any, robust: Any, chosen: Nonlinearity, gradient_weight: float = 0.9) -> Any:
    """Logits of the mixture: log((1 - a) onehot(argmax clean) + a softmax(f(robust))).

    The one-hot vector has no gradient, so an attack would see the robust net alone. The gradient is
    therefore that of log((1 - g) softmax(clean) + g (0.9 softmax(robust) + 0.1 softmax(f))), as in
    the official adaptive attack; the values are the mixture's own.

    Args:
      clean: logits `[batch, classes]` of the clean net.
      robust: those of the robust net.
      chosen: f and a.
      gradient_weight: g.

    Returns:
      `[batch, classes]`, log-probabilities.
    """
    sharpened = transformed(robust, chosen.scale, chosen.power, chosen.shift)
    log_robust = math.log(chosen.alpha) + ops.log_softmax(sharpened)
    top = ops.one_hot(ops.argmax(clean, axis=-1), clean.shape[-1], dtype=clean.dtype)
    # log(e^a + e^b) = b + softplus(a - b), in the class of the clean net.
    value = log_robust + top * ops.softplus(math.log1p(-chosen.alpha) - log_robust)
    slope = ops.log(
        (1 - gradient_weight) * ops.softmax(clean)
        + gradient_weight * (0.9 * ops.softmax(robust) + 0.1 * ops.softmax(sharpened))
        + 1e-12
    )
    return slope + ops.stop_gradient(value - slope)


def fit(
    clean: np.ndarray,
    robust: np.ndarray,
    attacked: np.ndarray,
    labels: np.ndarray,
    *,
    beta: float = 98.5,
    grid: Sequence[tuple[float, float, float]] = GRID,
) -> Nonlinearity:
    """The nonlinearity under which the clean net may overrule the robust one most often.

    u(s, c, p) is the margin that `beta` percent of the attacked images keep which the robust net
    gets right, a = 1 / (1 + u), so that there the clean net cannot overrule it. Of the grid, the
    point with the fewest clean images that the robust net gets wrong with a margin of at least u;
    of equal ones, that which then gets the most of the clean images right, then the first (ours).
    Points with u < 0.001 are left out (ours): in float32 such margins are near rounding.

    Args:
      clean: logits `[images, classes]` of the clean net on clean images, never of the test split.
      robust: those of the robust net.
      attacked: those of the robust net on images that were attacked on it.
      labels: `[images]`.
      beta: percentage.
      grid: (s, p, c) of each point.

    Raises:
      ValueError: beta outside 0 to 100, no attacked image that the robust net gets right, or none
        of them sure enough at any point.

    Source: `Bai-YT/MixedNUTS`, `calc_spca.py`.
    """
    kept = attacked.argmax(1) == labels
    if not 0 < beta < 100 or not kept.any():
        raise ValueError(
            f"beta is {beta} and the robust net gets {kept.sum()} of {len(labels)} attacked images "
            "right; give a percentage between 0 and 100, and a robust net."
        )
    wrong = robust.argmax(1) != labels
    best, chosen = (np.inf, np.inf), None
    for s, p, c in (map(float, point) for point in grid):
        safe, margin = (_margins(z, s, p, c) for z in (attacked[kept], robust))
        u = min(float(np.percentile(safe, 100 - beta)), _CERTAIN)
        if u < _SMALLEST:
            continue
        overruled = margin < u
        right = np.where(overruled, clean.argmax(1), robust.argmax(1)) == labels
        found = (float((wrong & ~overruled).mean()), -float(right.mean()))
        if found < best:
            best, chosen = found, Nonlinearity(s, p, c, 1 / (1 + u))
    if chosen is None:
        raise ValueError(
            f"The robust net's margin is below {_SMALLEST:g} at every point of the grid on the "
            f"{kept.sum()} attacked images that it gets right; give a lower beta or another net."
        )
    return chosen


def mix(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    clean: str | keras.Model,
    robust: str | keras.Model,
    scale: float,
    power: float,
    shift: float,
    alpha: float,
) -> keras.Model:
    """A mixture of two trained nets as one net; see `mixed`. It is to be audited as a whole.

    Args:
      image_shape: (height, width, channels), which both nets take.
      num_classes: of both nets.
      clean: an accurate net, or its `.keras` file; it is frozen.
      robust: a robust net, or its file; frozen.
      scale: s of the nonlinearity, which `fit` finds.
      power: p.
      shift: c.
      alpha: weight of the robust net, in [0.5, 1).

    Raises:
      ValueError: a setting out of range, or nets for other data.
    """
    if not (scale > 0 and power >= 1 and 0.5 <= alpha < 1):
        raise ValueError(
            f"mix has scale {scale}, power {power} and alpha {alpha}; give a scale above 0, a "
            "power of at least 1 and an alpha in [0.5, 1), as mtard_tf.mixing.mix.fit finds them."
        )
    images = keras.Input(tuple(image_shape), name="images")
    logits = []
    for role, given in (("clean", clean), ("robust", robust)):
        net: Any = given
        if not isinstance(given, keras.Model):
            net = model_files.load(pathlib.Path(given).expanduser())
        model_files.check_shapes(net, tuple(image_shape))
        model_files.check_classes(net, num_classes)
        weights, net = net.get_weights(), keras.models.clone_model(net)
        net.set_weights(weights)
        net.name, net.trainable = f"{role}_net", False
        logits.append(net(images))
    output = mixed(logits[0], logits[1], Nonlinearity(scale, power, shift, alpha))
    output = keras.layers.Identity(name=MIXTURE_LAYER)(output)
    return keras.Model(images, output, name="mix")


def _margins(logits: np.ndarray, scale: float, power: float, shift: float) -> np.ndarray:
    """The largest probability less the second, `[images]`."""
    answers = ops.softmax(
        transformed(ops.convert_to_tensor(logits, "float64"), scale, power, shift)
    )
    sorted_ = np.sort(ops.convert_to_numpy(answers), axis=1)
    return sorted_[:, -1] - sorted_[:, -2]
