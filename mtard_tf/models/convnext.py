"""ConvNeXt for small images (Liu et al., CVPR 2022), of Keras' own layers."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from mtard_tf.models.layers import Normalization, image_input

_L = keras.layers
_LAYER_SCALE = 1e-6


def convnext_femto(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    stem: int = 2,
    depths: Sequence[int] = (2, 2, 6, 2),
    widths: Sequence[int] = (48, 96, 192, 384),
    kernel: int = 7,
    normalization: Normalization = "raw",
) -> keras.Model:
    """ConvNeXt in timm's femto size, with a stem for 32-pixel images; no stochastic depth.

    A block is depthwise convolution, LayerNorm, two dense layers with GELU between (4 widths), and
    a learned scale that begins at 1e-6, added to its input. Between stages, LayerNorm and a 2x2
    convolution with stride 2.

    Args:
      image_shape: (height, width, channels).
      num_classes: number of logits.
      stem: size and stride of the first convolution; 4 in the paper, for 224 pixels.
      depths: blocks of each stage.
      widths: channels of each stage, as many.
      kernel: of the depthwise convolutions.
      normalization: see `mtard_tf.models.layers.image_input`.

    Raises:
      ValueError: depths and widths of different lengths, or none.
    """
    if len(depths) != len(widths) or not depths:
        raise ValueError(
            f"convnext_femto.depths is {tuple(depths)} and widths {tuple(widths)}; give one each "
            "for every stage."
        )
    images, x = image_input(image_shape, normalization)
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        if stage == 1:
            x = _L.Conv2D(width, stem, stem, name="stem")(x)
            x = _norm(x, "stem_norm")
        else:
            x = _norm(x, f"stage{stage}_norm")
            x = _L.Conv2D(width, 2, 2, padding="same", name=f"stage{stage}_downsample")(x)
        for block in range(1, depth + 1):
            x = _block(x, kernel, f"stage{stage}_block{block}")
    x = _L.GlobalAveragePooling2D(name="pool")(x)
    x = _norm(x, "norm")
    return keras.Model(images, _L.Dense(num_classes, name="logits")(x), name="convnext_femto")


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return _L.LayerNormalization(epsilon=1e-6, name=name)(x)


def _block(x: keras.KerasTensor, kernel: int, name: str) -> keras.KerasTensor:
    width = x.shape[-1]
    y = _L.DepthwiseConv2D(kernel, padding="same", name=f"{name}_depthwise")(x)
    y = _norm(y, f"{name}_norm")
    y = _L.Dense(4 * width, activation="gelu", name=f"{name}_dense1")(y)
    y = _L.Dense(width, name=f"{name}_dense2")(y)
    # One factor for each channel, as a layer that files of Keras know.
    scale = keras.initializers.Constant(_LAYER_SCALE)
    y = _L.DepthwiseConv2D(
        1, use_bias=False, depthwise_initializer=scale, name=f"{name}_layer_scale"
    )(y)
    return _L.Add(name=f"{name}_add")([x, y])
