"""Imports your own images as data sets, and prepares known ones without a network.

    mtard-data import images --source=PHOTOS --out=NAME [--size=64] [--splits=80/10/10]
    mtard-data import fashion_mnist --source=/usr/share/datasets/fashion-mnist [--data_dir=DIR]
    mtard-data import tiny_imagenet --source=tiny-imagenet-200 [--data_dir=DIR]
    mtard-data convert NAME --out=DIR [--data_dir=DIR]
    mtard-data list [--data_dir=DIR]
    mtard-data make-mini --source=/usr/share/datasets/fashion-mnist --out=DIR/fashion_mini/1.0.0

PHOTOS has one folder per class, or train, validation and test above these (docs/own_data.md).
`import NAME` reads the IDX files of fashion_mnist or mnist, or Tiny-ImageNet's archive; `make-mini`
makes the embedded set. `convert` writes a prepared set anew in ArrayRecord, for sets larger than
memory (docs/own_data.md). All write TFDS format. Also `python -m mtard_tf.bin.data ...`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtard_tf import bin as binary
from mtard_tf.bin.request_flags import define
from mtard_tf.commands import requests

_request = define(requests.Data)


def main(argv: Sequence[str]) -> None:
    from mtard_tf.commands import data

    print(data.run(_request(), argv[1:]))


def run() -> None:
    binary.run(main, takes_words=True)


if __name__ == "__main__":
    run()
