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

from collections.abc import Iterable, Sequence

from mtard_tf import bin as binary
from mtard_tf.bin import paths

_DATA_DIR = paths.define(
    "data_dir", "Prepared TFDS sets; default $TFDS_DATA_DIR or ~/tensorflow_datasets."
)
_SOURCE = paths.define("source", "The folder with the set's own files.")
_OUT = paths.define("out", "make-mini: the version folder to write.")


def main(argv: Sequence[str]) -> None:
    from mtard_tf.data import catalogue, preparing

    if argv[1:] == ["list"]:
        print(catalogue.table(_DATA_DIR.value))
    elif len(argv) == 3 and argv[1] == "import" and _SOURCE.value:
        print(preparing.import_named(argv[2], _SOURCE.value, _DATA_DIR.value, progress=_bar))
    elif argv[1:] == ["make-mini"] and _SOURCE.value and _OUT.value:
        print(preparing.make_fashion_mini(_SOURCE.value, _OUT.value, progress=_bar))
    else:
        raise ValueError(
            "say `list`, `import NAME --source=DIR`, or `make-mini --source=DIR --out=DIR`; "
            "--help says more."
        )


def _bar(places: Sequence[int], role: str) -> Iterable[int]:
    import tqdm

    return tqdm.tqdm(places, desc=role, unit=" images", mininterval=0.5)


def run() -> None:
    binary.run(main, takes_words=True)


if __name__ == "__main__":
    run()
