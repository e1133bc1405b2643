"""Where TensorFlow's kernels for CPUs are slow or wrong: strided stems, BatchNorm, empty batches.

oneDNN's gradient to an input of one or three channels computes for sixteen: for the first layer of
a net with a strided stem it takes three times as long as the layer itself, a fifth of an attack's
step. The same numbers come from a convolution with stride 1. With y[o] = sum_k w[k] x[s o + k],

    dx[s q + a] = sum_t w[a + s t] dy[q - t],   a = 0 .. s - 1

so the s x s pixels of a block are the channels of one pixel of a smaller image, and
`depth_to_space` puts them in their places.

oneDNN normalises a batch in bfloat16 by its plain reference code where the channels do not fill its
blocks of 16: 24 channels take eight times as long as in float32, 32 channels less.

On an empty batch, which attacks reach when no image is left to attack, the operation into which
TensorFlow 2.21 fuses convolution, bias and activation returns its input's shape, and the next layer
fails with "input depth must be evenly divisible by filter depth". Eager calls and other devices are
correct.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

ModelFn = Callable[[tf.Tensor], tf.Tensor]

_FEW = 4  # channels; from eight on oneDNN's own gradient is as fast
_BLOCK = 16  # channels that oneDNN normalises at once


def has_fast_gradient(layer: keras.layers.Layer) -> bool:
    """Whether `StridedConv2D` can take the layer's place here and is faster: CPUs only."""
    return (
        type(layer) is keras.layers.Conv2D
        and layer.strides[0] == layer.strides[1] > 1
        and layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
        and layer.built
        and layer.kernel.shape[2] <= _FEW
        and _only_cpus()
    )


def batch_norm_dtype(dtype: tf.DType, channels: int) -> tf.DType:
    """The fastest type here to normalise activations of this type and number of channels in."""
    return tf.float32 if dtype == tf.bfloat16 and channels % _BLOCK and _only_cpus() else dtype


def _only_cpus() -> bool:
    return all(device.device_type == "CPU" for device in tf.config.list_physical_devices())


class StridedConv2D(keras.layers.Conv2D):
    """Keras' Conv2D, with one stride for both directions and another gradient to its input."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return convolution(inputs, tf.convert_to_tensor(kernel), self.strides[0], self.padding)


def convolution(images: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    """`tf.nn.conv2d`; its gradients are the same sums, of the images' in another order.

    Args:
      images: `[batch, height, width, channels]`, height and width known.
      kernel: `[height, width, channels, filters]`.
      stride: for both directions.
      padding: "valid" or "same".
    """
    pads = [
        _padding(size, width, stride, padding)
        for size, width in zip(images.shape[1:3], kernel.shape[:2], strict=True)
    ]

    @tf.custom_gradient
    def run(images: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, object]:
        explicit = [(0, 0), *pads, (0, 0)]
        answer = tf.nn.conv2d(images, kernel, stride, explicit)

        def gradients(sent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            to_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=images,
                filter_sizes=tf.shape(kernel),
                out_backprop=sent,
                strides=[1, stride, stride, 1],
                padding="EXPLICIT",
                explicit_paddings=[n for pair in explicit for n in pair],
            )
            return _to_images(sent, kernel, stride, pads, images.shape[1:3]), to_kernel

        return answer, gradients

    return run(images, kernel)


def _padding(size: int, width: int, stride: int, padding: str) -> tuple[int, int]:
    """Pixels of zeros before and after, as TensorFlow's "same" has them."""
    if padding == "valid":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + width - size, 0)
    return total // 2, total - total // 2


def _to_images(
    sent: tf.Tensor,
    kernel: tf.Tensor,
    stride: int,
    pads: Sequence[tuple[int, int]],
    sizes: Sequence[int],
) -> tf.Tensor:
    """The gradient to the images; see the formula above, in which `a + stride * t` is the row."""
    height, width, channels, filters = kernel.shape
    rows, columns = -(-height // stride), -(-width // stride)
    whole = [[0, rows * stride - height], [0, columns * stride - width], [0, 0], [0, 0]]
    blocks = tf.reshape(tf.pad(kernel, whole), [rows, stride, columns, stride, channels, filters])[
        ::-1, :, ::-1
    ]
    blocks = tf.transpose(blocks, [0, 2, 5, 1, 3, 4])
    blocks = tf.reshape(blocks, [rows, columns, filters, stride * stride * channels])
    edges = []
    for size, (before, after), count, taps in zip(
        sizes, pads, sent.shape[1:3], (rows, columns), strict=True
    ):
        # Blocks of the padded image, each of which looks back at `taps` pixels of what was sent.
        needed = -(-(before + size + after) // stride)
        edges.append((taps - 1, needed - count))
    moved = tf.nn.conv2d(sent, blocks, 1, [(0, 0), *edges, (0, 0)])
    padded = tf.nn.depth_to_space(moved, stride)
    (top, _), (left, _) = pads
    return padded[:, top : top + sizes[0], left : left + sizes[1]]


def never_empty(model_fn: ModelFn) -> ModelFn:
    """The same function; an empty batch reaches the model as one black image."""

    def guarded(images: tf.Tensor) -> tf.Tensor:
        if images.shape[0]:  # known, and not 0
            return model_fn(images)
        count = tf.shape(images)[0]
        paddings = [[0, tf.maximum(1 - count, 0)], *[[0, 0]] * (images.shape.rank - 1)]
        padded = tf.ensure_shape(tf.pad(images, paddings), [None, *images.shape[1:]])
        return model_fn(padded)[:count]

    return guarded
