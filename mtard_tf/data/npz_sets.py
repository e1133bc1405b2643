"""Images of an `.npz` file, as the public sets of generated images have them."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from mtard_tf.data import arrays
from mtard_tf.data.image_data import DataError, Split
from mtard_tf.data.tfds_sets import MAX_BYTES


def npz(
    path: str,
    image_key: str = "image",
    label_key: str = "label",
    max_bytes: int = MAX_BYTES,
) -> Split:
    """Images and labels of an `.npz` file, as extra images of a stage (`Stage.extra`).

    It has no test split: a whole data set is made with `mtard_tf.data.from_arrays`.

    Args:
      path: of the file; `~` is the home.
      image_key: name of the array of images, see `mtard_tf.data.from_arrays`.
      label_key: name of the array of labels, integers `[n]`. If the file has none of that name,
        the images have no labels.
      max_bytes: refuse images that take more than this.

    Raises:
      DataError: the file cannot be read, is too large, or has other arrays.
    """
    name = os.path.expanduser(path)
    with _reading(name), zipfile.ZipFile(name) as archive:
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.filelist}
    if image_key not in sizes:
        raise DataError(
            f"{name} has the arrays ({', '.join(sizes)}) and none called {image_key!r}; name the "
            "images' with datasets.npz.image_key."
        )
    if sizes[image_key] > max_bytes:
        raise DataError(
            f"{name} takes {sizes[image_key] / 2**30:.2f} GiB in memory, over the limit of "
            f"{max_bytes / 2**30:.2f} GiB; raise datasets.npz.max_bytes if there is room."
        )
    with _reading(name), np.load(name, allow_pickle=False) as file:
        images = file[image_key]
        labels = file[label_key] if label_key in sizes else None
    images = arrays.images(f"{name}: {image_key!r}", images)
    if labels is None:
        labels = np.full(len(images), -1, np.int32)
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise DataError(
            f"{name}: {label_key!r} is {labels.dtype} {labels.shape} for {len(images):,} images; "
            f"give integers [{len(images)}]."
        )
    if labels.size and not -1 <= labels.min() <= labels.max() < 2**31:
        raise DataError(
            f"{name}: {label_key!r} runs from {labels.min()} to {labels.max()}; give class ids, -1 "
            "for an image without a label."
        )
    return Split(images, labels.astype(np.int32))


_DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Makes one line of whatever goes wrong in a file that is damaged, or none of this kind."""
    try:
        yield
    except (*_DAMAGE, RuntimeError) as error:  # the last of an encrypted member
        reason = " ".join(str(error).split())
        raise DataError(f"{name} cannot be read ({reason}); give a whole .npz file.") from error
