"""EXIF orientation as operations of a graph: cameras store most pictures turned."""

from __future__ import annotations

import tensorflow as tf

_TAG = 0x0112
_JPEG_EXIF, _PNG_EXIF = b"Exif\0\0", b"eXIf"
_FIRST_SEGMENT, _FIRST_CHUNK = 2, 8  # after the signatures


def of(image: tf.Tensor, png: tf.Tensor) -> tf.Tensor:
    """The orientation by EXIF, int32 from 1 to 8; 1 where there is none or it is damaged.

    Args:
      image: bytes of a PNG or JPEG, string scalar.
      png: whether it is a PNG, bool scalar.
    """
    block = tf.cond(png, lambda: _of_png(image), lambda: _of_jpeg(image))
    return tf.cond(
        tf.strings.length(block) > 8, lambda: _of_tiff(block), lambda: tf.ones([], tf.int32)
    )


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """An image `[height, width, channels]` as it was seen, of EXIF's orientation."""

    def if_one_of(orientations: list[int], change) -> tf.Tensor:  # type: ignore[no-untyped-def]
        given = image
        return tf.cond(
            tf.reduce_any(orientation == orientations), lambda: change(given), lambda: given
        )

    image = if_one_of([5, 6, 7, 8], lambda x: tf.transpose(x, [1, 0, 2]))
    image = if_one_of([2, 3, 6, 7], lambda x: x[:, ::-1])
    return if_one_of([3, 4, 7, 8], lambda x: x[::-1])


def _of_jpeg(image: tf.Tensor) -> tf.Tensor:
    """The TIFF block of the first segment with EXIF, or nothing."""
    length = tf.strings.length(image)

    def more(place: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
        return (block == b"") & (place + 4 <= length)

    def following(place: tf.Tensor, block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        marker, kind = _byte(image, place), _byte(image, place + 1)
        size = 256 * _byte(image, place + 2) + _byte(image, place + 3)
        inside = tf.strings.substr(image, place + 4, tf.maximum(size - 2, 0))
        exif = (kind == 0xE1) & (tf.strings.substr(inside, 0, 6) == _JPEG_EXIF)
        block = tf.cond(exif, lambda: tf.strings.substr(inside, 6, size), lambda: block)
        # 0xFF before a marker fills; the pixels begin at 0xDA.
        over = (marker != 0xFF) | (kind == 0xDA) | (kind == 0xD9)
        step = tf.where(kind == 0xFF, 1, 2 + tf.maximum(size, 2))
        return tf.where(over, length, place + step), block

    start = tf.constant(_FIRST_SEGMENT), tf.constant(b"")
    return tf.while_loop(more, following, start)[1]


def _of_png(image: tf.Tensor) -> tf.Tensor:
    """The content of the first chunk `eXIf`, or nothing."""
    length = tf.strings.length(image)

    def more(place: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
        return (block == b"") & (place + 8 <= length)

    def following(place: tf.Tensor, block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        head = tf.strings.substr(image, place, 4)
        size = tf.io.decode_raw(head, tf.int32, little_endian=False)[0]
        exif = tf.strings.substr(image, place + 4, 4) == _PNG_EXIF
        inside = (size > 0) & (size <= length - place - 8)
        content = lambda: tf.strings.substr(image, place + 8, size)  # noqa: E731
        block = tf.cond(exif & inside, content, lambda: block)
        return tf.where(inside | (size == 0), place + 12 + size, length), block

    start = tf.constant(_FIRST_CHUNK), tf.constant(b"")
    return tf.while_loop(more, following, start)[1]


def _byte(image: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.io.decode_raw(tf.strings.substr(image, place, 1), tf.uint8)[0], tf.int32)


def _of_tiff(block: tf.Tensor) -> tf.Tensor:
    """The tag of the first directory of a TIFF block of more than 8 bytes."""
    whole = tf.cast(tf.io.decode_raw(block, tf.uint8), tf.int32)
    whole = tf.concat([whole, tf.zeros(16, tf.int32)], axis=0)  # so that 16 more can be looked at
    length = tf.strings.length(block)
    low = tf.where(tf.strings.substr(block, 0, 2) == b"II", 0, 1)

    def number(bytes_: tf.Tensor, place: int | tf.Tensor) -> tf.Tensor:
        return bytes_[..., place + low] + 256 * bytes_[..., place + 1 - low]

    # An offset of more than 64 KiB is none of a segment; its upper half is left out.
    first = tf.clip_by_value(number(whole, tf.where(low == 0, 4, 6)), 0, length)
    count = tf.minimum(number(whole, first), (length - first) // 12)
    entries = tf.reshape(whole[first + 2 : first + 2 + 12 * count], (-1, 12))
    values = tf.where(number(entries, 0) == _TAG, number(entries, 8), 0)
    value = tf.reduce_max(tf.concat([values, [1]], axis=0))
    return tf.where(value <= 8, value, 1)
