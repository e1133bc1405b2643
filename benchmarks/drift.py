"""How often `mtard_tf.monitor` says drift: of clean windows, of attacked ones, of mixtures.

    mtard-export --run_dir=runs/quickstart --calibrate
    python benchmarks/drift.py runs/quickstart student [--windows=1000] [--size=200]

Windows are drawn from the run's test images, without repetition, as the SavedModel serves them;
attacked ones by PGD-20 on it, at floor(255 epsilon)/255.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import tensorflow as tf
from tables import table

from mtard_tf import monitor
from mtard_tf.config import gin_files
from mtard_tf.exporting.attacked_images import attacked_images
from mtard_tf.exporting.calibration import ATTACK
from mtard_tf.running import run_directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=pathlib.Path)
    parser.add_argument("stage")
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--size", type=int, default=200)
    given = parser.parse_args()
    versions = (given.run_dir / "export" / given.stage).glob("[0-9]*")
    folder = max(versions, key=lambda path: int(path.name))
    experiment = gin_files.of_run(given.run_dir)
    split = experiment.dataset().labelled("test", 2000)
    model = run_directory.load_student(given.run_dir, given.stage)
    attacked = attacked_images(model, ATTACK, split.images, split.labels, experiment.threat)
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    kinds = {"clean": split.images, "attacked": attacked, "black": np.zeros_like(attacked)}
    answers = {kind: served(images=tf.constant(x))["probabilities"] for kind, x in kinds.items()}
    answers = {kind: x.numpy() for kind, x in answers.items()}
    reference = monitor.Reference.load(folder)
    draw, rows = np.random.default_rng(0), []
    for kind, share in [("clean", 1), ("attacked", 0.1), ("attacked", 0.2), ("attacked", 0.5)] + [
        ("attacked", 1),
        ("black", 0.1),
    ]:
        for rate in (0.01, 0.05):
            said = [
                monitor.compare(window(draw, answers, kind, share, given.size), reference, rate)
                for _ in range(given.windows)
            ]
            rows.append([f"{share:.0%} {kind}", rate, f"{np.mean([x.drift for x in said]):.1%}"])
    table(["window", "false alarm rate", "drift"], rows)


def window(draw, answers, kind: str, share: float, size: int) -> np.ndarray:
    """Probabilities of so many images, of which a share is of one kind and the rest clean."""
    places = draw.permutation(len(answers["clean"]))[:size]
    cut = round(share * size)
    return np.concatenate([answers[kind][places[:cut]], answers["clean"][places[cut:]]])


if __name__ == "__main__":
    main()
