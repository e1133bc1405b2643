"""Residual nets whose blocks begin with BatchNorm (He et al. 2016, arXiv 1603.05027).

Pre-activation ResNets, and wide ResNets (Zagoruyko and Komodakis 2016, arXiv 1605.07146) in the two
forms whose robust weights are public: that of TRADES, and that of DeepMind
(google-deepmind/deepmind-research, adversarial_robustness).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras

from mtard_tf.models.layers import Normalization, activate, batch_norm, conv, image_input


def _block(
    x: keras.KerasTensor,
    filters: int,
    stride: int,
    name: str,
    *,
    activation: str,
    asymmetric: bool,
    shortcut_of: str,
) -> keras.KerasTensor:
    y = batch_norm(x, name=f"{name}_bn1")
    y = activate(y, activation, name=f"{name}_relu1")
    if stride > 1 or x.shape[-1] != filters:
        source = y if shortcut_of == "activation" else x
        x = conv(source, filters, 1, stride, name=f"{name}_skip")
    y = conv(y, filters, 3, stride, name=f"{name}_conv1", asymmetric=asymmetric)
    y = activate(batch_norm(y, name=f"{name}_bn2"), activation, name=f"{name}_relu2")
    y = conv(y, filters, 3, name=f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([y, x])


def _net(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    stem: int,
    widths: Sequence[int],
    blocks: Sequence[int],
    normalization: Normalization,
    name: str,
    activation: str = "relu",
    asymmetric: bool = False,
    shortcut_of: str = "activation",
    final_batch_norm: bool = True,
) -> keras.Model:
    images, x = image_input(image_shape, normalization)
    x = conv(x, stem, 3, name="conv")
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
        for block in range(1, count + 1):
            x = _block(
                x,
                width,
                2 if stage > 1 and block == 1 else 1,
                f"stage{stage}_block{block}",
                activation=activation,
                asymmetric=asymmetric,
                shortcut_of=shortcut_of,
            )
    if final_batch_norm:
        x = activate(batch_norm(x, name="bn"), activation, name="relu")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, keras.layers.Dense(num_classes, name="logits")(x), name=name)


def wide_resnet(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int = 34,
    width: int = 10,
    activation: str = "relu",
    asymmetric: bool = False,
    normalization: Normalization = "raw",
) -> keras.Model:
    """Wide ResNet of depth 6n + 4: three stages of 16, 32, 64 times `width` channels.

    Args:
      image_shape: (height, width, channels); 28, 32 and 64 pixels all work.
      num_classes: number of logits.
      depth: 22, 28, 34, 70: any 6n + 4.
      width: the factor on the channels.
      activation: "relu" (TRADES) or "swish" (DeepMind).
      asymmetric: strided convolutions pad only below and to the right (DeepMind).
      normalization: see `mtard_tf.models.layers.image_input`.

    Raises:
      ValueError: a depth that is not 6n + 4, or an unknown activation.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(
            f"wide_resnet.depth is {depth}; give 6n + 4, such as 16, 22, 28, 34 or 70."
        )
    return _net(
        image_shape,
        num_classes,
        stem=16,
        widths=[16 * width, 32 * width, 64 * width],
        blocks=[(depth - 4) // 6] * 3,
        normalization=normalization,
        name=f"wide_resnet{depth}_{width}",
        activation=activation,
        asymmetric=asymmetric,
    )


def _of_size(
    depth: int,
    width: int,
    *,
    default_activation: str = "relu",
    default_normalization: Normalization = "raw",
    asymmetric: bool = False,
    suffix: str = "",
    doc: str = "as in TRADES: ReLU, symmetric padding, raw.",
) -> Callable[..., keras.Model]:
    def make(
        image_shape: Sequence[int],
        num_classes: int,
        *,
        activation: str = default_activation,
        normalization: Normalization = default_normalization,
    ) -> keras.Model:
        return wide_resnet(
            image_shape,
            num_classes,
            depth=depth,
            width=width,
            activation=activation,
            asymmetric=asymmetric,
            normalization=normalization,
        )

    make.__name__ = make.__qualname__ = f"wide_resnet{depth}_{width}{suffix}"
    make.__doc__ = f"`wide_resnet` {depth}-{width} {doc}"
    return make


def _deepmind(depth: int, width: int, suffix: str = "") -> Callable[..., keras.Model]:
    return _of_size(
        depth,
        width,
        default_activation="swish",
        default_normalization="cifar10",
        asymmetric=True,
        suffix=suffix,
        doc="as DeepMind's: Swish, asymmetric padding, and images normalised inside. MTARD uses "
        "CIFAR-10's numbers on CIFAR-100 too, RobustBench uses CIFAR-100's.",
    )


# MTARD's robust teacher on CIFAR-10 is the first.
wide_resnet34_10, wide_resnet34_20 = _of_size(34, 10), _of_size(34, 20)
wide_resnet28_10 = _of_size(28, 10)
# MTARD's robust and clean teachers on CIFAR-100.
wide_resnet70_16, wide_resnet22_6 = _deepmind(70, 16), _deepmind(22, 6)
# Sizes that exist in both forms.
wide_resnet28_10_dm, wide_resnet34_20_dm = _deepmind(28, 10, "_dm"), _deepmind(34, 20, "_dm")


def _preact(depth: int, blocks: Sequence[int]) -> Callable[..., keras.Model]:
    def make(
        image_shape: Sequence[int],
        num_classes: int,
        *,
        width: int = 64,
        final_batch_norm: bool = True,
        shortcut_of: str = "activation",
        normalization: Normalization = "raw",
    ) -> keras.Model:
        if shortcut_of not in ("activation", "input"):
            raise ValueError(
                f"preact_resnet{depth}.shortcut_of is {shortcut_of!r}; use 'activation' or 'input'."
            )
        return _net(
            image_shape,
            num_classes,
            stem=width,
            widths=[width, 2 * width, 4 * width, 8 * width],
            blocks=blocks,
            normalization=normalization,
            name=f"preact_resnet{depth}",
            shortcut_of=shortcut_of,
            final_batch_norm=final_batch_norm,
        )

    make.__name__ = make.__qualname__ = f"preact_resnet{depth}"
    make.__doc__ = f"""Pre-activation ResNet-{depth} for small images.

    Args:
      image_shape: (height, width, channels).
      num_classes: number of logits.
      width: channels of the first stage; 64 in the papers.
      final_batch_norm: BatchNorm and ReLU before pooling, as in the paper. kuangliu/pytorch-cifar
        has none; RobustBench calls it `bn_before_fc`.
      shortcut_of: input of a shortcut's 1x1 convolution: "activation" (after the first
        BatchNorm and ReLU: the paper, kuangliu) or "input" (RobustBench's `out_shortcut=False`).
      normalization: see `mtard_tf.models.layers.image_input`.
    """
    return make


preact_resnet18, preact_resnet34 = _preact(18, [2, 2, 2, 2]), _preact(34, [3, 4, 6, 3])
