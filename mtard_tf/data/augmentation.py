"""Augmentations by name: pure functions of (images, ids, seed), in the graph, on whole batches.

CropShift and IDBH are those of Li and Spratling (ICLR 2023, arXiv 2301.09879; their code:
github.com/TreeLLi/DA-Alone-Improves-AT, src/data/idbh.py), with the strengths for CIFAR-10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import tensorflow as tf

from mtard_tf.data import draws
from mtard_tf.data import image_operations as operations

CROP_PADDING = 4
_OFFSETS = 2 * CROP_PADDING + 1
MAX_CUT = 10  # rows and columns that CropShift cuts away, together
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
_ERASE_TRIES = 10
# Numbers per image: the flip and CropShift's six, the operation's four, and those of erasing.
_SHIFT_DRAWS, _OPERATION_DRAWS = 7, 4
_IDBH_DRAWS = _SHIFT_DRAWS + _OPERATION_DRAWS + 1 + 4 * _ERASE_TRIES


def augmented(name: str, images: tf.Tensor, ids: tf.Tensor, seed: int) -> tf.Tensor:
    """A batch as the augmentation of this name makes it.

    Args:
      name: one of `image_data.AUGMENTATIONS`.
      images: uint8 `[batch, height, width, channels]`.
      ids: int64 `[batch]`; row i's draw depends on (seed, ids[i]) alone, not on its batch.
      seed: integer.
    """
    if name == "none":
        return images
    return tf.ensure_shape(_BY_NAME[name](images, ids, seed), images.shape)


def crop_flip(images: tf.Tensor, ids: tf.Tensor, seed: int) -> tf.Tensor:
    """Zero padding by 4, a random crop of the old size, a horizontal flip for half of the images.

    Arguments as in `augmented`; images may have any dtype.
    """
    rows, columns, flips = crop_flip_draws(ids, seed)
    height, width, channels = images.shape[1:]
    # Whole lines are copied; gathering columns, pixel by pixel, takes four times as long.
    lines = tf.reshape(images, [-1, height, width * channels])
    margin = CROP_PADDING * channels
    padded = tf.pad(lines, [[0, 0], [CROP_PADDING, CROP_PADDING], [margin, margin]])
    lines = tf.gather(padded, rows[:, None] + tf.range(height), axis=1, batch_dims=1)
    alike = columns + _OFFSETS * tf.cast(flips, tf.int32)
    places = tf.dynamic_partition(tf.range(tf.shape(images)[0]), alike, 2 * _OFFSETS)

    def moved(part: tf.Tensor, number: int) -> tf.Tensor:
        start = number % _OFFSETS * channels
        part = tf.reshape(part[:, :, start : start + width * channels], [-1, width, channels])
        part = part if number < _OFFSETS else tf.reverse(part, [1])
        return tf.reshape(part, [-1, height, width, channels])

    parts = tf.dynamic_partition(lines, alike, 2 * _OFFSETS)
    return tf.dynamic_stitch(places, [moved(part, n) for n, part in enumerate(parts)])


def crop_flip_draws(ids: tf.Tensor, seed: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What `crop_flip` does to each image: (row, column) int32 in 0..8 and flip bool, `[batch]`.

    row = 9 * bits[0:16] >> 16, column = 9 * bits[16:32] >> 16, flip = bits[63]
    """
    bits = draws.id_bits(ids, seed)

    def offset(shift: int) -> tf.Tensor:
        field = tf.bitwise.bitwise_and(draws.shift(bits, shift), tf.constant(0xFFFF, tf.uint64))
        return tf.cast(field, tf.int32) * _OFFSETS // 2**16

    return offset(0), offset(16), tf.cast(draws.shift(bits, 63), tf.bool)


def crop_shift(images: tf.Tensor, ids: tf.Tensor, seed: int) -> tf.Tensor:
    """A horizontal flip for half of the images, then CropShift; see `shifted`."""
    numbers = draws.uniform(ids, seed, _SHIFT_DRAWS)
    return shifted(images, *crop_shift_draws(numbers, images.shape[1:3]))


