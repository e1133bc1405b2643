"""MobileNet-V2 (Sandler et al. 2018, arXiv 1801.04381) for small images, a student of MTARD."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from mtard_tf.models.layers import (
    Normalization,
    activate,
    batch_norm,
    conv,
    depthwise_conv,
    image_input,
)

# (expansion, channels, blocks, stride of the first) of each stage; the second strides in the paper.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _block(
    x: keras.KerasTensor, filters: int, expansion: int, stride: int, name: str
) -> keras.KerasTensor:
    y = conv(x, expansion * x.shape[-1], 1, name=f"{name}_expand")
    y = activate(batch_norm(y, name=f"{name}_bn1"), "relu", name=f"{name}_relu1")
    y = depthwise_conv(y, stride, name=f"{name}_depthwise")
    y = activate(batch_norm(y, name=f"{name}_bn2"), "relu", name=f"{name}_relu2")
    y = batch_norm(conv(y, filters, 1, name=f"{name}_project"), name=f"{name}_bn3")
    if stride > 1:
        return y
    if x.shape[-1] != filters:
        # Not in the paper, but in the CIFAR form that the papers use.
        x = batch_norm(conv(x, filters, 1, name=f"{name}_skip"), name=f"{name}_skip_bn")
    return keras.layers.Add(name=f"{name}_add")([y, x])


def mobilenet_v2(
    image_shape: Sequence[int], num_classes: int, *, normalization: Normalization = "raw"
) -> keras.Model:
    """MobileNet-V2 as in kuangliu/pytorch-cifar: 2,296,922 parameters for 10 classes.

    First convolution and second stage with stride 1, ReLU instead of ReLU6, global pooling (so that
    28, 32 and 64 pixels all work), a 1x1 convolution as shortcut where only the channels change.

    Args:
      image_shape: (height, width, channels).
      num_classes: number of logits.
      normalization: see `mtard_tf.models.layers.image_input`.
    """
    images, x = image_input(image_shape, normalization)
    x = activate(batch_norm(conv(x, 32, 3, name="conv1"), name="bn1"), "relu", name="relu1")
    block = 0
    for expansion, filters, count, first_stride in _STAGES:
        for place in range(count):
            block += 1
            x = _block(x, filters, expansion, 1 if place else first_stride, f"block{block}")
    x = activate(batch_norm(conv(x, 1280, 1, name="conv2"), name="bn2"), "relu", name="relu2")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        images, keras.layers.Dense(num_classes, name="logits")(x), name="mobilenet_v2"
    )
