"""Writes a stage's student as files for serving: SavedModel, LiteRT, ONNX.

    mtard-export --run_dir=runs/quickstart --stage=student
    mtard-export --run_dir=runs/quickstart --format=litert_int8 --format=onnx

Also `python -m mtard_tf.bin.export ...`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtard_tf import bin as binary
from mtard_tf.bin.request_flags import define
from mtard_tf.commands import requests

_request = define(requests.Export)


def main(argv: Sequence[str]) -> None:
    from mtard_tf.commands import export

    print(export.run(_request()))


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
