"""Converts PyTorch, safetensors or DeepMind weights to a .keras file, without running their code.

    mtard-import --source=TRADES.pt --model=models.wide_resnet34_10 --out=teacher.keras
    mtard-import --source=resnet20.th --model=models.resnet20 --normalization=imagenet \\
        --gin="models.resnet20.shortcut='A'" --dataset=cifar10 --out=teacher.keras

    mtard-import --source=net.keras --from_probabilities --input_scale=255 --out=teacher.keras

With --dataset it measures the clean accuracy; with --probe it compares logits with the source's.
docs/teachers.md says more. Also `python -m mtard_tf.bin.import_ ...`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtard_tf import bin as binary
from mtard_tf.bin.request_flags import define
from mtard_tf.commands import requests

_request = define(requests.Import)


def main(argv: Sequence[str]) -> None:
    from mtard_tf.commands import import_

    import_.run(_request())


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
