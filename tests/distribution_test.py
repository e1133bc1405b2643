"""One device, replicas of one process and several processes take the same steps."""

from __future__ import annotations

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from mtard_tf.distribute import strategies
from mtard_tf.models.small_cnn import small_cnn

SCRIPT = pathlib.Path(__file__).with_name("distributed_steps.py")
BALANCE = ("balance_weights", "temperatures", "first_losses")


ALL = "plain,uneven,extras,batch_norm,synchronized,extras_synchronized"


def _start(out: pathlib.Path, variants: str, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out), variants, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(processes: dict[pathlib.Path, subprocess.Popen]) -> list[dict[str, np.ndarray]]:
    try:
        for process in processes.values():
            output, _ = process.communicate(timeout=500)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes.values():
            process.kill()  # the others of a cluster wait for one that failed
            process.communicate()
    return [dict(np.load(path)) for path in processes]


def _single(folder: pathlib.Path, variants: str) -> list[dict[str, np.ndarray]]:
    """One device, then two replicas, in one process: a start of TensorFlow takes seconds."""
    one, two = folder / "one.npz", folder / "two.npz"
    arguments = (variants, "mirrored", "2", f"--one_device={one}")
    replicas = _finish({two: _start(two, *arguments)})
    return [dict(np.load(one)), *replicas]


def _ports(count: int) -> str:
    """HOST:PORT of each worker, as `--workers` takes them."""
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("localhost", 0))
    found = ",".join(f"localhost:{opened.getsockname()[1]}" for opened in sockets)
    for opened in sockets:
        opened.close()
    return found


def _workers(folder: pathlib.Path, count: int, variants: str, *options: str) -> list[dict]:
    outs = [folder / f"worker{i}of{count}.npz" for i in range(count)]
    arguments = (variants, "multi_worker", "1", _ports(count))
    return _finish({out: _start(out, *arguments, str(i), *options) for i, out in enumerate(outs)})


def _weights(rows: dict, others: dict, variant: str) -> float:
    """The largest difference between two runs' weights."""
    names = [name for name in rows if name.startswith(f"{variant}/w")]
    return max(float(np.abs(rows[name] - others[name]).max()) for name in names)


def _assert_close(ours: dict, theirs: dict, variant: str, tolerance: float) -> None:
    assert len(ours[f"{variant}/loss"]) == 20
    assert _weights(ours, theirs, variant) == pytest.approx(0, abs=tolerance)
    np.testing.assert_allclose(
        ours[f"{variant}/loss"], theirs[f"{variant}/loss"], rtol=0, atol=tolerance
    )
    for name in BALANCE:
        np.testing.assert_allclose(
            ours[f"{variant}/{name}"][:, 0],
            theirs[f"{variant}/{name}"][:, 0],
            rtol=0,
            atol=tolerance,
            err_msg=name,
        )
    for name in ("clean", "robust"):  # evaluation and attack are shared among the replicas
        np.testing.assert_array_equal(ours[f"{variant}/{name}"], theirs[f"{variant}/{name}"])


def _assert_equal_balance(rows: dict, others: dict, variant: str) -> None:
    """At every step, the first replica of one process and the last of the other."""
    for name in BALANCE:
        np.testing.assert_array_equal(
            rows[f"{variant}/{name}"][:, 0], others[f"{variant}/{name}"][:, -1], err_msg=name
        )


def test_two_replicas_take_the_steps_of_one_device(tmp_path) -> None:
    one, two = _single(tmp_path, "plain")
    _assert_close(one, two, "plain", 1e-5)
    _assert_equal_balance(two, two, "plain")
    # The balance moved: otherwise equality means nothing.
    for name in ("balance_weights", "temperatures"):
        assert np.ptp(one[f"plain/{name}"][:, 0], axis=0).max() > 1e-3


