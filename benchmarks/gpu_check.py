"""All that is to be known of a machine with GPUs, in one command, within 20 minutes.

    python benchmarks/gpu_check.py [--out=gpu_check.md] [--data_dir=TFDS] [--tiny]

Prints Markdown tables for the docs: the devices; the tests that hold formulas, attacks and steps
to official numbers, run on the GPU; milliseconds and peak memory of a B-MTARD step in float32 with
and without TF32 and in bfloat16, plain and compiled by XLA; images per second on 1, 2, 4, ... GPUs;
and a short training on CIFAR-10 (on the embedded set without `--data_dir`) with its audit. Each
measurement is a process of its own. `--tiny` shortens each for a CPU, where it tests this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from small_run import ROOT
from tables import table

TESTS = (
    *("terms_reference_test.py", "balance_reference_test.py", "frontier_test.py", "zoo_test.py"),
    *("bmtard_step_test.py", "attack_apgd_test.py", "attack_fab_test.py", "precision_test.py"),
)
# (what it is called, settings of a measurement)
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("float32 without TF32", {"tf32": False}),
    ("float32 with TF32", {}),
    ("attack in bfloat16", {"attack": "mixed_bfloat16"}),
    ("bfloat16", {"precision": "mixed_bfloat16"}),
)
SECONDS = 600  # of one measurement


def measure(model: str, batch: int, steps: int, replicas: int, settings: dict[str, Any]) -> None:
    """Prints the seconds of a step and the peak memory of a device as one line of JSON."""
    import tensorflow as tf

    from mtard_tf.distribute import strategies

    many = replicas > 1
    strategy = strategies.create("mirrored" if many else "one_device", devices=replicas or None)
    tf.config.experimental.enable_tensor_float_32_execution(settings.get("tf32", True))
    import step_time

    precision = settings.get("precision", step_time.FLOAT)
    with strategy.scope():
        step, (data,), distiller = step_time.make_step(
            "bmtard", model, batch, precision, settings.get("attack")
        )
        distiller.optimizer.build(distiller.trained_variables)
    jit = True if settings.get("xla") else None

    @tf.function(jit_compile=jit, autograph=False)
    def train(*rows):
        if many:
            return strategy.run(distiller.train_step, (rows,))
        return distiller.train_step(rows)

    def run() -> None:
        train(*data)
        tf.test.experimental.sync_devices()

    started = time.perf_counter()
    run()
    first, seconds = time.perf_counter() - started, []
    for _ in range(steps):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    gpus = tf.config.list_physical_devices("GPU")
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else None
    print(json.dumps({"first": first, "step": sorted(seconds)[steps // 2], "peak": peak}))


def measured(args: argparse.Namespace, replicas: int = 1, **settings: Any) -> dict[str, Any]:
    """`measure` in a process of its own; "error" with its last line where it fails."""
    words = [sys.executable, __file__, "--model", args.model, "--batch", str(args.batch)]
    words += ["--steps", str(args.steps), "--replicas", str(replicas)]
    words += ["--measure", json.dumps(settings)]
    return said(words)


def said(words: list[str]) -> dict[str, Any]:
    """The last line of a command as JSON, or its error."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, env=environment, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"error": f"longer than {SECONDS} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["?"])[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def devices() -> int:
    """Prints what TensorFlow sees; the number of GPUs."""
    code = (
        "import json, tensorflow as tf; gpus = tf.config.list_physical_devices('GPU');"
        "details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus];"
        "print(json.dumps({'version': tf.__version__, 'gpus': [[d.get('device_name', '?'),"
        "str(d.get('compute_capability', '?'))] for d in details]}))"
    )
    found = said([sys.executable, "-c", code])
    print(f"TensorFlow {found['version']}, {os.cpu_count()} CPU cores, {len(found['gpus'])} GPUs")
    table(["GPU", "compute capability"], found["gpus"])
    return len(found["gpus"])


def parity(tiny: bool) -> None:
    """Prints what the reference tests say on this device."""
    files = [str(ROOT / "tests" / name) for name in (TESTS[:1] if tiny else TESTS)]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.strip().splitlines()
    if done.returncode not in (0, 1):  # pytest's own failure
        sys.exit(f"pytest: {(done.stderr + done.stdout).strip().splitlines()[-1]}")
    print("Reference tests:", lines[-1])
    print(*(line for line in lines if line.startswith("FAILED")), sep="\n")


def steps(args: argparse.Namespace) -> None:
    """Prints the table of precisions, each plain and under XLA."""
    rows = []
    for name, settings in STEPS[:1] + STEPS[-1:] if args.tiny else STEPS:
        for xla in (False, True):
            found = measured(args, xla=xla, **settings)
            named = [f"{name}, XLA" if xla else name]
            if "error" in found:
                rows.append([*named, found["error"], "", ""])
                continue
            peak = "" if found["peak"] is None else f"{found['peak'] / 2**20:,.0f}"
            rows.append([*named, 1000 * found["step"], found["first"], peak])
    print(f"A B-MTARD step, {args.model}, batch {args.batch}, PGD-10")
    table(["", "milliseconds", "first step, seconds", "peak memory, MiB"], rows, ".1f")


def scaling(args: argparse.Namespace, gpus: int) -> None:
    """Prints images per second on ever more devices, the batch of each staying the same."""
    counts = [n for n in (1, 2, 4, 8, 16) if n <= max(gpus, 2 if args.tiny else 1)]
    rows, base = [], 0.0
    for count in counts:
        found = measured(args, count)
        if "error" in found:
            rows.append([str(count), found["error"], ""])
            continue
        rate = count * args.batch / found["step"]
        base = base or rate
        rows.append([str(count), rate, rate / (count * base)])
    table(["devices", "images per second", "of linear"], rows, ".2f")


def training(args: argparse.Namespace) -> None:
    """Trains fast adversarial training for some epochs and audits it."""
    config = "settings/cifar10.gin" if args.data_dir else "settings/fashion_mini.gin"
    epochs = 1 if args.tiny else 5
    bindings = ["student/Stage.distiller = @distillers.fgsm_rs", f"student/Stage.epochs = {epochs}"]
    bindings += ["student/Stage.precision = 'auto'", "student/Stage.validation_attack = None"]
    if args.data_dir:
        bindings.append(f"datasets.cifar10.data_dir = '{args.data_dir}'")
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "mtard_tf.bin.train", f"--config={config}"]
        words += [f"--run_dir={folder}/run", *(f"--gin={binding}" for binding in bindings)]
        audit = [sys.executable, "-m", "mtard_tf.bin.eval", f"--run_dir={folder}/run"]
        audit += ["--examples=64" if args.tiny else "--examples=1000"]
        rows: list[list[object]] = []
        for name, command in (("training", words), ("audit", audit)):
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            rows.append([name, time.perf_counter() - started])
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
                return
        report = next(pathlib.Path(folder).glob("run/evaluation/*/report.json"))
        found = json.loads(report.read_text("utf-8"))
    worst = found["worst_case"]["robust_accuracy"]
    print(f"{config}, fgsm_rs, {epochs} epochs: clean {found['clean']:.1%}, worst case {worst:.1%}")
    table(["", "seconds"], rows, ".0f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, help="also writes the tables here")
    parser.add_argument("--data_dir", help="TFDS folder with cifar10")
    parser.add_argument("--tiny", action="store_true", help="for a CPU")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        measure(args.model, args.batch, args.steps, args.replicas, json.loads(args.measure))
        return
    if args.tiny:
        args.model, args.batch, args.steps = "small_cnn", 16, 2

    def report() -> None:
        gpus = devices()
        parity(args.tiny)
        steps(args)
        scaling(args, gpus)
        training(args)

    if args.out is None:
        report()
        return
    with args.out.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        report()
    print(args.out)


if __name__ == "__main__":
    main()
