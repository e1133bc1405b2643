"""Independent pieces of a run as processes side by side, each on its own share of the cores.

For small nets two processes of one core each do close to twice the work of one process of two.
"""

from __future__ import annotations

import dataclasses
import graphlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Protocol

from mtard_tf.processes.preemption import EXIT_CODE, INTERRUPTED, PARENT, Preempted, Preemption

_POLL_SECONDS = 0.2  # between two looks at whether this process was preempted
PREEMPTED = (EXIT_CODE, INTERRUPTED, -signal.SIGTERM, -signal.SIGINT)  # exit codes
_STOPPED = "its processes have written their state"


class JobError(ValueError):
    """A job that failed. The message is one line and names its log.

    Attributes:
      failed: job -> why it failed, for people.
    """

    def __init__(self, message: str, failed: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.failed = dict(failed or {})


@dataclasses.dataclass(frozen=True)
class Job:
    """One process.

    Attributes:
      name: what progress lines and the log call it.
      command: its arguments, the program first.
      needs: names of the jobs that must have succeeded before it starts.
    """

    name: str
    command: Sequence[str]
    needs: Sequence[str] = ()


class Pool(Protocol):
    """Where jobs run; a context that ends those that still run, and waits for them."""

    def __enter__(self) -> Pool: ...

    def __exit__(self, *error: object) -> None: ...

    @property
    def free(self) -> int:
        """How many more can start."""

    def start(self, job: Job) -> None: ...

    def ended(self) -> list[tuple[Job, float, str]]:
        """Waits a moment; those that have ended, their seconds, and why they failed, or ""."""


# (jobs at a time, folder of logs) -> where they run.
Pools = Callable[[int, pathlib.Path], Pool]


def run(
    jobs: Sequence[Job],
    count: int,
    logs: pathlib.Path,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    pools: Pools | None = None,
) -> None:
    """Runs the jobs, `count` at a time, in their order as far as what they need allows.

    Args:
      jobs: needs that are no job of this call count as met.
      count: how many at a time, at least 1.
      logs: folder for what each job prints, `<name>.log`.
      pools: where they run; default `LocalPool`.
      say: is given one line for each job that starts and ends.

    Raises:
      JobError: jobs need one another; or some failed, and all that do not need them succeeded.
      Preempted: this process or a job was preempted; the other jobs have ended on SIGTERM.
    """
    order, made = _order(jobs), pools or LocalPool
    logs.mkdir(parents=True, exist_ok=True)
    waiting: set[str] = set()
    failed: dict[str, str] = {}  # "" for one that needs a failed one, and was not started
    done = 0
    with Preemption().listening() as preemption, made(count, logs) as pool:
        while order.is_active():
            if preemption.received:
                raise Preempted(where=_STOPPED)
            waiting.update(order.get_ready())
            for job in [job for job in jobs if job.name in waiting]:
                if failed.keys() & set(job.needs):
                    failed[job.name] = ""
                    order.done(job.name)
                elif pool.free:
                    pool.start(job)
                    say(f"{job.name}: started")
                else:
                    break
                waiting.remove(job.name)
            for job, seconds, reason in pool.ended():
                order.done(job.name)
                done += not reason
                failed |= {job.name: f"{job.name} failed ({reason})"} if reason else {}
                line = f"{job.name}: done in {seconds:,.0f} s ({done} of {len(jobs)})"
                say(failed.get(job.name, line))
    _check(failed, logs)


def _order(jobs: Sequence[Job]) -> graphlib.TopologicalSorter[str]:
    """The names of the jobs, prepared; raises JobError where jobs need one another."""
    names = {job.name for job in jobs}
    order = graphlib.TopologicalSorter({job.name: names & set(job.needs) for job in jobs})
    try:
        order.prepare()
    except graphlib.CycleError as error:
        raise JobError(f"These jobs wait for one another: {', '.join(error.args[1])}.") from error
    return order


def _check(failed: dict[str, str], logs: pathlib.Path) -> None:
    """Raises JobError unless nothing failed."""
    if not failed:
        return
    reasons = [reason for reason in failed.values() if reason]
    if skipped := [name for name, reason in failed.items() if not reason]:
        reasons.append(f"not started, as they need it: {', '.join(skipped)}")
    raise JobError(
        f"{'; '.join(reasons)}; see {logs}/<name>.log. The same command resumes after what is "
        "finished.",
        {name: reason for name, reason in failed.items() if reason},
    )


class LocalPool:
    """The processes that are running; each has an equal share of this machine's cores to itself."""

    def __init__(self, count: int, logs: pathlib.Path) -> None:
        cores = usable_cores()
        # As many for each: a stage's last bits must not depend on the place that it is given.
        share = max(1, len(cores) // count)
        shares = [cores[i * share % max(1, len(cores)) :] + cores for i in range(count)]
        self._places = {i: set(shares[i][:share]) for i in range(count)}
        self._logs = logs
        self._waiters = futures.ThreadPoolExecutor(count)
        # What waits for a process -> its place, job, process and start.
        self._running: dict[futures.Future, tuple[int, Job, subprocess.Popen, float]] = {}

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *error: object) -> None:
        """Sends SIGTERM to those that are running, and waits until they have ended."""
        for _, _, process, _ in self._running.values():
            process.send_signal(signal.SIGTERM)
        self._waiters.shutdown()

    @property
    def free(self) -> int:
        """How many more can start."""
        return len(self._places) - len(self._running)

    def start(self, job: Job) -> None:
        place = min(set(self._places) - {place for place, *_ in self._running.values()})
        cores = self._places[place]
        with self._log(job).open("ab") as log:
            # By this thread: the system tells a job of the end of the thread that started it.
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {PARENT: str(os.getpid())},
            )
        if cores:
            os.sched_setaffinity(process.pid, cores)  # long before TensorFlow counts them
        waiter = self._waiters.submit(process.wait)
        self._running[waiter] = place, job, process, time.monotonic()

    def ended(self) -> list[tuple[Job, float, str]]:
        """Waits a moment for jobs to end; returns them, their seconds, and why they failed, or "".

        Raises:
          Preempted: one was preempted.
        """
        ended, _ = futures.wait(self._running, _POLL_SECONDS, futures.FIRST_COMPLETED)
        result = []
        for waiter in [waiter for waiter in self._running if waiter in ended]:
            _, job, process, start = self._running.pop(waiter)
            if process.returncode in PREEMPTED:
                raise Preempted(where=_STOPPED)
            reason = why(self._log(job), process.returncode)
            result.append((job, time.monotonic() - start, reason))
        return result

    def _log(self, job: Job) -> pathlib.Path:
        return self._logs / f"{job.name}.log"


def usable_cores() -> list[int]:
    """The cores of this process; empty on macOS, where the system alone decides."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def why(log: pathlib.Path, code: int) -> str:
    """Why a command failed: the last line of its log, its signal or exit code; "" for 0."""
    if code <= 0:
        return f"killed by signal {-code}" if code else ""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    return lines[-1] if lines else f"exit code {code}"
