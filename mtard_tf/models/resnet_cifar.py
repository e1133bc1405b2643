"""Residual nets for small images (He et al. 2016, arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras

from mtard_tf.models.layers import Normalization, batch_norm, conv, image_input


def _shortcut(
    x: keras.KerasTensor, filters: int, stride: int, option: str, name: str
) -> keras.KerasTensor:
    if stride == 1 and x.shape[-1] == filters:
        return x
    if option == "B":
        return batch_norm(conv(x, filters, 1, stride, name=f"{name}_skip"), name=f"{name}_skip_bn")
    # Option A: subsampling, and zeros in the new channels.
    x = keras.layers.MaxPooling2D(1, stride, name=f"{name}_skip")(x)
    new = filters - x.shape[-1]
    # "channels_first" makes the layer pad the last axis, which here is the channels.
    padding = ((0, 0), (new // 2, new - new // 2))
    return keras.layers.ZeroPadding2D(padding, "channels_first", name=f"{name}_skip_pad")(x)


def _block(
    x: keras.KerasTensor, filters: int, stride: int, option: str, name: str
) -> keras.KerasTensor:
    y = batch_norm(conv(x, filters, 3, stride, name=f"{name}_conv1"), name=f"{name}_bn1")
    y = keras.layers.ReLU(name=f"{name}_relu1")(y)
    y = batch_norm(conv(y, filters, 3, name=f"{name}_conv2"), name=f"{name}_bn2")
    y = keras.layers.Add(name=f"{name}_add")([y, _shortcut(x, filters, stride, option, name)])
    return keras.layers.ReLU(name=f"{name}_relu2")(y)


def _residual_net(
    image_shape: Sequence[int],
    num_classes: int,
    widths: Sequence[int],
    blocks: Sequence[int],
    option: str,
    normalization: Normalization,
    name: str,
) -> keras.Model:
    if option not in ("A", "B"):
        raise ValueError(
            f"{name}.shortcut is {option!r}; use 'A' (zero padding) or 'B' (1x1 convolution)."
        )
    images, x = image_input(image_shape, normalization)
    x = batch_norm(conv(x, widths[0], 3, name="conv"), name="bn")
    x = keras.layers.ReLU(name="relu")(x)
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _block(x, width, stride, option, f"stage{stage}_block{block}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, keras.layers.Dense(num_classes, name="logits")(x), name=name)


def resnet_cifar(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int,
    shortcut: str = "B",
    width: int = 16,
    normalization: Normalization = "raw",
) -> keras.Model:
    """ResNet of depth 6n + 2 with three stages of `width`, 2 `width`, 4 `width` channels.

    Args:
      image_shape: (height, width, channels).
      num_classes: number of logits.
      depth: 8, 20, 32, 44, 56, 110: any 6n + 2.
      shortcut: "B" (1x1 convolution and BatchNorm, as MTARD's ResNet-56: 855,770 parameters for 10
        classes) or "A" (zero-padded channels, as the paper: 853,018).
      width: channels of the first stage; 16 in the paper.
      normalization: see `mtard_tf.models.layers.image_input`.

    Raises:
      ValueError: a depth that is not 6n + 2, or an unknown shortcut.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(
            f"resnet_cifar.depth is {depth}; give 6n + 2, such as 20, 32, 44, 56 or 110."
        )
    blocks = [(depth - 2) // 6] * 3
    widths = [width, 2 * width, 4 * width]
    return _residual_net(
        image_shape, num_classes, widths, blocks, shortcut, normalization, f"resnet{depth}"
    )


def _of_depth(depth: int) -> Callable[..., keras.Model]:
    def make(
        image_shape: Sequence[int],
        num_classes: int,
        *,
        shortcut: str = "B",
        width: int = 16,
        normalization: Normalization = "raw",
    ) -> keras.Model:
        return resnet_cifar(
            image_shape,
            num_classes,
            depth=depth,
            shortcut=shortcut,
            width=width,
            normalization=normalization,
        )

    make.__name__ = make.__qualname__ = f"resnet{depth}"
    make.__doc__ = f"`resnet_cifar` of depth {depth}."
    return make


resnet8, resnet20, resnet32, resnet44 = _of_depth(8), _of_depth(20), _of_depth(32), _of_depth(44)
# MTARD's clean teacher on CIFAR-10.
resnet56 = _of_depth(56)
resnet110 = _of_depth(110)


def _of_four_stages(depth: int, blocks: Sequence[int]) -> Callable[..., keras.Model]:
    def make(
        image_shape: Sequence[int],
        num_classes: int,
        *,
        width: int = 64,
        normalization: Normalization = "raw",
    ) -> keras.Model:
        name = f"resnet{depth}"
        widths = [width, 2 * width, 4 * width, 8 * width]
        return _residual_net(image_shape, num_classes, widths, blocks, "B", normalization, name)

    make.__name__ = make.__qualname__ = f"resnet{depth}"
    make.__doc__ = f"""ResNet-{depth} for small images.

    First convolution 3x3 with stride 1, no max pooling, four stages of {tuple(blocks)} blocks,
    global pooling (so that 28, 32 and 64 pixels all work).

    Args:
      image_shape: (height, width, channels).
      num_classes: number of logits.
      width: channels of the first stage; 64 in the papers.
      normalization: see `mtard_tf.models.layers.image_input`.
    """
    return make


# The first is MTARD's student: 11,173,962 parameters for 10 classes.
resnet18, resnet34 = _of_four_stages(18, [2, 2, 2, 2]), _of_four_stages(34, [3, 4, 6, 3])
