"""Where an attack begins: flat pixels, and PGD from beside the image and from the ball.

    python benchmarks/start_of_attack.py --run_dir=RUN [--examples=500] [--stage=NAME ...]

For each finished stage of a run, on the first test images: the share of pixels at which the input
gradient of the cross-entropy is exactly 0, where a step by its sign stands still, and what PGD-20
leaves if it starts at x + 0.001 N(0, 1) and if it starts anywhere in the ball.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import tensorflow as tf
from tables import table

from mtard_tf import losses
from mtard_tf.attacks.pgd import PGD, input_gradient
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.config import gin_files
from mtard_tf.data.batches import to_float
from mtard_tf.running.run_directory import load_student, student_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run_dir", type=pathlib.Path, required=True)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--stage", action="append", help="repeatable; default all")
    args = parser.parse_args()
    experiment = gin_files.start_or_resume(args.run_dir, [], [])
    split = experiment.dataset().test
    images = to_float(split.images[: args.examples])
    labels = tf.constant(split.labels[: args.examples])
    print(f"{args.examples} images, {float(tf.reduce_mean(tf.cast(images == 0, float))):.1%} black")
    rows = []
    for stage in experiment.stages:
        chosen = args.stage is None or stage.name in args.stage
        if not chosen or not student_path(args.run_dir, stage.name).exists():
            continue
        model = load_student(args.run_dir, stage.name)
        evaluator = Evaluator(model, experiment.threat)
        slope = input_gradient(
            lambda x, model=model: model(x, training=False),
            images,
            lambda _, logits: losses.cross_entropy(logits, labels),
        )
        left = [
            evaluator.attacked(PGD(num_steps=20, start=start), split, args.examples)
            for start in ("gaussian", "uniform")
        ]
        percents = (np.mean(slope == 0), *(bits.mean() for bits in left))
        rows.append([stage.name, *(f"{100 * share:.1f}" for share in percents)])
    table(["stage", "flat pixels %", "PGD-20 from beside %", "PGD-20 from the ball %"], rows)


if __name__ == "__main__":
    main()
