"""The data sets that have a name: embedded, or prepared by TFDS under the same name."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from mtard_tf.data.image_data import ImageData
from mtard_tf.data.tfds_sets import read, tfds

FASHION_MINI = pathlib.Path(__file__).resolve().parent / "fashion_mini" / "1.0.0"


def fashion_mini(
    validation_examples: int | None = None, split_seed: int = 0, augmentation: str = "none"
) -> ImageData:
    """6,000 training and 1,000 test images of Fashion-MNIST, class-balanced; embedded, no download.

    The first 600 (100) of each class of the full set's training (test) split, 28 x 28 grey.
    Arguments as in `tfds`; 600 of the 6,000 are held out by default.
    """
    return read(
        FASHION_MINI,
        validation_examples=validation_examples,
        split_seed=split_seed,
        augmentation=augmentation,
    )


def _prepared(
    name: str, doc: str, default_augmentation: str, label_key: str | None = None
) -> Callable[..., ImageData]:
    def load(
        data_dir: str | None = None,
        validation_examples: int | None = None,
        split_seed: int = 0,
        augmentation: str = default_augmentation,
        stream: bool | None = None,
    ) -> ImageData:
        return tfds(
            name,
            data_dir,
            validation_examples=validation_examples,
            split_seed=split_seed,
            augmentation=augmentation,
            label_key=label_key,
            stream=stream,
        )

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"{doc}; arguments as in `tfds`."
    return load


cifar10 = _prepared("cifar10", "CIFAR-10 as prepared by TFDS", "crop_flip")
cifar100 = _prepared(
    "cifar100", "CIFAR-100 with its 100 fine labels, as prepared by TFDS", "crop_flip", "label"
)
tiny_imagenet = _prepared(
    "tiny_imagenet", "Tiny-ImageNet as `mtard-data import tiny_imagenet` prepares it", "crop_flip"
)
fashion_mnist = _prepared(
    "fashion_mnist", "Fashion-MNIST: 60,000 training and 10,000 test images, 28 x 28 grey", "none"
)
mnist = _prepared("mnist", "MNIST: 60,000 training and 10,000 test digits, 28 x 28 grey", "none")
