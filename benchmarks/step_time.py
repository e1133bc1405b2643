"""Times one training step against its floor, and against PyTorch if a yardstick is given.

    python benchmarks/step_time.py [--distiller bmtard] [--model resnet20] [--batch 128] [--steps 5]
        [--torch 'PYTHON SCRIPT']
        [--precision mixed_bfloat16] [--attack_precision mixed_bfloat16]
    python benchmarks/step_time.py --distiller all [--model ...] [--batch ...] [--rounds 3]
    python benchmarks/step_time.py --precision all [--distiller ...] [--model ...] [--batch ...]

The floor is what the step cannot do without, each timed alone in one compiled function: the
attack's forward passes and input gradients (in as many shards as the step uses), the student's
training passes and weight gradients, and the teachers' forward passes. The yardstick is a command
that prints one JSON line with `median_step_s`; it is run in turn with ours (plain, and with
`--channels-last`), because only a ratio from an idle machine means something. In bfloat16 the
yardstick is given `--bfloat16` too. `--precision all` times the four combinations of float32 and
bfloat16 in training passes and attack, in turn, as a share of float32.

With `--distiller all` it prints, for each distiller, a step as a multiple of one of `pgd_at`, and
what explains it: the work of its passes, in forward passes of a net (all nets are the same one).
An attack's step is 2, forward and back to the images; a training pass is nearly 3, forward, back
through the layers and to the weights; a teacher's answer is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import time
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tables import table

from mtard_tf import losses, registry
from mtard_tf.attacks.pgd import input_gradient
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.precision import with_precision
from mtard_tf.optimizers import sgd
from mtard_tf.planning.flops import count

ATTACK_STEPS = 10
YARDSTICK = "pgd_at"
FLOAT, HALF = "float32", "mixed_bfloat16"
# Their attack climbs on the student alone and needs no clean target of it, and each teacher is
# asked about one view.
WITH_FLOOR = ("natural", "pgd_at", "mart", "ard", "rslad", "absld", "mtard", "bmtard")


def median_seconds(function, arguments, steps: int) -> float:
    """Median wall time of a call, after one that compiles."""
    function(*arguments)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def make_step(
    distiller: str, model: str, batch: int, precision: str = FLOAT, attack: str | None = None
):
    """A compiled training step on fixed random images, and its distiller."""
    cls = registry.target("distillers", distiller)

    def make(classes: int):
        return with_precision(registry.get("models", model)((32, 32, 3), classes), precision)

    context = TrainingContext(attack_precision=None if attack == precision else attack)
    teachers = {role: make(10) for role in cls.teacher_views}
    trained = cls(make(10 + cls.extra_classes), teachers, context=context)
    trained.compile(optimizer=sgd(0.1), jit_compile=False)
    images = tf.random.stateless_uniform([batch, 32, 32, 3], [0, 1])
    labels = tf.random.stateless_uniform([batch], [0, 2], 0, 10, tf.int32)
    data = (images, labels, tf.range(batch, dtype=tf.int64))
    return tf.function(trained.train_step), (data,), trained


def floor_parts(distiller, images: tf.Tensor, labels: tf.Tensor, steps: int) -> dict[str, float]:
    """Seconds of the passes that the step needs, each alone."""
    student, training = distiller.student, distiller.student_training
    fold = FoldedInference(student, distiller.context.attack_precision)
    teacher_folds = distiller.teachers.inference

    def climb(x, y):
        model_fn = fold()

        def body(i, v):
            gradient = input_gradient(
                model_fn, v, lambda _, z: losses.cross_entropy(tf.cast(z, tf.float32), y)
            )
            return i + 1, v + 1e-9 * gradient

        return tf.while_loop(lambda i, _: i < ATTACK_STEPS, body, (0, x), parallel_iterations=1)[1]

    @tf.function
    def attack(x):
        shards = distiller.context.shards
        return [
            climb(*part) for part in zip(tf.split(x, shards), tf.split(labels, shards), strict=True)
        ]

    @tf.function
    def train(x):
        with tf.GradientTape() as tape:
            logits = tf.cast(training(x), tf.float32)
            loss = tf.reduce_mean(losses.cross_entropy(logits, labels))
        return tape.gradient(loss, student.trainable_variables)

    @tf.function
    def teach(x):
        return [inference()(x) for inference in teacher_folds.values()]

    parts = {}
    if distiller.inner_attack is not None:
        parts["attack"] = median_seconds(attack, (images,), steps)
    parts["student"] = len(distiller.student_views) * median_seconds(train, (images,), steps)
    if teacher_folds:
        parts["teachers"] = median_seconds(teach, (images,), steps)
    return parts


def passes(distiller, batch: tuple[tf.Tensor, ...]) -> dict[str, float]:
    """Part of a step -> its work, in forward passes of the student."""
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in batch]
    forward = count(lambda x: distiller.student(x, training=False), specs[0]).flops["all"]
    parts = ("attack", "teachers")
    cost = count(lambda *rows: distiller.train_step(rows), *specs, parts=parts, rest="student")
    return {part: cost.flops.get(part, 0) / forward for part in (*parts, "student")}


def compare(names: Sequence[str], model: str, batch: int, steps: int, rounds: int) -> None:
    """Prints each distiller's step as a multiple of the yardstick's, beside its passes."""
    made = {name: make_step(name, model, batch) for name in names}
    work = {name: passes(trained, *data) for name, (_, data, trained) in made.items()}
    turns = [
        {name: median_seconds(step, data, steps) for name, (step, data, _) in made.items()}
        for _ in range(rounds)
    ]
    least = sum(work[YARDSTICK].values())
    rows = [
        [
            name,
            statistics.median(turn[name] / turn[YARDSTICK] for turn in turns),
            sum(parts.values()) / least,
            *parts.values(),
        ]
        for name, parts in work.items()
    ]
    rows.sort(key=lambda row: row[1])
    header = ["distiller", f"step over {YARDSTICK}", "passes over it", *work[YARDSTICK]]
    table(header, rows, ".2f")


def compare_precisions(distiller: str, model: str, batch: int, steps: int, rounds: int) -> None:
    """Prints a step in each precision of training passes and attack, beside float32's."""
    pairs = [(passes, attack) for passes in (FLOAT, HALF) for attack in (FLOAT, HALF)]
    made = {pair: make_step(distiller, model, batch, *pair) for pair in pairs}
    turns = [
        {pair: median_seconds(step, data, steps) for pair, (step, data, _) in made.items()}
        for _ in range(rounds)
    ]
    rows = []
    for pair in pairs:
        ratios = [turn[pair] / turn[FLOAT, FLOAT] for turn in turns]
        seconds = statistics.median(turn[pair] for turn in turns)
        rows.append([*pair, seconds, statistics.median(ratios), min(ratios), max(ratios)])
    table(["training passes", "attack", "seconds", "over float32", "least", "most"], rows, ".3f")


