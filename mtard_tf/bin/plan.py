"""Says what an experiment will cost before it is run: FLOPs, hours and memory of every stage.

    mtard-plan --config=quickstart.gin
    mtard-plan --config=quickstart.gin --check
    mtard-plan --config=mine.gin --throughput=20 --stand_in=robust_teacher.keras=resnet18 \\
        --image_shape=64,64,3 --classes=200 --examples=100000

Without --throughput it times the passes of each stage on this device: seconds to minutes.
Also `python -m mtard_tf.bin.plan ...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from mtard_tf import bin as binary

_CONFIG = flags.DEFINE_multi_string("config", [], "Gin file; repeatable, later ones win.")
_GIN = flags.DEFINE_multi_string("gin", [], "Gin binding, such as student/Stage.epochs=5.")
_FLAGS = {
    "throughput": flags.DEFINE_float(
        "throughput", None, "TFLOP/s that the device achieves, not its peak; default: measure."
    ),
    "check": flags.DEFINE_bool("check", False, "Time whole training steps, too."),
    "image_shape": flags.DEFINE_string("image_shape", None, "Such as 64,64,3: reads no data set."),
    "classes": flags.DEFINE_integer("classes", None, "With --image_shape: number of labels."),
    "examples": flags.DEFINE_integer("examples", None, "With --image_shape: training images."),
    "stand_ins": flags.DEFINE_multi_string(
        "stand_in", [], "PATH=MODEL for a teacher file that is not here; repeatable."
    ),
}


def main(argv: Sequence[str]) -> None:
    from mtard_tf.commands import plan
    from mtard_tf.config import gin_files

    gin_files.parse(_CONFIG.value, _GIN.value)
    values: dict[str, Any] = {name: flag.value for name, flag in _FLAGS.items()}
    print(plan.run(gin_files.experiment(), plan.Request(**values)))


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