@pytest.mark.slow
def test_workers_take_the_steps_of_one_device_and_of_replicas(tmp_path) -> None:
    one, replicas = _single(tmp_path, ALL)
    clusters = [_workers(tmp_path, 2, ALL), _workers(tmp_path, 4, "plain")]
    for variant in ("plain", "uneven", "extras"):
        _assert_close(one, replicas, variant, 1e-5)
    moved = np.abs(one["extras/w000"] - one["plain/w000"]).max()
    assert moved > 1e-4  # it does something
    for workers in clusters:
        for worker in workers:
            _assert_close(one, worker, "plain", 1e-5)
            _assert_equal_balance(workers[0], worker, "plain")
    for variant in ALL.split(","):
        for worker in clusters[0]:
            _assert_close(replicas, worker, variant, 1e-6)
            _assert_equal_balance(clusters[0][0], worker, variant)
    # Statistics per replica are others than those of the whole batch; synchronised ones are not,
    # so that the losses of the first batch are met again. Later ones differ by up to 1e-3: rounding
    # of float32 that the attack's signs amplify; benchmarks/synchronised_batch_norm.py shows it.
    for variant in ("synchronized", "extras_synchronized"):
        first = [rows[f"{variant}/first_losses"][0, 0] for rows in (one, replicas)]
        np.testing.assert_allclose(*first, rtol=0, atol=1e-6)
    first = [rows["batch_norm/first_losses"][0, 0] for rows in (one, replicas)]
    assert np.abs(first[0] - first[1]).max() > 1e-4


