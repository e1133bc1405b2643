"""Vision transformers for small images (Dosovitskiy et al., ICLR 2021), of Keras' own layers."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from mtard_tf.models.layers import Normalization, image_input

_L = keras.layers


def vit_tiny(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    patch: int = 4,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    expansion: int = 4,
    dropout: float = 0.0,
    normalization: Normalization = "raw",
) -> keras.Model:
    """ViT-Tiny with patches for 32-pixel images; pre-norm blocks, mean over tokens, logits.

    In place of a class token the tokens are averaged, as in later papers. The learned position
    embedding is the bias of the patches' projection: one vector for each place.

    Args:
      image_shape: (height, width, channels).
      num_classes: number of logits.
      patch: pixels a side; divides height and width.
      width: of a token; a multiple of `heads`.
      depth: blocks.
      heads: of the attention.
      expansion: hidden units of a block's MLP, in widths.
      dropout: rate after attention and MLP.
      normalization: see `mtard_tf.models.layers.image_input`.

    Raises:
      ValueError: patches that do not divide the image, or heads that do not divide the width.
    """
    height, breadth, channels = image_shape
    if height % patch or breadth % patch:
        raise ValueError(
            f"vit_tiny.patch is {patch} and the images are {height}x{breadth}; give a divisor."
        )
    if width % heads:
        raise ValueError(f"vit_tiny.width is {width}, no multiple of {heads} heads; give one.")
    rows, columns = height // patch, breadth // patch
    tokens = rows * columns
    images, x = image_input(image_shape, normalization)
    x = _L.Reshape((rows, patch, columns, patch, channels), name="split")(x)
    x = _L.Permute((1, 3, 2, 4, 5), name="gather")(x)
    x = _L.Reshape((tokens, patch * patch * channels), name="patches")(x)
    x = _L.EinsumDense(
        "bnc,cd->bnd",
        (tokens, width),
        bias_axes="nd",
        bias_initializer=keras.initializers.RandomNormal(stddev=0.02),
        name="embedding",
    )(x)
    for block in range(1, depth + 1):
        x = _block(x, heads, expansion, dropout, f"block{block}")
    x = _L.LayerNormalization(epsilon=1e-6, name="norm")(x)
    x = _L.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(images, _L.Dense(num_classes, name="logits")(x), name="vit_tiny")


def _block(
    x: keras.KerasTensor, heads: int, expansion: int, dropout: float, name: str
) -> keras.KerasTensor:
    width = x.shape[-1]
    y = _L.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
    y = _L.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")(y, y)
    y = _L.Dropout(dropout, name=f"{name}_dropout1")(y) if dropout else y
    x = _L.Add(name=f"{name}_add1")([x, y])
    y = _L.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
    y = _L.Dense(width * expansion, activation="gelu", name=f"{name}_dense1")(y)
    y = _L.Dense(width, name=f"{name}_dense2")(y)
    y = _L.Dropout(dropout, name=f"{name}_dropout2")(y) if dropout else y
    return _L.Add(name=f"{name}_add2")([x, y])
