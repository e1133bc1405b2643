"""Where the seconds go from `mtard-train` to the first step of each stage of quickstart.

    python -m benchmarks.start_up [--runs=3]

Each run is a process of its own, as users start it. Printed are, in seconds of wall time, the
median and the range over the runs: what importing, checking, building and tracing cost up to the
first step, and for the later stages from the last step of the one before to their own first.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time

PARTS = {  # what is timed: (module, name) and what the table calls it
    ("mtard_tf.config.gin_files", "start_or_resume"): "configuration",
    ("mtard_tf.data.named_sets", "read"): "data set read",
    ("mtard_tf.running.experiment_run", "dry_run"): "dry run",
    ("mtard_tf.running.experiment_run", "claim"): "directory claimed",
    ("mtard_tf.running.experiment_run", "announce"): "page announced",
    ("mtard_tf.running.experiment_run", "identities_of"): "fingerprints of data and code",
    ("mtard_tf.running.experiment_run", "load_teacher"): "teachers loaded",
    ("mtard_tf.experiment.stage.Stage", "build"): "stage built",
    ("mtard_tf.distiller.distiller.Distiller", "prove"): "twins compared with their models",
    ("mtard_tf.running.stage_run", "check_teachers"): "teachers checked",
    ("mtard_tf.running.stage_run._Run", "_validating"): "validation made",
    ("mtard_tf.running.stage_run._Run", "resume"): "checkpoint looked for, records opened",
    ("mtard_tf.running.stage_run", "training_tensors"): "images as tensors",
    ("mtard_tf.running.batches", "training_data"): "input pipeline made",
    ("mtard_tf.running.stage_run", "write_result"): "student written",
}


STAGES = ("clean_teacher", "robust_teacher", "student")
EPOCHS = [f"{stage}/Stage.epochs = 1" for stage in STAGES]


class Clock:
    """Adds up the seconds of each part, the innermost part alone, between the first steps."""

    def __init__(self) -> None:
        self.periods: list[dict[str, float]] = []
        self._open: list[list] = []
        self.begin()

    def begin(self) -> None:
        self._start, self._parts = time.perf_counter(), {}

    def end(self, name: str) -> None:
        whole = time.perf_counter() - self._start
        self.periods.append({"period": name, "all": whole, **self._parts})

    @contextlib.contextmanager
    def part(self, name: str):
        self._open.append([name, 0.0])
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            _, inner = self._open.pop()
            self._parts[name] = self._parts.get(name, 0.0) + spent - inner
            if self._open:
                self._open[-1][1] += spent


def _timed(clock: Clock, where: str, name: str, what: str) -> None:
    module, _, owner = where.rpartition(".")
    of_class = owner.lstrip("_")[0].isupper()
    found = importlib.import_module(module if of_class else where)
    found = getattr(found, owner) if of_class else found
    plain = getattr(found, name)

    @functools.wraps(plain)
    def run(*args, **kwargs):
        with clock.part(what):
            return plain(*args, **kwargs)

    setattr(found, name, run)


def measured(run_dir: str) -> list[dict[str, float]]:
    """Runs quickstart in this process, two epochs a stage; one row a stage."""
    clock = Clock()
    with clock.part("import of TensorFlow and Keras"):
        import keras
        import tensorflow as tf  # noqa: F401
    with clock.part("import of tensorflow_datasets"):
        import tensorflow_datasets  # noqa: F401
    with clock.part("import of the package"):
        from mtard_tf.commands import requests, train
        from mtard_tf.distiller.distiller import Distiller  # noqa: F401
        from mtard_tf.running import callbacks, stage_run  # noqa: F401
    for (where, name), what in PARTS.items():
        _timed(clock, where, name, what)

    class Steps(keras.callbacks.Callback):
        """Ends a period at a stage's first step, begins the next after its last."""

        def on_train_batch_begin(self, batch, logs=None):
            self._began = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            if self.model.step == 1:
                clock._parts["first step, traced"] = time.perf_counter() - self._began
                clock.end(STAGES[len(clock.periods)])

    told = stage_run._Run.finish

    def finish(self):
        clock.begin()
        told(self)

    stage_run._Run.finish = finish
    listening = stage_run._Run._callbacks
    stage_run._Run._callbacks = lambda self, guard: [*listening(self, guard), Steps()]
    request = requests.Train(config=["quickstart.gin"], run_dir=run_dir, gin=EPOCHS)
    train.run(request)
    return clock.periods


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print("\n" + json.dumps(measured(options.child)))
        return
    runs = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            child = [sys.executable, "-m", "benchmarks.start_up", "--child", folder + "/run"]
            start = time.perf_counter()
            done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True)
            print(f"a run: {time.perf_counter() - start:.1f} s", file=sys.stderr)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    for i, period in enumerate(runs[0]):
        print(period["period"])
        for name in dict.fromkeys(k for run in runs for k in run[i] if k != "period"):
            found = [run[i].get(name, 0.0) for run in runs]
            print(f"  {name:40} {statistics.median(found):6.2f}  {min(found):.2f}-{max(found):.2f}")


if __name__ == "__main__":
    main()
