"""`mtard-data`: lists, imports and converts data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mtard_tf.commands import requests
from mtard_tf.data import catalogue, folder_import, preparing
from mtard_tf.data.streaming import conversion
from mtard_tf.reporting.progress import Bar


def run(request: requests.Data, words: Sequence[str]) -> str:
    """Does what the words say; returns the lines to print.

    Raises:
      ValueError: words or flags that do not go together, or data that cannot be read; one line.
    """
    source, data_dir = request.source, request.data_dir
    match list(words):
        case ["list"]:
            return catalogue.table(data_dir)
        case ["import", "images"] if source and request.out:
            return folder_import.import_images(
                source,
                request.out,
                data_dir,
                size=request.size,
                splits=request.splits,
                channels=request.channels,
                skip_broken=request.skip_broken,
                progress=_bar,
            )
        case ["convert", name] if request.out:
            return conversion.convert(name, request.out, data_dir, progress=_bar)
        case ["import", name] if source and name != "images":
            return str(preparing.import_named(name, source, data_dir, progress=_bar))
        case ["make-mini"] if source and request.out:
            return str(preparing.make_fashion_mini(source, request.out, progress=_bar))
    raise ValueError(
        "say `list`, `import images --source=DIR --out=NAME`, `import NAME --source=DIR`, "
        "`convert NAME --out=DIR`, or `make-mini --source=DIR --out=DIR`; --help says more."
    )


def _bar(places: Sequence[int], role: str) -> Iterable[int]:
    return Bar(role, items=places)
