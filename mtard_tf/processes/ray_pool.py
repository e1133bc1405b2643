"""Runs jobs as tasks of a Ray cluster whose nodes share the run directory: `--executor=ray`.

Ray places a task where its cores and GPUs are free, and runs it again on another node when its own
is lost. The commands, their order, logs and locks are those of `jobs`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtard_tf.processes.jobs import PREEMPTED, Job, JobError, usable_cores, why
from mtard_tf.processes.locking import LockedError, locked
from mtard_tf.processes.preemption import PARENT

RETRIES = 3  # of a task whose node was lost or preempted
_POLL_SECONDS, _END_SECONDS = 0.2, 60.0
# What a command says while a process of a lost node still writes its state; see `locking`.
_BUSY, _BUSY_SECONDS = "is in use (", 120.0
_PASSED_ON = ("CUDA_", "KERAS_", "MTARD_", "TF", "XLA_")  # environment variables by prefix


class NodeLost(Exception):
    """The command of a task was preempted, as a node's scheduler does; Ray runs it again."""


class RayPool:
    """What `jobs.LocalPool` is, on a Ray cluster.

    Args:
      count: tasks at a time, at least 1.
      logs: folder for what each job prints.
      address: of the cluster, "auto", HOST:PORT or ray://HOST:PORT; None for $RAY_ADDRESS, or else
        a cluster of this machine alone that ends with the pool.
      cpus: cores of a task. Equal bits need equal cores, as `--jobs` gives them.
      gpus: GPUs of a task; a fraction shares one.

    Raises:
      JobError: no cluster answers.
    """

    def __init__(
        self, count: int, logs: pathlib.Path, address: str | None, cpus: int, gpus: float
    ) -> None:
        ray: Any = importlib.import_module("ray")  # an extra
        self._ray, self._count, self._logs, self._cpus = ray, count, logs, cpus
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            ray.init(address=address, include_dashboard=None, log_to_driver=False)
        except Exception as error:  # whatever Ray raises: ConnectionError, RuntimeError, ValueError
            reason = " ".join(str(error).split()).partition(". ")[0]
            where = address or os.environ.get("RAY_ADDRESS") or "this machine"
            raise JobError(f"No Ray cluster answers at {where}: {reason}.") from error
        finally:
            _restore(handlers)  # Ray's own would end this process before its jobs
        self._task = ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=[NodeLost]
        )(run_command)
        self._running: dict[Any, tuple[Job, float]] = {}

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *error: object) -> None:
        """Cancels tasks that are running, whose commands get SIGTERM, and waits until they end."""
        for reference in self._running:
            self._ray.cancel(reference)
        if self._running:
            self._ray.wait(
                list(self._running), num_returns=len(self._running), timeout=_END_SECONDS
            )
        self._ray.shutdown()

    @property
    def free(self) -> int:
        """How many more can start."""
        return self._count - len(self._running)

    def start(self, job: Job) -> None:
        given = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
        log = str((self._logs / f"{job.name}.log").absolute())
        task = self._task.options(name=job.name)
        reference = task.remote(list(job.command), log, os.getcwd(), self._cpus, given)
        self._running[reference] = job, time.monotonic()

    def ended(self) -> list[tuple[Job, float, str]]:
        """Waits a moment; those that have ended, their seconds, and why they failed, or ""."""
        if not self._running:
            return []
        ended, _ = self._ray.wait(list(self._running), timeout=_POLL_SECONDS)
        result = []
        for reference in ended:
            job, start = self._running.pop(reference)
            try:
                reason = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                # Another error of the task itself was not repeated.
                own = isinstance(error, self._ray.exceptions.RayTaskError)
                if isinstance(error, NodeLost) or not own:
                    reason = f"lost {RETRIES + 1} times: {reason}"
            result.append((job, time.monotonic() - start, reason))
        return result


def run_command(
    command: Sequence[str], log: str, folder: str, cpus: int, environment: Mapping[str, str]
) -> str:
    """The task: runs a command with this node's Python; returns why it failed, or "".

    Args:
      command: its arguments, the program first.
      log: file that it is appended to.
      folder: to run it in, if it is there on this node.
      cpus: cores that it gets to itself.
      environment: variables beside those of the node.

    Raises:
      NodeLost: it was preempted.
    """
    if not (logs := pathlib.Path(log).parent).is_dir():
        where = socket.gethostname()
        return f"{logs} is not there on {where}; give a --run_dir that all nodes see"
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        code = _once([sys.executable, *command[1:]], log, folder, cpus, environment)
        if code in PREEMPTED:
            raise NodeLost(f"exit code {code}")
        reason = why(pathlib.Path(log), code)
        if _BUSY not in reason or time.monotonic() > until:
            return reason
        time.sleep(1.0)


def _once(
    command: Sequence[str], log: str, folder: str, cpus: int, environment: Mapping[str, str]
) -> int:
    with _own_cores(cpus) as cores, open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder if os.path.isdir(folder) else None,
            env={**os.environ, **environment, PARENT: str(os.getpid())},
        )
        if cores:
            os.sched_setaffinity(process.pid, cores)  # long before TensorFlow counts them
        try:
            return process.wait()
        except BaseException:  # cancelled
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise


@contextlib.contextmanager
def _own_cores(count: int) -> Iterator[set[int]]:
    """Cores of this node that no other task holds; empty, for any, where there are none left."""
    cores = usable_cores()
    folder = pathlib.Path(tempfile.gettempdir())
    # Files of another user could not be opened.
    name = f"mtard_tf-cores-{os.getuid() if cores else 0}"
    for start in range(0, len(cores) - count + 1, count):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(folder, f"{name}-{cores[start]}.lock"))
            except LockedError:
                continue
            yield set(cores[start : start + count])
            return
    yield set(cores[:count])


def _restore(handlers: Mapping[Any, Any]) -> None:
    for number, handler in handlers.items():
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