@pytest.mark.slow
def test_attacks_on_two_replicas_make_the_images_of_one_device() -> None:
    script = SCRIPT.with_name("distributed_attacks.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    names = ("pgd", "mim", "cw_inf", "apgd_ce", "apgd_t", "fab_t", "square")
    assert done.stdout.splitlines() == [f"{name}: 0 of 8 images differ" for name in names]


@pytest.mark.slow
def test_methods_on_two_replicas_take_the_steps_of_one_device() -> None:
    names = ["rslad+", "saad", "dgad", "adr", "ikl", "fgsm_rs", "n_fgsm", "mtard^"]
    script = SCRIPT.with_name("distributed_methods.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(script), ",".join(names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == names
    for name, differs, moved in rows:
        assert float(differs) <= 1e-5 and float(moved) > 1e-3, name


def _eval(out: pathlib.Path, *flags: str) -> subprocess.Popen:
    """An audit of the model beside `out`, of three batches."""
    words = ["-m", "mtard_tf.bin.eval", f"--model={out.parent / 'net.keras'}", f"--out={out}"]
    words += ["--dataset=fashion_mini", "--epsilon=0.1", "--examples=40", "--batch_size=16"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, *words, *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_an_audit_on_several_devices_or_workers_is_that_of_one(tmp_path) -> None:
    keras.utils.set_random_seed(0)
    small_cnn((28, 28, 1), 10, widths=(4, 4), dense=8).save(tmp_path / "net.keras")
    cluster = ["--strategy=multi_worker", f"--workers={_ports(2)}"]
    started = {
        "one": _eval(tmp_path / "one"),
        "devices": _eval(tmp_path / "devices", "--strategy=mirrored", "--devices=2"),
        "chief": _eval(tmp_path / "workers", *cluster, "--index=0", "--devices=2"),
        "worker": _eval(tmp_path / "workers", *cluster, "--index=1", "--devices=2"),
    }
    said = {}
    try:
        for name, process in started.items():
            said[name], errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in started.values():
            process.kill()
            process.communicate()
    assert said["worker"] == "" and "Report: " in said["chief"]
    one = dict(np.load(tmp_path / "one" / "examples.npz"))
    assert 0 < one["clean"].sum()
    for name in ("devices", "workers"):
        other = tmp_path / name
        report = (tmp_path / "one" / "report.json").read_text("utf-8")
        assert (other / "report.json").read_text("utf-8") == report
        found = dict(np.load(other / "examples.npz"))
        assert found.keys() == one.keys()
        for key, values in one.items():
            np.testing.assert_array_equal(found[key], values, err_msg=f"{name}: {key}")
        passes, timed = (
            [
                a["passes"]
                for a in json.loads((folder / "timing.json").read_text())["attacks"].values()
            ]
            for folder in (tmp_path / "one", other)
        )
        assert passes == timed
        assert not [path.name for path in other.glob(".workers*")]


@pytest.mark.slow
@pytest.mark.parametrize("shim", ["build", "logs"])
def test_keras_still_needs_the_shim(tmp_path, shim) -> None:
    """Fails once it does not: then the shim can go from `keras_shims.py`."""
    with pytest.raises(AssertionError, match="returncode: 1"):
        _workers(tmp_path, 2, "plain", f"--without_shim={shim}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "horovod"}, "The strategy is 'horovod'; use one of one_device, mirrored"),
        ({"name": "one_device", "devices": 2}, "one_device has one device, not 2; use mirrored."),
        ({"name": "mirrored", "devices": 0}, "--devices is 0; give a whole number, at least 1."),
        (
            {"name": "mirrored", "workers": ["a:1"]},
            "--workers and --index go with --strategy=multi_worker, not mirrored.",
        ),
        ({"name": "multi_worker", "workers": ["a:1", "b:1"]}, "--index is None; with 2 workers"),
        (
            {"name": "multi_worker", "workers": ["a:1", "b:1"], "index": 2},
            "--index is 2; with 2 workers give 0 to 1.",
        ),
        (
            {"name": "multi_worker", "workers": ["a:1", "b"], "index": 0},
            "--workers has 'b'; give HOST:PORT for each.",
        ),
        (
            {"name": "multi_worker", "index": 0},
            "--index is 0 without --workers; give both, or TF_CONFIG.",
        ),
        ({"name": "multi_worker"}, "multi_worker needs --workers=HOST:PORT,HOST:PORT and --index"),
        ({"name": "tpu"}, "No TPU was found"),
    ],
)
def test_a_strategy_that_cannot_be_had(monkeypatch, arguments, message) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(strategies.StrategyError) as caught:
        strategies.create(**arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("chief", [True, False])
@pytest.mark.parametrize("seen", [2, 1])
def test_workers_must_see_one_folder(tmp_path, monkeypatch, chief, seen) -> None:
    given = []

    def total(strategy, value):  # what both workers say, of which this is one
        given.append(int(value[0]))
        return np.array([5 if len(given) == 1 else seen])

    for name, found in {"is_multi_worker": True, "is_chief": chief, "worker_count": 2}.items():
        monkeypatch.setattr(strategies, name, lambda strategy, found=found: found)
    monkeypatch.setattr(strategies, "total_over_workers", total)
    folder = tmp_path / "out"
    if seen == 2:
        strategies.check_one_folder(None, folder)
    else:
        with pytest.raises(strategies.StrategyError) as caught:
            strategies.check_one_folder(None, folder)
        assert str(caught.value) == (
            f"{folder} is another folder for some workers; give one that all of them share."
        )
    start, waited, own = given
    assert (start > 0, waited, own) == (chief, 0, chief) and not list(folder.iterdir())


def test_one_device_is_tensorflows_own() -> None:
    strategy = strategies.create()
    assert strategy.num_replicas_in_sync == 1
    assert strategies.is_chief(strategy) and strategies.worker_count(strategy) == 1
    assert strategies.of_process(strategy) is strategy
    np.testing.assert_array_equal(strategies.total_over_workers(strategy, np.arange(3)), [0, 1, 2])


@pytest.mark.slow
def test_the_check_of_a_gpu_machine_runs_on_a_cpu() -> None:
    check = SCRIPT.parents[1] / "benchmarks" / "gpu_check.py"
    words = [sys.executable, str(check), "--tiny"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Reference tests: \d+ passed in ", done.stdout, re.M)
    cells = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells}
    for name in ("float32 without TF32", "bfloat16"):
        for row in (name, f"{name}, XLA"):
            milliseconds, first, _ = table[row]
            assert 0 < float(milliseconds) < 1000 * float(first)
    assert table["1"][1] == "1.00" and 0 < float(table["2"][1])
    assert float(table["training"][0]) > 0 and float(table["audit"][0]) > 0
    clean, worst = map(
        float, re.search(r"clean ([\d.]+)%, worst case ([\d.]+)%", done.stdout).groups()
    )
    assert 30 < clean < 90 and worst < clean
