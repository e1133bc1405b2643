"""Preemption: at any moment, by either signal, one line and the documented code."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mtard_tf import files
from mtard_tf.processes import preemption
from mtard_tf.processes.preemption import Preempted, Preemption


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """Handlers and what was received, as they were."""
    monkeypatch.setattr(preemption, "_received", [])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


CASES = [
    (signal.SIGTERM, 75, "Preempted (SIGTERM)"),
    (signal.SIGINT, 130, "Interrupted (Ctrl-C)"),
]


@pytest.mark.parametrize("number, code, cause", CASES)
def test_before_there_is_anything_to_checkpoint(tmp_path, number, code, cause) -> None:
    preemption.leave_at_once()
    with pytest.raises(Preempted) as caught, files.replacing(tmp_path / "report.json") as partial:
        partial.write_text("{")
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert str(caught.value) == f"{cause}: no file is incomplete. The same command resumes."
    assert caught.value.code == code and preemption.received()
    assert not list(tmp_path.iterdir())
    assert not isinstance(caught.value, Exception)  # `except Exception` lets it pass
    os.kill(os.getpid(), number)  # a second one does not disturb what the first one cleans up


@pytest.mark.parametrize("number, code, cause", CASES)
def test_where_there_is_something_to_checkpoint(number, code, cause) -> None:
    with Preemption().listening() as heard:
        assert not heard.received
        os.kill(os.getpid(), number)
        assert heard.received
    error = Preempted(1200)
    assert error.code == code
    assert str(error) == f"{cause}: checkpointed at step 1,200. The same command resumes."


def test_a_second_ctrl_c_does_not_wait_and_sigterm_does() -> None:
    with pytest.raises(Preempted, match="no file is incomplete") as caught:
        with Preemption().listening() as heard:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard.received
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
    assert caught.value.code == 130


def test_what_is_ignored_stays_ignored() -> None:
    """A shell starts `command &` so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    preemption.leave_at_once()
    with Preemption().listening() as heard:
        os.kill(os.getpid(), signal.SIGINT)
        assert not heard.received
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def _catches(process: subprocess.Popen, number: int) -> bool:
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    mask = int(next(x for x in status.splitlines() if x.startswith("SigCgt")).split()[1], 16)
    return bool(mask >> (number - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what the process handles")
@pytest.mark.parametrize("number, code, cause", CASES)
def test_a_command_that_is_still_loading(tmp_path, number, code, cause) -> None:
    """At the moment that it begins to listen TensorFlow is not imported."""
    command = [sys.executable, "-m", "mtard_tf.bin.eval", f"--run_dir={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not _catches(process, signal.SIGTERM):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    said = process.communicate(timeout=60)
    line = f"mtard-eval: {cause}: no file is incomplete. The same command resumes.\n"
    assert said == ("", line) and process.returncode == code
