"""Image-classification sets in memory, and batches of them.

    data = mtard_tf.data.fashion_mini()
    for images, labels, ids in mtard_tf.data.training_batches(
        data, batch_size=128, epochs=2, seed=0
    ): ...

Names are imported on first use, so that `mtard-data list` does not wait for TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "DataError": "image_data",
    "ImageData": "image_data",
    "Split": "image_data",
    "carve_validation": "image_data",
    "cifar10": "named_sets",
    "cifar100": "named_sets",
    "evaluation_batches": "batches",
    "fashion_mini": "named_sets",
    "fashion_mnist": "named_sets",
    "from_arrays": "arrays",
    "image_folder": "image_folders",
    "mnist": "named_sets",
    "npz": "npz_sets",
    "part": "extra",
    "rest": "extra",
    "steps_per_epoch": "batches",
    "tfds": "tfds_sets",
    "tiny_imagenet": "named_sets",
    "training_batches": "batches",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
