"""Makes a .keras file of PyTorch's, safetensors' or DeepMind's weights, without running their code.

    mtard-import --source=TRADES.pt --model=models.wide_resnet34_10 --out=teacher.keras
    mtard-import --source=resnet20.th --model=models.resnet20 --normalization=imagenet \\
        --gin="models.resnet20.shortcut='A'" --dataset=cifar10 --out=teacher.keras

With --dataset it measures the clean accuracy; with --probe it compares logits with the source's.
docs/teachers.md says more. Also `python -m mtard_tf.bin.import_ ...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from mtard_tf import bin as binary
from mtard_tf.bin import paths

_FLAGS = {
    "source": paths.define("source", "The file of weights.", required=True),
    "model": paths.define(
        "model", "models.NAME, or a .keras file with the same layers.", required=True
    ),
    "out": paths.define("out", "The .keras file to write.", required=True),
    "classes": flags.DEFINE_integer("classes", 10, "Number of logits.", 1),
    "image_shape": flags.DEFINE_string("image_shape", "32,32,3", "height,width,channels."),
    "normalization": flags.DEFINE_string(
        "normalization",
        None,
        "raw, cifar10, cifar10_chenyaofo, cifar100, imagenet, or a mean and a deviation per "
        "channel: 0.5,0.5,0.5/0.2,0.2,0.2. Default the model's own, raw for most.",
    ),
    "gin": flags.DEFINE_multi_string("gin", [], "Binding of the model; repeatable."),
    "key": flags.DEFINE_string("key", None, "Which of several state_dicts in the file."),
    "allow_unused": flags.DEFINE_bool("allow_unused", False, "Leave out what has no place."),
    "probe": paths.define("probe", "An .npz of `images` and the source's `logits`."),
    "verify": flags.DEFINE_bool("verify", False, "Insist on a --probe."),
    "dataset": flags.DEFINE_string("dataset", None, "Measure the accuracy on its test images."),
    "data_dir": paths.define("data_dir", "Prepared TFDS sets; default TFDS' own."),
    "examples": flags.DEFINE_integer("examples", 1000, "First so many test images; 0 for all.", 0),
    "batch_size": flags.DEFINE_integer("batch_size", 100, "Images at a time.", 1),
}


def main(argv: Sequence[str]) -> None:
    from mtard_tf.commands import import_

    values: dict[str, Any] = {name: flag.value for name, flag in _FLAGS.items()}
    import_.run(import_.Request(**values))


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
