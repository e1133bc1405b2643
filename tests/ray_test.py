"""Jobs on a Ray cluster: flags, the task that a node runs, and a comparison that loses a node."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import threading
import types
from unittest import mock

import pytest

from mtard_tf.commands import executors, requests
from mtard_tf.processes import ray_pool
from mtard_tf.processes.jobs import Job, JobError

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "ray_cluster.py"


def _ran(folder, code: str, cpus: int = 1, **environment: str) -> tuple[str, str]:
    log = folder / "job.log"
    reason = ray_pool.run_command(["python", "-c", code], str(log), str(folder), cpus, environment)
    return reason, log.read_text()


def test_a_task_runs_its_command_with_its_own_cores_and_variables(tmp_path) -> None:
    code = (
        "import os; print(len(os.sched_getaffinity(0)), os.getcwd(), os.environ['KERAS_HOME'], "
        "os.environ['MTARD_PARENT'])"
    )
    reason, log = _ran(tmp_path, code, KERAS_HOME="here")
    assert reason == ""
    assert log.split() == ["1", str(tmp_path), "here", str(os.getpid())]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "print('a line', flush=True); raise SystemExit('the teacher is not there')",
            "the teacher is not there",
        ),
        ("raise SystemExit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
    ],
)
def test_a_task_says_why_its_command_failed_and_is_not_repeated(tmp_path, code, reason) -> None:
    assert _ran(tmp_path, code)[0] == reason


def test_a_node_that_does_not_see_the_run_directory_says_so(tmp_path) -> None:
    log = tmp_path / "absent" / "job.log"
    reason = ray_pool.run_command(["python", "-c", ""], str(log), str(tmp_path), 1, {})
    assert reason == (
        f"{log.parent} is not there on {socket.gethostname()}; give a --run_dir that all nodes see"
    )


class _RayError(Exception):
    """Of Ray: the node died."""


class _TaskError(_RayError):
    """Of Ray: the task raised."""


class _Preempted(_TaskError, ray_pool.NodeLost):
    """As Ray gives an error of a task: of its own class, too."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (_RayError("a stack\nthe node is dead"), "lost 4 times: the node is dead"),
        (_Preempted("exit code 75"), "lost 4 times: exit code 75"),
        (_TaskError("a stack\nOSError: the disk is full"), "OSError: the disk is full"),
        (_TaskError(""), "_TaskError"),
    ],
)
def test_only_a_lost_task_counts_its_losses(tmp_path, monkeypatch, error, reason) -> None:
    ray = mock.MagicMock()
    ray.exceptions = types.SimpleNamespace(RayError=_RayError, RayTaskError=_TaskError)
    ray.wait.side_effect = lambda references, **_: (references, [])
    ray.get.side_effect = error
    monkeypatch.setitem(sys.modules, "ray", ray)
    job = Job("teacher", ["python"])
    with ray_pool.RayPool(1, tmp_path, None, 1, 0.0) as pool:
        pool.start(job)
        assert [(job, why) for job, _, why in pool.ended()] == [(job, reason)]


def test_a_preempted_command_is_for_another_node(tmp_path) -> None:
    with pytest.raises(ray_pool.NodeLost, match="exit code 75"):
        _ran(tmp_path, "raise SystemExit(75)")


def test_a_task_waits_for_what_a_lost_node_still_holds(tmp_path, monkeypatch) -> None:
    """The first attempt finds the directory in use, the second does not."""
    monkeypatch.setattr(ray_pool.time, "sleep", lambda _: (tmp_path / "free").touch())
    code = (
        "import pathlib, sys; free = pathlib.Path('free').exists();"
        "sys.exit(None if free else 'runs/x is in use (lock is held by process 3 on a); wait.')"
    )
    reason, log = _ran(tmp_path, code)
    assert (reason, log.count("is in use")) == ("", 1)
    (tmp_path / "free").unlink()
    monkeypatch.setattr(ray_pool, "_BUSY_SECONDS", -1.0)
    assert "is in use" in _ran(tmp_path, code)[0]


def test_tasks_of_a_node_have_different_cores(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ray_pool.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(ray_pool.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4}, raising=False)
    with ray_pool._own_cores(2) as first, ray_pool._own_cores(2) as second:
        assert (first, second) == ({0, 1}, {2, 3})
        with ray_pool._own_cores(2) as third:  # more tasks than cores: any
            assert len(third) == 2
    with ray_pool._own_cores(2) as again:
        assert again == {0, 1}
    user = os.getuid()  # whose files another user cannot open
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"mtard_tf-cores-{user}-{core}.lock" for core in (0, 2)}


def test_a_cancelled_task_stops_its_command(tmp_path) -> None:
    """A KeyboardInterrupt, as Ray cancels; the command gets SIGTERM and is waited for."""
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'));"
        "print('at work', flush=True); time.sleep(60)"
    )
    program = (
        "import signal, sys; from mtard_tf.processes import ray_pool;"
        # Python leaves it ignored if its parent does, as a shell's background job.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"ray_pool.run_command(['python', '-c', {code!r}], 'job.log', '.', 1, {{}})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    log, tick = tmp_path / "job.log", threading.Event()
    while not (log.exists() and "at work" in log.read_text()):
        assert process.poll() is None
        tick.wait(0.05)
    process.send_signal(2)
    assert process.wait(timeout=20) != 0
    assert log.read_text().split("\n")[:2] == ["at work", "stopped"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"executor": "slurm"}, "--executor is 'slurm'; give local or ray."),
        ({"ray_address": "a:1"}, "--ray_address is a:1 and --executor local; give --executor=ray."),
    ],
)
def test_flags_that_do_not_go_together(flags, message) -> None:
    with pytest.raises(JobError) as caught:
        executors.pools(requests.Compare(run_dir="x", **flags))
    assert str(caught.value) == message


def test_without_ray_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setattr(executors.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(JobError, match=r"is not installed: pip install 'mtard_tf\[cluster\]'"):
        executors.pools(requests.Train(run_dir="x", executor="ray"))
    assert executors.pools(requests.Train(run_dir="x")) is None


@pytest.mark.slow
def test_a_comparison_that_loses_a_node_ends_in_the_same_bits() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--short"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "differences: none" in done.stdout
