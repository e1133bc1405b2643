"""A comparison on a Ray cluster of two nodes, one of which is killed, against the same run here.

    python benchmarks/ray_cluster.py [--out=FOLDER] [--short]

Six small stages and their six audits, first by `mtard-compare --jobs=2`, then with
`--executor=ray` on two nodes on loopback (`ray.cluster_utils`), of one core each. While the second
node works on its task it is killed. Weights, reports and the table have to be the same, to the bit.
Prints what was retried; exits with 1 if anything differs. `--short` has two stages and audits.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from kill_outcomes import differences
from small_run import CONFIG, DATA, ROOT, SUITE

# The stages of small_run, and three more: twelve jobs with the audits.
MORE = """
Experiment.stages = (
    'clean_teacher', 'robust_teacher', 'student', 'trades', 'pgd_at', 'second_student')
trades/Stage.distiller = @distillers.trades
pgd_at/Stage.distiller = @distillers.pgd_at
second_student/Stage.distiller = @distillers.bmtard
second_student/Stage.teachers = {'clean': 'clean_teacher', 'robust': 'trades'}
"""
SHORT = "\nExperiment.stages = ('clean_teacher', 'robust_teacher')\n"
STARTED_BEFORE_THE_KILL = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, help="kept; default a temporary folder")
    parser.add_argument("--short", action="store_true", help="two stages in place of six")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.out or pathlib.Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.gin").write_text(CONFIG + (SHORT if given.short else MORE))
        (folder / "suite.gin").write_text(SUITE)
        (folder / "kill_test_data.py").write_text(DATA)
        os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{ROOT}"
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        return _compared(folder)


def _compared(folder: pathlib.Path) -> int:
    started = time.perf_counter()
    here, _ = _compare(folder, "here", [])
    seconds = time.perf_counter() - started
    if here:
        return 1
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    started = time.perf_counter()
    try:
        flags = ["--executor=ray", f"--ray_address={cluster.address}"]
        code, killed = _compare(folder, "ray", flags, lambda: cluster.remove_node(second, False))
    finally:
        cluster.shutdown()
    if code or not killed:
        print(f"ended with {code}, a node was {'' if killed else 'not '}killed")
        return 1
    found = differences(folder / "ray", folder / "here")
    print(f"jobs=2: {seconds:.0f} s; two nodes, one killed: {time.perf_counter() - started:.0f} s")
    print(f"differences: {', '.join(found) or 'none'}")
    return 1 if found else 0


def _compare(folder: pathlib.Path, name: str, flags: list[str], kill=None) -> tuple[int, bool]:
    """Runs mtard-compare; calls `kill` while the second of its jobs is at work."""
    command = [sys.executable, "-m", "mtard_tf.bin.compare", "--jobs=2", *flags]
    command += [f"--config={folder / 'run.gin'}", f"--suite={folder / 'suite.gin'}"]
    command += [f"--run_dir={folder / name / 'compared'}"]
    (folder / name).mkdir()
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    begun, timer = 0, None
    for line in process.stderr:
        print(f"{name}: {line}", end="")
        begun += line.rstrip().endswith(": started")
        if kill and timer is None and begun >= STARTED_BEFORE_THE_KILL:
            timer = threading.Timer(4.0, kill)  # it has begun to train by then
            timer.start()
    if timer is not None:
        timer.join()
    return process.wait(), timer is not None


if __name__ == "__main__":
    raise SystemExit(main())
