"""What targeted C&W-L2 finds within less than the reference's budget; prints a Markdown table.

    python benchmarks/cw_budget.py
    python benchmarks/cw_budget.py --nets fashion_pgd_at --budgets 150,5,0.1,slope

A budget is steps, constants, learning rate and first constant; "slope" takes the latter from the
slope at each image. On one core the reference's takes a quarter of an hour for 5 images.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # read by TensorFlow when it starts
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf  # noqa: E402
from reference_net import NETS, fashion_images, fashion_net  # noqa: E402
from tables import table  # noqa: E402

from mtard_tf.attacks.seeds import image_seeds  # noqa: E402
from mtard_tf.measuring.distortion import CWDistortion  # noqa: E402
from mtard_tf.models.cpu_kernels import never_empty  # noqa: E402
from mtard_tf.models.folding import FoldedInference  # noqa: E402
from mtard_tf.threat import ThreatModel  # noqa: E402

BUDGETS = ["1000,9,0.01,0.001", "150,5,0.01,0.001", "150,5,0.01,slope", "150,5,0.1,slope"]


def measure(name: str, budget: str, count: int) -> list[object]:
    """One row: net, budget, mean distance, its values by image, success rate, CPU seconds."""
    steps, constants, rate, first = budget.split(",")
    distortion = CWDistortion(
        num_steps=int(steps),
        search_steps=int(constants),
        learning_rate=float(rate),
        initial_constant=None if first == "slope" else float(first),
    )
    inference = FoldedInference(fashion_net(name))
    images, labels = fashion_images(count)

    @tf.function
    def run(images, labels):
        seeds = image_seeds(0, tf.range(count))
        return distortion(
            never_empty(inference()),
            images,
            labels,
            threat=ThreatModel("l2", 1.0),
            seeds=seeds,
            temperature=1.0,
        )

    start = time.process_time()
    found = run(tf.constant(images), tf.constant(labels, tf.int32))
    seconds = time.process_time() - start
    distances = found["value"].numpy()
    by_image = " ".join(f"{distance:.2f}" for distance in distances)
    reached = f"{float(tf.reduce_mean(found['success_rate'])):.0%}"
    return [name, budget, float(distances.mean()), by_image, reached, f"{seconds:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--budgets", nargs="+", default=BUDGETS)
    parser.add_argument("--images", type=int, default=5)
    args = parser.parse_args()
    rows = [measure(net, budget, args.images) for net in args.nets for budget in args.budgets]
    head = ["net", "budget", "mean distance", "by image", "targets reached", "CPU seconds"]
    table(head, rows, ".3f")


if __name__ == "__main__":
    main()
