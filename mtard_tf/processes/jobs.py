"""Independent pieces of a run as processes side by side, each on its own share of the cores.

For small nets two processes of one core each do close to twice the work of one process of two.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from mtard_tf.processes.preemption import EXIT_CODE, INTERRUPTED, PARENT, Preempted, Preemption

_POLL_SECONDS = 0.2
_TOLD = (EXIT_CODE, INTERRUPTED, -signal.SIGTERM, -signal.SIGINT)  # exit codes
_STOPPED = "its processes have written their state"


class JobError(ValueError):
    """A job that failed. The message is one line and names its log."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One process.

    Attributes:
      name: what progress lines and the log call it.
      command: its arguments, the program first.
      needs: names of the jobs that must have ended well before it starts.
    """

    name: str
    command: Sequence[str]
    needs: Sequence[str] = ()


def run(
    jobs: Sequence[Job],
    count: int,
    logs: pathlib.Path,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> None:
    """Runs the jobs, `count` at a time, in their order as far as what they need allows.

    Args:
      jobs: what to run. Needs that are no job of this call count as met.
      count: how many at a time; each gets an equal share of the cores to itself.
      logs: folder for what each job prints, `<name>.log`.
      say: hears one line for each job that starts and ends.

    Raises:
      JobError: jobs failed; all that does not need them has ended well.
      Preempted: this process was told to go (SIGTERM, Ctrl-C), or a job was; those that were
        running are told to go and have gone.
      ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"The number of jobs is {count}; give at least 1.")
    logs.mkdir(parents=True, exist_ok=True)
    with Preemption().listening() as preemption:
        pool = _Pool(count, logs)
        waiting, total = list(jobs), len(jobs)
        done: set[str] = set()
        failed: dict[str, str] = {}  # also what was not begun for want of one that failed
        try:
            while waiting or pool.running:
                if preemption.told:
                    raise Preempted(where=_STOPPED)
                while lost := [job for job in waiting if set(failed) & set(job.needs)]:
                    failed |= {job.name: "" for job in lost}
                    waiting = [job for job in waiting if job not in lost]
                unmet = {job.name for job in jobs} - done
                for job in [j for j in waiting if not unmet & set(j.needs)][: pool.free]:
                    waiting.remove(job)
                    pool.start(job)
                    say(f"{job.name}: started")
                if waiting and not pool.running:
                    raise JobError(f"{waiting[0].name} waits for a job that waits for it.")
                for job, seconds, reason in pool.ended():
                    if reason:
                        failed[job.name] = f"{job.name} failed ({reason})"
                        say(failed[job.name])
                        continue
                    done.add(job.name)
                    say(f"{job.name}: done in {seconds:,.0f} s ({len(done)} of {total})")
                time.sleep(_POLL_SECONDS)
        finally:
            pool.stop()
    if failed:
        reasons = [reason for reason in failed.values() if reason]
        if absent := [name for name, reason in failed.items() if not reason]:
            reasons.append(f"not begun for want of these: {', '.join(absent)}")
        raise JobError(
            f"{'; '.join(reasons)}; see {logs}/<name>.log. The same command goes on from what is "
            "finished."
        )


class _Pool:
    """The processes that are running, and the cores that each of them has."""

    def __init__(self, count: int, logs: pathlib.Path) -> None:
        # Not on macOS, where the system alone decides.
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        # As many for each: a stage's last bits must not depend on the place that it is given.
        share = max(1, len(cores) // count)
        shares = [cores[i * share % max(1, len(cores)) :] + cores for i in range(count)]
        self._places = {i: set(shares[i][:share]) for i in range(count)}
        self._logs = logs
        self.running: dict[int, tuple[Job, subprocess.Popen, float]] = {}

    @property
    def free(self) -> int:
        """How many more can start."""
        return len(self._places) - len(self.running)

    def start(self, job: Job) -> None:
        place = min(set(self._places) - set(self.running))
        cores = self._places[place]
        with self._log(job).open("ab") as log:
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {PARENT: str(os.getpid())},
            )
        if cores:
            os.sched_setaffinity(process.pid, cores)  # long before TensorFlow counts them
        self.running[place] = job, process, time.monotonic()

    def ended(self) -> list[tuple[Job, float, str]]:
        """The jobs that have ended since the last call, their seconds, and why they failed, or "".

        Raises:
          Preempted: one was told to go.
        """
        result = []
        for place, (job, process, start) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[place]
            if process.returncode in _TOLD:
                raise Preempted(where=_STOPPED)
            reason = self._reason(job, process.returncode) if process.returncode else ""
            result.append((job, time.monotonic() - start, reason))
        return result

    def stop(self) -> None:
        """Tells those that are running to go, and waits until they have written their state."""
        for _, process, _ in self.running.values():
            process.send_signal(signal.SIGTERM)
        for _, process, _ in self.running.values():
            process.wait()
        self.running.clear()

    def _log(self, job: Job) -> pathlib.Path:
        return self._logs / f"{job.name}.log"

    def _reason(self, job: Job, code: int) -> str:
        if code < 0:
            return f"killed by signal {-code}"
        lines = self._log(job).read_text(encoding="utf-8", errors="replace").split("\n")
        lines = [line.strip() for line in lines if line.strip()]
        return lines[-1] if lines else f"exit code {code}"
