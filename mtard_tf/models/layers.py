"""Layers with the settings that all nets of this package share."""

from __future__ import annotations

from collections.abc import Sequence

import keras

_L = keras.layers

# A name of NORMALIZATIONS; or (mean, standard deviation) per channel; None is "raw".
Normalization = str | tuple[Sequence[float], Sequence[float]] | None

# Mean and standard deviation per channel of images in [0, 1]. `cifar10` and `cifar100` are those of
# DeepMind's and RobustBench's code. `cifar10_chenyaofo` is what the public weights of
# chenyaofo/pytorch-cifar-models expect (its issue 8): the same mean, a narrower deviation.
NORMALIZATIONS: dict[str, tuple[Sequence[float], Sequence[float]] | None] = {
    "raw": None,
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar10_chenyaofo": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


# Name of the last layer of a net whose last logit is a class of outliers.
OUTLIER_LAYER = "logits_and_outlier"
# Name of the last layer of a mixture, by which its audit knows it.
MIXTURE_LAYER = "mixture_of_two_nets"


def image_input(
    image_shape: Sequence[int], normalization: Normalization
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input tensor and the normalised images.

    Args:
      image_shape: (height, width, channels).
      normalization: a name of `NORMALIZATIONS`, or (mean, standard deviation) per channel in
        [0, 1] pixel units; "raw" and None do not normalise.

    Raises:
      ValueError: an unknown name, not one number per channel, or a deviation that is not positive.
    """
    images = keras.Input(tuple(image_shape), name="images")
    statistics = normalization_statistics(normalization, images.shape[-1])
    if statistics is None:
        return images, images
    mean, deviation = statistics
    variance = [d * d for d in deviation]
    return images, _L.Normalization(mean=list(mean), variance=variance, name="normalization")(
        images
    )


def normalization_statistics(
    normalization: Normalization, channels: int
) -> tuple[Sequence[float], Sequence[float]] | None:
    """(mean, standard deviation) per channel, or None for raw images.

    Arguments and errors as in `image_input`.
    """
    statistics = normalization
    if isinstance(normalization, str):
        if normalization not in NORMALIZATIONS:
            raise ValueError(
                f"normalization is {normalization!r}; use one of {', '.join(NORMALIZATIONS)}, or "
                "(mean, standard deviation) with one number per channel."
            )
        statistics = NORMALIZATIONS[normalization]
    if statistics is None:
        return None
    assert not isinstance(statistics, str)
    if len(statistics) != 2 or {len(numbers) for numbers in statistics} != {channels}:
        raise ValueError(
            f"normalization is {normalization!r} and the images have {channels} channels; give "
            "(mean, standard deviation) with one number per channel, or 'raw'."
        )
    if min(statistics[1]) <= 0:
        raise ValueError(
            f"normalization has the standard deviations {tuple(statistics[1])}; give numbers above "
            "0."
        )
    return statistics


def conv(
    x: keras.KerasTensor,
    filters: int,
    size: int,
    stride: int = 1,
    *,
    name: str,
    bias: bool = False,
    asymmetric: bool = False,
) -> keras.KerasTensor:
    """A convolution with PyTorch's padding: symmetric, also for strided convolutions.

    With `asymmetric`, a strided convolution pads below and to the right only, as DeepMind's nets:
    Keras' and JAX' "same", and (0, 1, 0, 1) in PyTorch, on images of even size.
    """
    padding = "same"
    if stride > 1 and not asymmetric:
        # Keras' "same" pads (0, 1) here; the papers' nets pad (1, 1).
        if size > 1:
            x = _L.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    return _L.Conv2D(
        filters,
        size,
        stride,
        padding,
        use_bias=bias,
        kernel_initializer=keras.initializers.HeNormal(),
        name=name,
    )(x)


def depthwise_conv(x: keras.KerasTensor, stride: int = 1, *, name: str) -> keras.KerasTensor:
    """A 3x3 depthwise convolution, padded as `conv`."""
    padding = "same"
    if stride > 1:
        x = _L.ZeroPadding2D(1, name=f"{name}_pad")(x)
        padding = "valid"
    # He initialisation with fan-in 9; Keras would count all channels of a depthwise kernel.
    initializer = keras.initializers.RandomNormal(stddev=(2 / 9) ** 0.5)
    return _L.DepthwiseConv2D(
        3, stride, padding, use_bias=False, depthwise_initializer=initializer, name=name
    )(x)


def batch_norm(x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """BatchNorm with PyTorch's settings, as in the papers (its momentum 0.1 is 0.9 here)."""
    return _L.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The BatchNorm layers of a model, nested models included."""
    norms = keras.layers.BatchNormalization
    return [layer for layer in model._flatten_layers() if isinstance(layer, norms)]


def activate(x: keras.KerasTensor, activation: str, *, name: str) -> keras.KerasTensor:
    """ "relu" or "swish" (x times its sigmoid, which Keras calls silu)."""
    if activation == "relu":
        return _L.ReLU(name=name)(x)
    if activation == "swish":
        return _L.Activation("silu", name=name)(x)
    raise ValueError(f"activation is {activation!r}; use 'relu' or 'swish'.")
