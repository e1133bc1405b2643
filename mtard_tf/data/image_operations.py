"""Colour and shape operations on batches of uint8 images, equal to Pillow's to the bit.

Pillow 13 (`ImageEnhance`, `ImageOps`, `Image.transform`), which torchvision's operations on images
call, is the reference of the published augmentations. Images are uint8
`[batch, height, width, channels]` with 1 or 3 channels; a factor is a number per image, `[batch]`.
"""

from __future__ import annotations

import tensorflow as tf

_FIXED = 2**16  # Pillow maps places in 16.16 fixed point


def saturation(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the image's luma; 1 changes nothing, and grey images never change."""
    return _blended(_luma(images), images, factor)


def brightness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with black."""
    return _blended(tf.zeros_like(images, tf.int32), images, factor)


def contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the rounded mean of the image's luma."""
    pixels = images.shape[1] * images.shape[2]
    total = tf.reduce_sum(_luma(images), axis=[1, 2, 3], keepdims=True)
    return _blended((2 * total + pixels) // (2 * pixels), images, factor)


def sharpness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with a 3 x 3 smoothing: weights 1, in the middle 5, by 13; the border stays."""
    values = tf.cast(images, tf.int32)
    height, width = images.shape[1:3]
    total = 4 * values[:, 1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            total += values[:, row : height - 2 + row, column : width - 2 + column]
    inside = tf.pad((2 * total + 13) // 26, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-1)
    return _blended(tf.where(inside < 0, values, inside), images, factor)


def autocontrast(images: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0..255; one of a single value stays."""
    values = tf.cast(images, tf.float64)
    low = tf.reduce_min(values, axis=[1, 2], keepdims=True)
    high = tf.reduce_max(values, axis=[1, 2], keepdims=True)
    flat = high <= low
    scale = 255.0 / tf.where(flat, tf.ones_like(high), high - low)
    stretched = tf.clip_by_value(values * scale + -low * scale, 0.0, 255.0)
    return tf.cast(tf.where(flat, values, stretched), tf.uint8)


def equalize(images: tf.Tensor) -> tf.Tensor:
    """Equalises the histogram of each channel.

    step = (pixels - pixels of the highest value) // 255
    value v becomes min(255, (step // 2 + pixels below v) // step); step 0: it stays
    """
    count, channels = tf.shape(images)[0], images.shape[3]
    values = tf.cast(images, tf.int32)
    bins = count * channels * 256
    tables = tf.reshape(tf.range(count * channels) * 256, [count, 1, 1, channels])
    places = values + tables
    histogram = tf.math.bincount(tf.reshape(places, [-1]), minlength=bins, maxlength=bins)
    histogram = tf.reshape(histogram, [count, channels, 256])
    highest = tf.reduce_max(values, axis=[1, 2])[..., None]
    last = tf.gather(histogram, highest, axis=2, batch_dims=2)
    step = (images.shape[1] * images.shape[2] - last) // 255
    below = tf.cumsum(histogram, axis=2, exclusive=True)
    table = tf.minimum(255, (step // 2 + below) // tf.maximum(step, 1))
    table = tf.where(step == 0, tf.range(256), table)
    return tf.cast(tf.gather(tf.reshape(table, [-1]), places), tf.uint8)


def shear(images: tf.Tensor, angle: tf.Tensor, vertical: tf.Tensor) -> tf.Tensor:
    """Shears about the middle by an angle in radians, nearest pixel, black outside.

    Args:
      images: see above.
      angle: float64 `[batch]`.
      vertical: bool `[batch]`: along y instead of along x.
    """
    slope = tf.tan(angle)
    one, zero = tf.ones_like(slope), tf.zeros_like(slope)
    across, along = tf.where(vertical, zero, slope), tf.where(vertical, slope, zero)
    return _mapped(images, (one, across), (along, one))


def rotate(images: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Rotates about the middle, counter-clockwise, nearest pixel, black outside.

    Args:
      images: see above.
      degrees: float64 `[batch]`, less than 90 in size.
    """
    angle = -degrees * (3.141592653589793 / 180)
    return _mapped(images, (tf.cos(angle), tf.sin(angle)), (-tf.sin(angle), tf.cos(angle)))


def _blended(degenerate: tf.Tensor, images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """degenerate + factor (image - degenerate), cut to 0..255 and truncated, in float32."""
    difference = tf.cast(tf.cast(images, tf.int32) - degenerate, tf.float32)
    factor = tf.cast(factor, tf.float32)[:, None, None, None]
    blend = tf.cast(degenerate, tf.float32) + factor * difference
    return tf.cast(tf.clip_by_value(blend, 0.0, 255.0), tf.uint8)


def _luma(images: tf.Tensor) -> tf.Tensor:
    """ITU-R 601-2 in 16 bits, int32 `[batch, height, width, 1]`."""
    values = tf.cast(images, tf.int32)
    if images.shape[3] == 1:
        return values
    red, green, blue = tf.split(values, 3, axis=3)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) // 2**16


def _mapped(
    images: tf.Tensor, across: tuple[tf.Tensor, tf.Tensor], along: tuple[tf.Tensor, tf.Tensor]
) -> tf.Tensor:
    """The pixel at (x, y) comes from (across . (x, y), along . (x, y)), counted from the middle."""
    height, width = images.shape[1:3]
    middle = width / 2, height / 2

    def fixed(value: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.floor(value * _FIXED + 0.5), tf.int64)[:, None, None]

    def source(row: tuple[tf.Tensor, tf.Tensor], centre: float) -> tf.Tensor:
        start = row[0] * -middle[0] + row[1] * -middle[1] + centre
        start = fixed(start + row[0] * 0.5 + row[1] * 0.5)
        x, y = tf.range(width, dtype=tf.int64), tf.range(height, dtype=tf.int64)[:, None]
        return (start + fixed(row[0]) * x + fixed(row[1]) * y) // _FIXED

    x, y = source(across, middle[0]), source(along, middle[1])
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = tf.where(inside, y * width + x, 0)
    pixels = tf.reshape(images, [-1, height * width, images.shape[3]])
    found = tf.gather(pixels, places, axis=1, batch_dims=1)
    return tf.where(inside[..., None], found, tf.zeros_like(found))
