"""PNG and JPEG bytes to images, as operations of a served graph that no request can crash."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtard_tf.exporting import orientation

# An image is decoded whole before it is resized: 4,096 x 4,096 in colour are 48 MiB.
LARGEST_SIDE = 4096
CHANNELS = (1, 3)  # what both formats can be decoded to

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"


def decode(encoded: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """Images of one shape, resized (bilinear, antialiased) where theirs differs.

    Grey becomes colour and colour grey as the shape asks; an alpha channel is dropped, and of 16
    bits the upper 8 count. JPEG is decoded with the accurate DCT, as most libraries do. An image
    that EXIF says to be turned is set upright first; its aspect ratio is not kept.

    Args:
      encoded: string `[batch]`, which may be empty.
      shape: height, width and channels, of which there are 1 or 3.

    Returns:
      uint8 `[batch, *shape]`.

    Raises:
      tf.errors.InvalidArgumentError: when run, with the place of the first image that is no PNG or
        JPEG, has more than 4,096 pixels on a side (found in its header, before it is decoded), or
        cannot be decoded.
    """
    count = tf.size(encoded, tf.int64)

    def one(place: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, ...]:
        size = _size(image)
        fits = tf.reduce_all((size > 0) & (size <= LARGEST_SIDE))
        nothing = tf.zeros(shape, tf.uint8)
        return place, size, tf.cond(fits, lambda: _pixels(image, shape), lambda: nothing)

    # The decoders' errors do not say which image of a batch was at fault. A data set can drop it,
    # and then its place is missing. The last element is there so that one is left at least.
    images = tf.data.Dataset.from_tensor_slices(encoded).enumerate().map(one).ignore_errors()
    last = tf.data.Dataset.from_tensors((count, tf.ones(2, tf.int32), tf.zeros(shape, tf.uint8)))
    batch = images.concatenate(last).batch(count + 1).get_single_element()
    places, sizes, pixels = batch

    damaged = places != tf.range(tf.size(places, tf.int64))
    cmyk = ", or a JPEG in CMYK, which has no grey form" if shape[-1] == 1 else ""
    _refuse(damaged, f"cannot be decoded: it is damaged{cmyk}", encoded)
    _refuse(tf.reduce_any(sizes == 0, axis=1), "is neither PNG nor JPEG", encoded)
    _refuse(
        tf.reduce_any((sizes < 0) | (sizes > LARGEST_SIDE), axis=1),
        f"has more than {LARGEST_SIDE} pixels on a side by its header; make it smaller",
        encoded,
    )
    return pixels[:-1]


def _size(image: tf.Tensor) -> tf.Tensor:
    """Two sides in pixels, int32 `[2]`, by the header alone; 0 where it is of no known format."""

    def png() -> tf.Tensor:
        return tf.io.decode_raw(tf.strings.substr(image, 16, 8), tf.int32, little_endian=False)

    def jpeg() -> tf.Tensor:
        return tf.io.extract_jpeg_shape(image)[:2]

    cases: list[tuple[tf.Tensor, Callable[[], tf.Tensor]]] = [
        (tf.strings.substr(image, 0, len(_PNG)) == _PNG, png),
        (tf.strings.substr(image, 0, len(_JPEG)) == _JPEG, jpeg),
    ]
    return tf.ensure_shape(tf.case(cases, default=lambda: tf.zeros(2, tf.int32)), [2])


def _pixels(image: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    # Takes PNG as well; `decode_image` has no `dct_method`.
    turned = orientation.of(image, tf.strings.substr(image, 0, len(_PNG)) == _PNG)
    image = tf.io.decode_jpeg(image, channels=shape[-1], dct_method="INTEGER_ACCURATE")
    image = orientation.upright(image, turned)
    image = tf.image.resize(image, shape[:2], antialias=True)
    return tf.ensure_shape(tf.cast(tf.round(image), tf.uint8), shape)


def _refuse(at_fault: tf.Tensor, why: str, encoded: tf.Tensor) -> None:
    """Stops with the first image at fault, bool `[n]`."""
    place = (tf.argmax(tf.cast(at_fault, tf.int32)), tf.size(encoded))
    where = tf.strings.format("Image {} of {} (counted from 0) ", place)
    tf.debugging.Assert(~tf.reduce_any(at_fault), [where + why + ". Send PNG or JPEG."])
