"""Are the attacks as strong as the official code's? Side by side on nets nobody tuned on.

    python benchmarks/attack_parity.py --mnist=IDX_DIR --fashion=IDX_DIR --folder=OUT \
        --torch_python=VENV/bin/python

Trains a small net for each of three tasks adversarially (once; kept in `--folder`), then runs each
attack alone on the first test images, here and in torchattacks 3.5.1 with the settings of the
official AutoAttack (in the interpreter of `--torch_python`, which needs torch and torchattacks):
same weights, steps, queries and restarts, batches of 250. Every finished run is a line of
`OUT/runs.jsonl`; the command begun again goes on from there. Prints what each side leaves.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import time
from typing import NamedTuple


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", required=True, help="folder with the four IDX files of MNIST")
    parser.add_argument("--fashion", required=True, help="those of Fashion-MNIST")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="nets and results")
    parser.add_argument("--torch_python", help="interpreter with torch and torchattacks==3.5.1")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of APGD and FAB")
    parser.add_argument("--queries", type=int, default=5000, help="of Square")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--nets", default="mnist10,fashion3,mnist2")
    every = "apgd_ce,apgd_dlr,apgd_t,fab,fab_t,square,square_shared"
    parser.add_argument("--attacks", default=every)
    return parser.parse_args()


ARGS = parse() if __name__ == "__main__" else None
if ARGS is not None:
    # Read by TensorFlow when it starts.
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(ARGS.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tables import table  # noqa: E402

from mtard_tf.attacks import apgd, fab, pgd, square  # noqa: E402
from mtard_tf.attacks.seeds import image_seeds  # noqa: E402
from mtard_tf.data.preparing import SOURCES, read_splits  # noqa: E402
from mtard_tf.losses import cross_entropy  # noqa: E402
from mtard_tf.models.small_cnn import small_cnn  # noqa: E402
from mtard_tf.threat import ThreatModel  # noqa: E402


class Task(NamedTuple):
    source: str
    classes: tuple[int, ...]
    epsilon: float
    steps: int
    # FAB without targets is left out where FAB-T tries all classes with a third of the work.
    attacks: tuple[str, ...]


TASKS = {
    "mnist10": Task("mnist", tuple(range(10)), 0.3, 2400,
                    ("apgd_ce", "apgd_t", "fab_t", "square")),
    # Pullover, coat, shirt.
    "fashion3": Task("fashion_mnist", (2, 4, 6), 0.1, 800,
                     ("apgd_ce", "apgd_dlr", "fab", "fab_t", "square", "square_shared")),
    "mnist2": Task("mnist", (4, 9), 0.3, 800, ("apgd_ce", "fab", "square")),
}  # fmt: skip
# Draws no random number with one restart: one run says it all.
FIXED = ("fab", "fab_t")


def images_of(task: Task, folder: str, role: str) -> tuple[np.ndarray, np.ndarray]:
    split = read_splits(SOURCES[task.source], folder)[role]
    kept = np.isin(split.labels, task.classes)
    labels = np.searchsorted(task.classes, split.labels[kept]).astype(np.int32)
    return split.images[kept].astype(np.float32) / 255, labels


def train(task: Task, images: np.ndarray, labels: np.ndarray, seed: int = 5) -> keras.Model:
    """PGD-7 training; epsilon grows over the first 36 % of the steps."""
    keras.utils.set_random_seed(seed)
    model = small_cnn((28, 28, 1), len(task.classes))
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    attack = pgd.PGD(num_steps=7, relative_step_size=0.25)
    order = np.random.default_rng(seed)

    @tf.function
    def step(x, y, epsilon, seeds):
        threat = ThreatModel("linf", epsilon)
        x = attack(lambda x: model(x, training=False), x, y, threat=threat, seeds=seeds)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropy(model(x, training=True), y))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables,
                strict=True))  # fmt: skip

    for i in range(task.steps):
        done = i / task.steps
        optimizer.learning_rate = 1e-3 if done < 0.7 else 3e-4 if done < 0.9 else 1e-4
        rows = order.choice(len(labels), 128, replace=False)
        epsilon = tf.constant(task.epsilon * min(1.0, 0.1 + done / 0.4), tf.float32)
        step(images[rows], labels[rows], epsilon, image_seeds(i, rows))
    return model


def net(name: str, args: argparse.Namespace) -> keras.Model:
    task, path = TASKS[name], args.folder / f"{name}.npz"
    if not path.exists():
        started = time.perf_counter()
        model = train(task, *images_of(task, folder_of(task, args), "train"))
        np.savez(path, *model.get_weights())
        print(f"{name} trained in {time.perf_counter() - started:.0f} s", flush=True)
    model = small_cnn((28, 28, 1), len(task.classes))
    with np.load(path) as arrays:
        model.set_weights([arrays[f"arr_{i}"] for i in range(len(arrays.files))])
    return model


def folder_of(task: Task, args: argparse.Namespace) -> str:
    return args.mnist if task.source == "mnist" else args.fashion


def ours(attack: str, model, images, labels, epsilon: float, args: argparse.Namespace):
    """A function of the seed that says which images stand, bool `[images]`."""
    run = {
        "apgd_ce": lambda: apgd.APGDCrossEntropy(args.steps),
        "apgd_dlr": lambda: apgd.APGDDLR(args.steps),
        "apgd_t": lambda: apgd.APGDTargeted(args.steps),
        "fab": lambda: fab.FAB(num_steps=args.steps),
        "fab_t": lambda: fab.FABTargeted(args.steps),
        "square": lambda: square.Square(args.queries),
        "square_shared": lambda: square.Square(args.queries, shared_window=True),
    }[attack]()
    threat = ThreatModel("linf", epsilon)

    @tf.function
    def attacked(x, y, seeds):
        return run(lambda x: model(x, training=False), x, y, threat=threat, seeds=seeds)

    def stands(seed: int) -> np.ndarray:
        parts = []
        for first in range(0, len(labels), args.batch):
            rows = slice(first, first + args.batch)
            x, y = tf.constant(images[rows]), tf.constant(labels[rows])
            found = attacked(x, y, image_seeds(seed, first + tf.range(len(y))))
            if float(tf.reduce_max(threat.violation(found, x))) > 1e-6:
                raise SystemExit(f"{attack} left the ball")
            parts.append(model(found, training=False).numpy().argmax(1) == labels[rows])
        return np.concatenate(parts)

    return stands


def theirs(attack: str, weights, images, labels, epsilon: float, args: argparse.Namespace):
    data = weights.with_name(f"{weights.stem}_{len(labels)}.npz")

    def stands(seed: int) -> np.ndarray:
        np.savez(data, images=images, labels=labels)
        settings = {
            "weights": weights, "data": data, "epsilon": epsilon, "attack": attack, "seed": seed,
            "steps": args.steps, "queries": args.queries, "batch": args.batch,
            "threads": args.threads,
        }  # fmt: skip
        command = [args.torch_python, str(pathlib.Path(__file__).with_name(_TORCH))]
        command += [f"--{k}={v}" for k, v in settings.items()]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return np.array(json.loads(done.stdout.splitlines()[-1]), bool)

    return stands


_TORCH = "attack_parity_torch.py"


def main(args: argparse.Namespace) -> None:
    args.folder.mkdir(parents=True, exist_ok=True)
    log = args.folder / "runs.jsonl"
    runs = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for name in args.nets.split(","):
        task, model = TASKS[name], net(name, args)
        images, labels = images_of(task, folder_of(task, args), "test")
        images, labels = images[: args.images], labels[: args.images]
        clean = float(np.mean(model.predict(images, verbose=0).argmax(1) == labels))
        rows: list[list[object]] = []
        for attack in [a for a in args.attacks.split(",") if a in task.attacks]:
            weights = args.folder / f"{name}.npz"
            drawn = attack.removesuffix("_shared")  # ours with the official code's windows
            sides = {"mtard_tf": ours(attack, model, images, labels, task.epsilon, args)}
            if args.torch_python:
                sides["official"] = theirs(drawn, weights, images, labels, task.epsilon, args)
            left: dict[str, list[float]] = {side: [] for side in sides}
            for seed in range(1 if attack in FIXED else args.seeds):
                for side, run in sides.items():
                    run_as = attack if side == "mtard_tf" else drawn
                    key = [name, run_as, side, seed, args.images, args.steps, args.queries]
                    known = next((r for r in runs if r["key"] == key), None)
                    if known is None:
                        started = time.perf_counter()
                        stands = run(seed)
                        known = {"key": key, "seconds": time.perf_counter() - started,
                                 "stands": "".join(str(int(s)) for s in stands)}  # fmt: skip
                        runs.append(known)
                        with log.open("a") as file:
                            file.write(json.dumps(known) + "\n")
                    left[side].append(100 * known["stands"].count("1") / len(labels))
            rows.append([attack, *(spread(values) for values in left.values())])
        print(f"{name}: {len(labels)} images, clean {100 * clean:.1f} %, epsilon {task.epsilon}")
        table(["attack", *(f"{side} leaves %" for side in left)], rows)


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f} (no draws)"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


if __name__ == "__main__":
    main(ARGS)
