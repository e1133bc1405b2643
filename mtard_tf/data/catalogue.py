"""The known data sets, and the folders of prepared ones; does not import TensorFlow."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from mtard_tf.data.image_data import DataError

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_IMPORTABLE = ("fashion_mnist", "mnist")
KNOWN = {
    "fashion_mini": "embedded: 6,000 train, 1,000 test, 28x28x1",
    "fashion_mnist": "mtard-data import fashion_mnist --source=DIR, or tfds build fashion_mnist",
    "mnist": "mtard-data import mnist --source=DIR, or tfds build mnist",
    "cifar10": "tfds build cifar10",
    "cifar100": "tfds build cifar100",
    "tiny_imagenet": "mtard-data import tiny_imagenet --source=DIR",
}


def default_data_dir() -> str:
    """TFDS' own default: $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")


def versions(directory: pathlib.Path) -> list[pathlib.Path]:
    """The prepared versions of a set (or of a config of one) in `directory`, oldest first."""
    if not directory.is_dir():
        return []
    found = [path.parent for path in directory.glob("*/dataset_info.json")]
    found = [path for path in found if _VERSION.fullmatch(path.name)]
    return sorted(found, key=lambda path: [int(part) for part in path.name.split(".")])


def prepared_directory(name: str, data_dir: str | None = None) -> pathlib.Path:
    """The folder with the `dataset_info.json` of a prepared set; arguments as in `tfds`.

    Looks at folders only: TFDS' own look-up imports the set's code and may use the network.

    Raises:
      DataError: the set is not prepared, or has several configs and `name` has none.
    """
    path, _, version = name.partition(":")
    root = pathlib.Path(os.path.expanduser(data_dir or default_data_dir()))
    candidates = versions(root / path)
    if version:
        candidates = [folder for folder in candidates if folder.name == version]
    if candidates:
        return candidates[-1]
    configs = sorted(
        {info.parent.parent.name for info in (root / path).glob("*/*/dataset_info.json")}
    )
    if configs and "/" not in path and not version:
        raise DataError(
            f"{name} at {root / path} has configs ({', '.join(configs)}); name one: "
            f"{path}/{configs[0]}."
        )
    remedy = f"run `tfds build {name} --data_dir={root}` where there is a network"
    if path in _IMPORTABLE:
        remedy = f"run `mtard-data import {path} --source=DIR_WITH_IDX_FILES --data_dir={root}`"
    elif path == "tiny_imagenet":
        remedy = f"run `mtard-data import {path} --source=tiny-imagenet-200 --data_dir={root}`"
    elif path not in KNOWN:
        remedy = f"give the data_dir it was imported to, or if TFDS has this set {remedy}"
    raise DataError(f"{name} is not prepared: looked in {root / path}; {remedy}.")


def check_features(directory: pathlib.Path) -> None:
    """Refuses a set with feature classes of other packages: TFDS would import their modules.

    Raises:
      DataError: there are such classes, or `features.json` cannot be read.
    """
    path = directory / "features.json"
    try:
        named = set(_classes(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"TFDS cannot read {directory} ({error}); prepare it again.") from error
    strange = sorted(name for name in named if not name.startswith("tensorflow_datasets."))
    if strange:
        raise DataError(
            f"{path} names the class {strange[0]!r}, whose module TFDS would run; prepare the set "
            "again with TFDS' own features."
        )


def _classes(value: Any) -> Iterator[str]:
    """All values in `features.json` that TFDS takes for class names."""
    if isinstance(value, dict):
        for key in ("pythonClassName", "python_class_name", "type"):
            if isinstance(value.get(key), str):
                yield value[key]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        if isinstance(part, (dict, list)):
            yield from _classes(part)


def table(data_dir: str | None = None) -> str:
    """The known sets, and those prepared in `data_dir` (None: TFDS' default), one per line."""
    root = pathlib.Path(os.path.expanduser(data_dir or default_data_dir()))
    prepared = {
        str(info.parent.parent.relative_to(root)): info.parent.name
        for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
        for info in sorted(root.glob(pattern))
        if info.parent in versions(info.parent.parent)
    }
    lines = [f"Prepared in {root} (any image-classification set of these can be used by name):"]
    lines += [f"  {name:16} {version}" for name, version in prepared.items()] or ["  nothing"]
    lines += ["Known by name, and how to get them:"]
    lines += [f"  {name:16} {source}" for name, source in KNOWN.items()]
    lines += ["Your own images, one folder per class:"]
    lines += ["  mtard-data import images --source=DIR --out=NAME"]
    return "\n".join(lines)
