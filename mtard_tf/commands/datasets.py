"""The data set that a command's flags name."""

from __future__ import annotations

import inspect

from mtard_tf import registry
from mtard_tf.data import catalogue, tfds_sets
from mtard_tf.data.image_data import DataError, ImageData


def dataset(name: str, data_dir: str | None = None) -> ImageData:
    """A registered data set by name, or any prepared TFDS set.

    Raises:
      DataError: neither; the message names the nearest.
    """
    needing = ("tfds", "npz", "image_folder")  # a name or a path
    known = [key for key in registry.names("datasets") if key not in needing]
    if name in known:
        factory = registry.target("datasets", name)
        if data_dir is not None and "data_dir" in inspect.signature(factory).parameters:
            return factory(data_dir=data_dir)
        return factory()
    try:
        catalogue.prepared_directory(name, data_dir)
    except DataError as error:
        raise DataError(f"{registry.unknown_name('dataset', name, known)} {error}") from error
    return tfds_sets.tfds(name, data_dir)
