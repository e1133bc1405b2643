"""The net of the defensive distillation papers, in the forms of their code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras

from mtard_tf.models.layers import OUTLIER_LAYER, image_input

_L = keras.layers


class _Form(NamedTuple):
    padding: str
    pool: int
    dropout_after: int  # which of the two dense layers


# "carlini": nn_robust_attacks, train_models.py:24-47, and the authors of arXiv 2305.08076.
# "bethgelab": Carlini 2016, model.py:62-90.
FORMS = {
    "carlini": _Form("valid", 2, 1),
    "bethgelab": _Form("same", 3, 2),
}
# Inputs are in [0, 1]; the papers' are in [-0.5, 0.5].
_MIDDLE = 0.5


def defensive_cnn(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    widths: Sequence[int] = (32, 64),
    dense: int = 200,
    form: str = "carlini",
    centered: bool = True,
    dropout: float = 0.5,
    outlier_class: bool = False,
) -> keras.Model:
    """Two pairs of 3x3 convolutions, max pooling after each pair, two dense layers, logits.

    The papers' nets are `widths=(32, 64), dense=200` for MNIST (312,202 parameters) and
    `widths=(64, 128), dense=256` for CIFAR-10 (1,147,978).

    Args:
      image_shape: (height, width, channels).
      num_classes: number of logits.
      widths: channels of the first and of the second pair.
      dense: units of each of the two dense layers.
      form: "carlini" (no padding, 2x2 max pooling, dropout after the first dense layer) or
        "bethgelab" (padding, 3x3 max pooling with stride 2, dropout after the second).
      centered: shift images to [-0.5, 0.5]; False for [0, 1] (the authors' first MNIST net).
      dropout: dropout rate.
      outlier_class: add a last logit for outliers, for `extended_defensive_experimental`.

    Raises:
      ValueError: an unknown form, or not two widths.

    Source: Papernot et al. (IEEE S&P 2016, arXiv 1511.04508), and the code named above.
    """
    if form not in FORMS:
        raise ValueError(f"defensive_cnn.form is {form!r}; use {' or '.join(map(repr, FORMS))}.")
    if len(widths) != 2:
        raise ValueError(f"defensive_cnn.widths is {tuple(widths)}; give two, one for each pair.")
    images, x = image_input(image_shape, "raw")
    if centered:
        x = _L.Rescaling(1.0, offset=-_MIDDLE, name="centered")(x)
    x = _convolutions(x, widths, FORMS[form])
    for i in (1, 2):
        x = _L.Dense(dense, activation="relu", name=f"dense{i}")(x)
        x = _L.Dropout(dropout, name="dropout")(x) if i == FORMS[form].dropout_after else x
    last = _L.Dense(num_classes + outlier_class, name=OUTLIER_LAYER if outlier_class else "logits")
    return keras.Model(images, last(x), name="defensive_cnn")


def _convolutions(x: keras.KerasTensor, widths: Sequence[int], form: _Form) -> keras.KerasTensor:
    for i, width in enumerate(widths, 1):
        for j in (1, 2):
            name = f"conv{2 * i + j - 2}"
            x = _L.Conv2D(width, 3, padding=form.padding, activation="relu", name=name)(x)
        x = _L.MaxPooling2D(form.pool, 2, padding=form.padding, name=f"pool{i}")(x)
    return _L.Flatten(name="flatten")(x)
