"""What a `bmtard` step costs as it grows, and prints Markdown tables. Use an idle machine.

    python benchmarks/scaling.py                      # all sections
    python benchmarks/scaling.py --sections=workers

Sections: `workers` (two workers of one core against one process of two), `growth` (time and memory
against batch, attack steps, teachers, replicas), `checkpoint` (what one costs every 50 steps) and
`memory` (2,000 steps and 5,000 attacked images leave memory flat). Each measurement is a process of
its own; a step's time is the median of its steps after the first three.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

HERE = pathlib.Path(__file__).resolve()
DEFAULTS: dict[str, Any] = {
    "strategy": "one_device", "devices": 1, "batch": 256, "attack_steps": 10, "teachers": 2,
    "steps": 12, "epochs": 1, "workers": "", "index": 0,
}  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", default="workers,growth,checkpoint,memory")
    parser.add_argument("--repeats", type=int, default=2, help="runs of a measurement; fastest")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


# The measured process.


def build(setting: dict[str, Any], examples: int):
    import numpy as np

    from mtard_tf import strategies
    from mtard_tf.attacks.pgd import PGD
    from mtard_tf.data.batches import training_tensors
    from mtard_tf.data.image_data import ImageData, Split
    from mtard_tf.models.small_cnn import small_cnn
    from mtard_tf.optimizers import sgd
    from mtard_tf.plugins.multi_teacher.bmtard import BMTARD
    from mtard_tf.stage import Stage
    from mtard_tf.threat import ThreatModel

    workers = setting["workers"].split(",") if setting["workers"] else ()
    strategy = strategies.create(
        setting["strategy"],
        devices=setting["devices"],
        workers=workers,
        index=setting["index"] if workers else None,
    )
    numbers = np.random.RandomState(0)
    split = Split(
        numbers.randint(0, 256, (examples, 28, 28, 1), np.uint8),
        numbers.randint(0, 10, examples).astype(np.int32),
    )
    data = ImageData("random", tuple("0123456789"), split, split.take(np.arange(100)), split)
    roles = [f"teacher{i}" for i in range(setting["teachers"])]
    views = {role: ("clean", "adversarial")[i % 2] for i, role in enumerate(roles)}

    def net(shape, classes):
        return small_cnn(shape, classes, batch_normalization=True)

    def distiller(*args, **kwargs):
        attack = PGD(num_steps=setting["attack_steps"])
        return BMTARD(*args, attack=attack, teacher_views=views, **kwargs)

    stage = Stage(
        "student",
        distiller,
        net,
        {role: f"{role}.keras" for role in roles},
        epochs=1,
        batch_size=setting["batch"],
        optimizer=sgd,
    )
    with strategy.scope():
        teachers = {role: net((28, 28, 1), 10) for role in roles}
        made = stage.build(data, teachers, ThreatModel("linf", 0.1), 0)

    tensors = training_tensors(data)

    def batches(epoch: int):
        return strategies.training_data(
            strategy,
            data,
            batch_size=setting["batch"],
            epoch=epoch,
            seed=0,
            start_step=epoch * setting["steps"],
            tensors=tensors,
        )

    return made, batches, data


def timer():
    import keras

    class Timer(keras.callbacks.Callback):
        """When each step ended."""

        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []
            self.memory: list[float] = []

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(time.perf_counter())
            self.memory.append(resident())

    return Timer()


def resident() -> float:
    """MiB that this process holds now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(setting: dict[str, Any]) -> dict[str, float]:
    import numpy as np

    made, batches, data = build(setting, setting["batch"] * setting["steps"])
    clock = timer()
    for epoch in range(setting["epochs"]):
        made.fit(
            batches(epoch),
            steps_per_epoch=setting["steps"],
            shuffle=False,
            verbose=0,
            callbacks=[clock],
        )
    result = {"seconds": float(np.median(np.diff(clock.times)[3:])), "peak": peak()}
    if setting.get("checkpoint"):
        from mtard_tf import checkpoints

        with tempfile.TemporaryDirectory() as folder:
            kept = checkpoints.Checkpoints(pathlib.Path(folder))
            times = []
            for step in range(5):
                started = time.perf_counter()
                kept.save(checkpoints.State(step, checkpoints.values(made), {}))
                times.append(time.perf_counter() - started)
        result["checkpoint"] = float(np.median(times))
    if setting.get("memory"):
        from mtard_tf.attacks.pgd import PGD
        from mtard_tf.evaluation import Evaluator

        result |= {"early": clock.memory[199], "late": clock.memory[-1]}
        evaluator = Evaluator(made.student, made.threat)
        attack = PGD(num_steps=5)
        evaluator.attacked(attack, data.train, 500)
        result["evaluated_500"] = resident()
        evaluator.attacked(attack, data.train, 5000)
        result["evaluated_5000"] = resident()
        evaluator.attacked(attack, data.train, 5000)
        result["again_5000"] = resident()
    return result


