"""Times the attacks side by side with the public tools, and prints Markdown tables.

    python benchmarks/attack_time.py --torch_python=VENV/bin/python

Sections (`--sections`): `autoattack` (torchattacks 3.5.1, in the interpreter of `--torch_python`,
which needs torch and torchattacks), `pgd` (CleverHans, and foolbox 3.3.4 if it can be imported) and
`graph` (tracing time and graph size for 10 and 100 steps). Runs alternate and the fastest counts;
use an idle machine. CPU seconds are printed as well, for one that is not.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

EPSILON = 0.1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", default="graph,pgd,autoattack")
    parser.add_argument("--torch_python", help="interpreter with torch and torchattacks==3.5.1")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--images", type=int, default=200, help="images of the autoattack section")
    parser.add_argument("--steps", type=int, default=100, help="steps of APGD and FAB")
    parser.add_argument("--queries", type=int, default=5000, help="queries of Square")
    parser.add_argument("--repeats", type=int, default=1, help="alternating runs of autoattack")
    parser.add_argument("--pgd_repeats", type=int, default=5, help="alternating runs of pgd")
    return parser.parse_args()


ARGS = parse() if __name__ == "__main__" else None
if ARGS is not None:
    # Read by TensorFlow when it starts.
    if ARGS.sections != "autoattack":  # which divides the cores itself, as mtard-eval does
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(ARGS.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from cleverhans.tf2.attacks.projected_gradient_descent import (  # noqa: E402
    projected_gradient_descent,
)
from reference_net import WEIGHTS, fashion_images, fashion_net  # noqa: E402
from tables import table  # noqa: E402

from mtard_tf.attacks import apgd, autoattack, fab, pgd, sharding, square  # noqa: E402
from mtard_tf.attacks.seeds import image_seeds  # noqa: E402
from mtard_tf.auditing.compiled import CompiledModel  # noqa: E402
from mtard_tf.models.folding import FoldedInference  # noqa: E402
from mtard_tf.models.resnet_cifar import resnet20  # noqa: E402
from mtard_tf.models.small_cnn import small_cnn  # noqa: E402
from mtard_tf.threat import ThreatModel  # noqa: E402


def time_autoattack(args: argparse.Namespace) -> None:
    sharding.divide_cores()
    images, labels = fashion_images(args.images)
    model = fashion_net()
    attack = autoattack.AutoAttack(num_steps=args.steps, num_queries=args.queries)
    inputs = tf.constant(images), tf.constant(labels), tf.range(args.images, dtype=tf.int64)
    compiled = CompiledModel(model, ThreatModel("linf", EPSILON))
    compiled.count_passes()
    started = time.perf_counter()
    compiled.attacked(attack, *(tensor[:1] for tensor in inputs))
    first = time.perf_counter() - started

    def ours() -> dict[str, float]:
        before = compiled.passes()
        wall, cpu = time.perf_counter(), time.process_time()
        perturbed, _ = compiled.attacked(attack, *inputs)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        accuracy = 100 * np.mean(model(perturbed, training=False).numpy().argmax(1) == labels)
        passes = {"forwards": compiled.passes() - before}
        return {"wall": wall, "cpu": cpu, "robust_accuracy": accuracy, **passes}

    def theirs(steps: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            data = os.path.join(folder, "data.npz")
            np.savez(data, images=images, labels=labels)
            command = [args.torch_python, str(pathlib.Path(__file__).with_name(_TORCH))]
            settings = {
                "weights": WEIGHTS, "data": data, "epsilon": EPSILON, "threads": args.threads,
                "steps": steps, "queries": args.queries,
            }  # fmt: skip
            command += [f"--{k}={v}" for k, v in settings.items()]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.splitlines()[-1])

    sides = {"mtard_tf": ours}
    if args.torch_python:
        # torchattacks' own default is 10 steps, a tenth of AutoAttack's; both are shown.
        sides[f"torchattacks, {args.steps} steps"] = lambda: theirs(args.steps)
        sides["torchattacks as it is, 10 steps"] = lambda: theirs(10)
    else:
        print("autoattack: no --torch_python, so torchattacks is left out")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, side in sides.items():
            results[name].append(side())
    best = {name: min(runs, key=lambda r: r["wall"]) for name, runs in results.items()}
    left = [run["robust_accuracy"] for run in best.values()]
    if max(left) - min(left) > 3:
        raise SystemExit(f"The sides leave {left} % robust: they do not attack the same net.")
    print(f"AutoAttack standard, {args.images} images, {args.threads} threads; "
          f"tracing and one image {first:.1f} s, once, not included")  # fmt: skip
    table(
        ["", "seconds", "CPU seconds", "mtard_tf / this", "robust %", "images forward"],
        [
            [name, r["wall"], r["cpu"], best["mtard_tf"]["wall"] / r["wall"],
             float(r["robust_accuracy"]), r["forwards"]]
            for name, r in best.items()
        ], ".2f")  # fmt: skip


_TORCH = "attack_time_torch.py"


def time_pgd(args: argparse.Namespace) -> None:
    rows: list[list[object]] = []
    for name, model, shape, batch in (
        ("resnet20, batch 128", resnet20((32, 32, 3), 10), (32, 32, 3), 128),
        ("small_cnn, batch 32", small_cnn((28, 28, 1), 10), (28, 28, 1), 32),
    ):
        images = tf.random.stateless_uniform([batch, *shape], seed=[0, 0])
        labels = tf.range(batch) % 10
        sides = pgd_sides(model, images, labels)
        best = dict.fromkeys(sides, (float("inf"), float("inf")))
        for side in sides.values():
            side()
        for _ in range(args.pgd_repeats):
            for key, side in sides.items():
                started, cpu = time.perf_counter(), time.process_time()
                np.asarray(side())
                spent = time.perf_counter() - started, time.process_time() - cpu
                best[key] = min(best[key], spent)
        ours = best["mtard_tf"][0]
        rows += [[name, key, 1000 * t, 1000 * c, ours / t] for key, (t, c) in best.items()]
    print(f"PGD-20, Linf, {args.threads} threads")
    table(["model", "", "milliseconds", "CPU milliseconds", "mtard_tf / this"], rows, ".2f")


def pgd_sides(model: keras.Model, images: tf.Tensor, labels: tf.Tensor):
    epsilon, attack = 8 / 255, pgd.PGD(num_steps=20)
    threat, seeds = ThreatModel("linf", epsilon), image_seeds(0, tf.range(len(images)))
    fold = FoldedInference(model)

    def model_fn(x):
        return model(x, training=False)

    @tf.function
    def plain(images, labels, seeds):
        return attack(model_fn, images, labels, threat=threat, seeds=seeds)

    @tf.function
    def folded(images, labels, seeds):
        return attack(fold(), images, labels, threat=threat, seeds=seeds)

    sides = {
        # What the framework runs: BatchNorm folded into the convolutions.
        "mtard_tf": lambda: folded(images, labels, seeds),
        "mtard_tf, model as it is": lambda: plain(images, labels, seeds),
        "CleverHans 4.0.0 (eager)": lambda: projected_gradient_descent(
            model_fn, images, epsilon, epsilon / 4, 20, np.inf, clip_min=0.0, clip_max=1.0,
            y=labels, rand_init=True, sanity_checks=False,
        ),
    }  # fmt: skip
    try:
        import foolbox
    except ImportError as error:
        print(f"pgd: foolbox is left out ({error}); `pip install foolbox==3.3.4` to see it")
        return sides
    wrapped = foolbox.TensorFlowModel(model, bounds=(0, 1))
    theirs = foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=20)
    # int64, as its own predictions: it cannot mix integer types with NumPy 2.
    criterion = foolbox.criteria.Misclassification(tf.cast(labels, tf.int64))
    sides[f"foolbox {foolbox.__version__}"] = lambda: theirs(
        wrapped, images, criterion, epsilons=epsilon
    )[1]
    return sides


def time_graphs(args: argparse.Namespace) -> None:
    model = fashion_net()
    threat = ThreatModel("linf", EPSILON)
    rows = []
    for name, make in {
        "(warming up)": pgd.PGD,
        "pgd": pgd.PGD,
        "apgd_ce": apgd.APGDCrossEntropy,
        "apgd_t": apgd.APGDTargeted,
        "fab_t": fab.FABTargeted,
        "square": square.Square,
        "autoattack": lambda n: autoattack.AutoAttack(num_steps=n, num_queries=n),
    }.items():
        for steps in (10, 100):
            attack = make(steps)

            @tf.function
            def run(images, labels, seeds, attack=attack):
                return attack(lambda x: model(x, training=False), images, labels, threat=threat,
                              seeds=seeds)  # fmt: skip

            started = time.perf_counter()
            graph = run.get_concrete_function(
                tf.TensorSpec([None, 28, 28, 1]), tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None, 2], tf.int32),
            ).graph.as_graph_def()  # fmt: skip
            seconds = time.perf_counter() - started
            nodes = len(graph.node) + sum(len(f.node_def) for f in graph.library.function)
            rows.append([name, steps, seconds, nodes])
    print("Tracing time and graph size")
    table(["attack", "steps", "seconds", "nodes"], rows[2:], ".2f")


def main(args: argparse.Namespace) -> None:
    sections = {"graph": time_graphs, "pgd": time_pgd, "autoattack": time_autoattack}
    for name in args.sections.split(","):
        if name not in sections:
            raise SystemExit(f"--sections has {name!r}; use some of {', '.join(sections)}.")
        sections[name](args)


if __name__ == "__main__":
    main(ARGS)
