"""The data sets that have a name: embedded, or prepared by TFDS under the same name."""

from __future__ import annotations

import os

from mtard_tf.data.image_data import ImageData
from mtard_tf.data.tfds_sets import read, tfds

FASHION_MINI = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fashion_mini", "1.0.0")


def cifar10(
    data_dir: str | None = None,
    validation_examples: int | None = None,
    split_seed: int = 0,
    augmentation: str = "crop_flip",
) -> ImageData:
    """CIFAR-10 as prepared by TFDS; arguments as in `tfds`."""
    return tfds(
        "cifar10",
        data_dir,
        validation_examples=validation_examples,
        split_seed=split_seed,
        augmentation=augmentation,
    )


def cifar100(
    data_dir: str | None = None,
    validation_examples: int | None = None,
    split_seed: int = 0,
    augmentation: str = "crop_flip",
) -> ImageData:
    """CIFAR-100 with its 100 fine labels, as prepared by TFDS; arguments as in `tfds`."""
    return tfds(
        "cifar100",
        data_dir,
        validation_examples=validation_examples,
        split_seed=split_seed,
        augmentation=augmentation,
        label_key="label",
    )


def tiny_imagenet(
    data_dir: str | None = None,
    validation_examples: int | None = None,
    split_seed: int = 0,
    augmentation: str = "crop_flip",
) -> ImageData:
    """Tiny-ImageNet as `mtard-data import tiny_imagenet` prepares it; arguments as in `tfds`."""
    return tfds(
        "tiny_imagenet",
        data_dir,
        validation_examples=validation_examples,
        split_seed=split_seed,
        augmentation=augmentation,
    )


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


def fashion_mnist(
    data_dir: str | None = None,
    validation_examples: int | None = None,
    split_seed: int = 0,
    augmentation: str = "none",
) -> ImageData:
    """Fashion-MNIST: 60,000 training and 10,000 test images, 28 x 28 grey; arguments as in `tfds`.

    Without a network, prepare it with `mtard-data import fashion_mnist --source=DIR`.
    """
    return tfds(
        "fashion_mnist",
        data_dir,
        validation_examples=validation_examples,
        split_seed=split_seed,
        augmentation=augmentation,
    )


def mnist(
    data_dir: str | None = None,
    validation_examples: int | None = None,
    split_seed: int = 0,
    augmentation: str = "none",
) -> ImageData:
    """MNIST: 60,000 training and 10,000 test digits, 28 x 28 grey; arguments as in `tfds`."""
    return tfds(
        "mnist",
        data_dir,
        validation_examples=validation_examples,
        split_seed=split_seed,
        augmentation=augmentation,
    )