def crop_shift_draws(
    numbers: tf.Tensor, size: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What `crop_shift` does to each image: flip, rows and columns, as `shifted` takes them.

        s ~ U{0..10}, cut columns ~ U{0..s}, cut rows = s - cut columns,
        first kept and first covered, of columns and of rows: U{0..cut} each

    The code's order of draws: s, cut columns, kept column and row, place from the right and bottom.

    Args:
      numbers: in [0, 1), `[batch, 7]`.
      size: (height, width); images of at most 10 pixels a side keep at least one.
    """
    flip, strength, columns, left, top, right, bottom = tf.unstack(numbers, axis=1)
    cut = draws.whole(strength, min(MAX_CUT + 1, *size))
    cut_columns = draws.whole(columns, cut + 1)
    cut_rows = cut - cut_columns
    across, down = cut_columns + 1, cut_rows + 1
    rows = cut_rows, draws.whole(top, down), cut_rows - draws.whole(bottom, down)
    others = cut_columns, draws.whole(left, across), cut_columns - draws.whole(right, across)
    return flip < 0.5, tf.stack(rows, axis=1), tf.stack(others, axis=1)


def shifted(images: tf.Tensor, flips: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Flips, cuts rows and columns away, and puts what is left elsewhere on black.

    Args:
      images: `[batch, height, width, channels]`.
      flips: bool `[batch]`.
      rows: int32 `[batch, 3]`: how many are cut, the first that is kept, where that one goes.
      columns: the same of columns.
    """
    height, width = images.shape[1:3]
    down, across = _sources(height, rows), _sources(width, columns)
    flipped = tf.where(across == width, width, width - 1 - across)
    # One black row and column stand for all that is not covered.
    padded = tf.pad(images, [[0, 0], [0, 1], [0, 1], [0, 0]])
    return _taken(padded, down, tf.where(flips[:, None], flipped, across))


def idbh(images: tf.Tensor, ids: tf.Tensor, seed: int, erased: float) -> tf.Tensor:
    """IDBH: `crop_shift`, one of eight colour and shape operations, a share with a black box.

    Arguments as in `augmented`, and the share of images in which a rectangle is erased.
    """
    numbers = draws.uniform(ids, seed, _IDBH_DRAWS)
    end = _SHIFT_DRAWS + _OPERATION_DRAWS
    images = shifted(images, *crop_shift_draws(numbers[:, :_SHIFT_DRAWS], images.shape[1:3]))
    images = _one_operation(images, numbers[:, _SHIFT_DRAWS:end])
    boxes = erased_boxes(numbers[:, end + 1 :], images.shape[1:3])
    return _erased(images, tf.where(numbers[:, end, None] < erased, boxes, 0))


def erased_boxes(numbers: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """The rectangles of random erasing (torchvision's): top, left, height, width, int32.

        area ~ U(.02, .33) of the image, ratio = exp U(log .3, log 3.3),
        height = round sqrt(area ratio), width = round sqrt(area / ratio), its place uniform

    The first of ten tries that is smaller than the image in both directions; else height 0.

    Args:
      numbers: in [0, 1), `[batch, 40]`: area, ratio, top, left of each try.
      size: (height, width).
    """
    height, width = size
    area, ratio, top, left = tf.unstack(tf.reshape(numbers, [-1, _ERASE_TRIES, 4]), axis=2)
    area = height * width * _between(area, *ERASED_AREA)
    ratio = tf.exp(_between(ratio, *map(math.log, ERASED_RATIO)))
    high = tf.cast(tf.round(tf.sqrt(area * ratio)), tf.int32)
    wide = tf.cast(tf.round(tf.sqrt(area / ratio)), tf.int32)
    fits = (high < height) & (wide < width)
    places = draws.whole(top, height - high + 1), draws.whole(left, width - wide + 1)
    boxes = tf.stack([*places, high, wide], axis=2)
    boxes = tf.where(fits[..., None], boxes, 0)
    first = tf.argmax(tf.cast(fits, tf.int32), axis=1)  # of the greatest, so of those that fit
    return tf.gather(boxes, first, axis=1, batch_dims=1)


def _one_operation(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Each image after one of the eight operations, each of which runs on its images only."""
    chosen = draws.whole(numbers[:, 0], len(_OPERATIONS))
    parts = tf.dynamic_partition(tf.range(tf.shape(images)[0]), chosen, len(_OPERATIONS))
    done = []
    for operation, places in zip(_OPERATIONS, parts, strict=True):
        part = tf.ensure_shape(tf.gather(images, places), [None, *images.shape[1:]])
        done.append(operation(part, tf.gather(numbers[:, 1:], places)))
    return tf.dynamic_stitch(parts, done)


def _blended(operation: Callable, low: float, images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    return operation(images, _between(numbers[:, 0], low, 1.9))


def _sheared(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    angle = _between(numbers[:, 0], 0.05, 0.15) * _sign(numbers[:, 1])
    return operations.shear(images, angle, numbers[:, 2] < 0.5)


def _rotated(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    degrees = tf.cast(1 + draws.whole(numbers[:, 0], 10), tf.float64)
    return operations.rotate(images, degrees * _sign(numbers[:, 1]))


# (images, numbers [batch, 3]: strength, sign, axis) -> images
_OPERATIONS: tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], ...] = (
    partial(_blended, operations.saturation, 0.1),
    partial(_blended, operations.brightness, 0.5),
    partial(_blended, operations.contrast, 0.5),
    partial(_blended, operations.sharpness, 0.1),
    lambda images, _: operations.autocontrast(images),
    lambda images, _: operations.equalize(images),
    _sheared,
    _rotated,
)
_BY_NAME: dict[str, Callable[[tf.Tensor, tf.Tensor, int], tf.Tensor]] = {
    "crop_flip": crop_flip,
    "crop_shift": crop_shift,
    "idbh_weak": partial(idbh, erased=0.5),
    "idbh_strong": partial(idbh, erased=1.0),
}


def _erased(images: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    top, left, high, wide = tf.unstack(boxes[:, None], axis=2)
    down, across = tf.range(images.shape[1]), tf.range(images.shape[2])
    down = (down >= top) & (down < top + high)
    across = (across >= left) & (across < left + wide)
    inside = (down[:, :, None] & across[:, None, :])[..., None]
    return tf.where(inside, tf.zeros_like(images), images)


def _sources(size: int, moves: tf.Tensor) -> tf.Tensor:
    """For each place the one that goes there, `[batch, size]`; `size` where none does."""
    cut, kept, place = tf.unstack(moves[:, None], axis=2)
    offset = tf.range(size) - place
    return tf.where((offset >= 0) & (offset < size - cut), kept + offset, size)


def _taken(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    images = tf.gather(images, rows, axis=1, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)


def _between(numbers: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return low + (high - low) * numbers


def _sign(numbers: tf.Tensor) -> tf.Tensor:
    return tf.where(numbers < 0.5, tf.constant(1.0, tf.float64), tf.constant(-1.0, tf.float64))
