"""Images per second of training from memory, in this checkout and in another one, in turns.

    git worktree add /tmp/before COMMIT
    python benchmarks/in_memory.py --other=/tmp/before [--repeats=5]

fashion_mini in batches of 128 with crop_flip: the batches alone, natural training of a `small_cnn`,
and TRADES. Each measurement is a process of its own, without what is compiled in the first steps.
The ratios are of CPU time, which other processes disturb less than images per second.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = ("the batches alone", "natural training", "TRADES")

CHILD = """
import json, sys, time
from mtard_tf.data import fashion_mini, training_batches
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.plugins.adversarial_training.trades import Trades
from mtard_tf.threat import ThreatModel
try:
    from mtard_tf.experiment.stage import Stage
except ImportError:
    from mtard_tf.stage import Stage
data, found = fashion_mini(augmentation="crop_flip"), {}

def timed(name, images, work):
    since = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - since[0], time.process_time() - since[1]
    found[name] = {"rate": images / wall, "cpu": cpu / images}

def batches(epochs, seed=0):
    return training_batches(data, batch_size=128, epochs=epochs, seed=seed)

[None for _ in batches(1)]
timed("the batches alone", 20 * len(data.train), lambda: [None for _ in batches(20)])
for name, kind, epochs in (("natural training", Natural, 5), ("TRADES", Trades, 1)):
    stage = Stage("student", kind, small_cnn, batch_size=128, epochs=epochs)
    distiller = stage.build(data, {}, ThreatModel("linf", 8 / 255), 0)
    distiller.fit(batches(1).take(3), verbose=0, shuffle=False)
    timed(
        name, epochs * len(data.train),
        lambda: distiller.fit(batches(epochs, 1), verbose=0, shuffle=False),
    )
print(json.dumps(found))
"""


def measured(checkout: pathlib.Path) -> dict:
    environment = os.environ | {"PYTHONPATH": str(checkout), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(
        command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=pathlib.Path, required=True, help="another checkout")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    pairs = [(measured(given.other.resolve()), measured(ROOT)) for _ in range(given.repeats)]
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load}, {given.repeats} pairs; medians")
    print("| | images/s, other | images/s, here | CPU here / other (each pair) |")
    print("|---|---|---|---|")
    for name in NAMES:
        other, here = ([pair[i][name] for pair in pairs] for i in (0, 1))
        rates = (f"{statistics.median(x['rate'] for x in side):,.0f}" for side in (other, here))
        ratios = [b["cpu"] / a["cpu"] for a, b in zip(other, here, strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {name} | {' | '.join(rates)} | {statistics.median(ratios):.2f} ({each}) |")


if __name__ == "__main__":
    main()