# The measuring process.


def run(args: argparse.Namespace, cores: str = "0,1", **changes: Any) -> dict[str, float]:
    """The fastest of the repeats; with two workers, the slower worker's."""
    best: dict[str, float] = {}
    for _ in range(args.repeats):
        result = once(cores, **changes)
        if not best or result["seconds"] < best["seconds"]:
            best = result
    return best


def once(cores: str, **changes: Any) -> dict[str, float]:
    count = changes.pop("processes", 1)
    setting = DEFAULTS | changes
    if count > 1:
        setting["workers"] = ",".join(f"localhost:{free_port()}" for _ in range(count))
    running = []
    for index in range(count):
        own = cores if count == 1 else cores.split(",")[index]
        environment = os.environ | {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": str(len(own.split(","))),
            "PYTHONPATH": str(HERE.parents[1]),
        }
        command = [sys.executable, str(HERE), "--measure", json.dumps(setting | {"index": index})]
        running.append(
            subprocess.Popen(
                ["taskset", "-c", own, *command], env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    results = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    return max(results, key=lambda result: result["seconds"])


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return opened.getsockname()[1]


def table(header: list[str], rows: list[list[object]]) -> None:
    print("\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) + " |")
    print(flush=True)


def workers(args: argparse.Namespace) -> None:
    one = run(args)["seconds"]
    two = run(args, processes=2, strategy="multi_worker")["seconds"]
    print("Batch 256, bmtard, PGD-10, two teachers, small_cnn with BatchNorm")
    rows = [["one process, two cores", one, 1.0], ["two workers, one core each", two, one / two]]
    table(["", "seconds per step", "throughput against one process"], rows)


def growth(args: argparse.Namespace) -> None:
    axes: dict[str, tuple[int, ...]] = {
        "batch": (64, 128, 256, 512),
        "attack_steps": (1, 5, 10, 20),
        "teachers": (2, 3, 4),
        "devices": (1, 2, 4),
    }
    rows = []
    for axis, values in axes.items():
        found = []
        for value in values:
            changes = {axis: value} | ({"strategy": "mirrored"} if axis == "devices" else {})
            found.append(run(args, **changes))
        for value, result in zip(values, found, strict=True):
            rows.append([axis, value, 1000 * result["seconds"], result["peak"], ""])
        spread = values[-1] - values[0]
        slopes = [(found[-1][k] - found[0][k]) / spread for k in ("seconds", "peak")]
        rows[-1][-1] = f"{1000 * slopes[0]:+.3g} ms, {slopes[1]:+.3g} MiB per unit"
    table(["", "value", "milliseconds per step", "peak MiB", "slope"], rows)


def checkpoint(args: argparse.Namespace) -> None:
    result = run(args, checkpoint=True)
    share = result["checkpoint"] / (50 * result["seconds"])
    row = [1000 * result["seconds"], 1000 * result["checkpoint"], f"{share:.2%}"]
    table(["milliseconds per step", "milliseconds per checkpoint", "share, every 50 steps"], [row])


def memory(args: argparse.Namespace) -> None:
    result = once("0,1", batch=32, steps=200, epochs=10, memory=True, attack_steps=3)
    rows: list[list[object]] = []
    for name, early, late in (
        ("training: after 200, after 2,000 steps", "early", "late"),
        ("evaluation: after 500, after 5,000 more images", "evaluated_500", "evaluated_5000"),
        ("evaluation: after those, after 5,000 more", "evaluated_5000", "again_5000"),
    ):
        growth = result[late] / result[early] - 1
        rows.append([name, result[early], result[late], f"{growth:+.1%}"])
    table(["", "MiB", "MiB", "growth"], rows)


def main() -> None:
    args = parse()
    if args.measure:
        print(json.dumps(measure(json.loads(args.measure))))
        return
    sections = {"workers": workers, "growth": growth, "checkpoint": checkpoint, "memory": memory}
    for name in args.sections.split(","):
        if name not in sections:
            raise SystemExit(f"--sections has {name!r}; use some of {', '.join(sections)}.")
        sections[name](args)


if __name__ == "__main__":
    main()
