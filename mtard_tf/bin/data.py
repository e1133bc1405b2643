"""Prepares data sets on machines with no network.

    mtard-data list [--data_dir=DIR]
    mtard-data import fashion_mnist --source=/usr/share/datasets/fashion-mnist [--data_dir=DIR]
    mtard-data import tiny_imagenet --source=tiny-imagenet-200 [--data_dir=DIR]
    mtard-data make-mini --source=/usr/share/datasets/fashion-mnist --out=DIR/fashion_mini/1.0.0

`import` turns four IDX files of fashion_mnist or mnist, or the folders of Tiny-ImageNet's archive,
into TFDS format; `make-mini` makes the set that is embedded in the package. Also
`python -m mtard_tf.bin.data ...`.
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