def torch_seconds(command: str, batch: int, steps: int, *extra: str) -> float:
    """Median step of the yardstick."""
    words = [*shlex.split(command), "--batch", str(batch), "--steps", str(steps), *extra]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])["median_step_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distiller", default="bmtard", help="a name, or all")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="turns with the yardstick")
    parser.add_argument("--precision", default=FLOAT, help="of the nets, or all")
    parser.add_argument("--attack_precision", help="of the student in the attack")
    parser.add_argument("--torch", help="command of the PyTorch yardstick")
    args = parser.parse_args()
    if args.distiller == "all":
        names = registry.names("distillers")
        compare(names, args.model, args.batch, args.steps, args.rounds)
        return
    if args.distiller not in WITH_FLOOR:
        parser.error(
            f"--distiller={args.distiller} has passes that the floor does not know; its work is in "
            f"the table of --distiller all. A floor have {', '.join(WITH_FLOOR)}."
        )
    if args.precision == "all":
        compare_precisions(args.distiller, args.model, args.batch, args.steps, args.rounds)
        return
    step, arguments, distiller = make_step(
        args.distiller, args.model, args.batch, args.precision, args.attack_precision
    )
    half = ["--bfloat16"] if args.precision == HALF else []
    (images, labels, *_), *_ = arguments
    ours, floors, theirs = [], [], {"default": [], "channels_last": []}
    for _ in range(args.rounds):
        ours.append(median_seconds(step, arguments, args.steps))
        parts = floor_parts(distiller, images, labels, args.steps)
        floors.append(sum(parts.values()))
        if args.torch:
            theirs["default"].append(torch_seconds(args.torch, args.batch, args.steps, *half))
            theirs["channels_last"].append(
                torch_seconds(args.torch, args.batch, args.steps, "--channels-last", *half)
            )
    seconds = statistics.median(ours)
    over_floor = statistics.median(a / b for a, b in zip(ours, floors, strict=True))
    result = {
        "distiller": args.distiller,
        "precision": args.precision,
        "step_s": round(seconds, 4),
        "step_spread_s": [round(min(ours), 4), round(max(ours), 4)],
        "floor_s": round(statistics.median(floors), 4),
        "floor_parts_s": {name: round(value, 4) for name, value in parts.items()},
        "step_over_floor": round(over_floor, 3),
    }
    for layout, values in theirs.items():
        if values:
            result[f"torch_{layout}_s"] = round(statistics.median(values), 4)
            ratio = statistics.median(a / b for a, b in zip(ours, values, strict=True))
            result[f"step_over_torch_{layout}"] = round(ratio, 3)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
