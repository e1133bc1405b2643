"""How an audit is divided: into shares, over devices and workers, or over processes (`--jobs`)."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import tensorflow as tf

from mtard_tf.commands import request_fields, requests
from mtard_tf.config import gin_files, plugin_files
from mtard_tf.distribute import strategies
from mtard_tf.processes import jobs
from mtard_tf.processes.locking import locked
from mtard_tf.running import side_by_side


def check(request: requests.Eval) -> None:
    """Refuses flags that do not go with a share, or with several processes.

    Raises:
      ValueError: one line.
    """
    judging = {"require": request.require, "junit": request.junit}
    if part(request.share)[1] > 1 and (given := [f"--{k}" for k, v in judging.items() if v]):
        raise ValueError(
            f"{' and '.join(given)} cannot be checked on a part of the images; leave out --share, "
            "or give them to the command without --share, which writes the report of all shares."
        )
    if request.jobs == 1:
        return
    others = {
        "share": part(request.share)[1] > 1,
        "strategy": request.strategy != "one_device",
        "devices": request.devices is not None,
        "max_requests": request.max_requests is not None,
        "max_rate": request.max_rate is not None,
    }
    if given := [f"--{name}" for name, used in others.items() if used]:
        raise ValueError(
            f"--jobs={request.jobs} does not go with {' and '.join(given)}, which one process has "
            "for itself; leave one of the two out."
        )


def strategy(request: requests.Eval) -> tf.distribute.Strategy:
    """The devices and workers that the flags name, before anything else is done.

    Raises:
      ValueError: a strategy that is not one of audits, or flags that do not go with it.
    """
    name = request.strategy
    if name not in ("one_device", "mirrored", "multi_worker"):
        raise ValueError(f"--strategy is {name!r}; give one_device, mirrored or multi_worker.")
    if name == "multi_worker":
        if part(request.share)[1] > 1:
            raise ValueError(
                f"--share is {request.share} and --strategy multi_worker, which gives each worker "
                "its share; leave one of the two out."
            )
        if request.max_requests is not None or request.max_rate is not None:
            raise ValueError(
                "--max_requests and --max_rate are for one process and its server, not for "
                "--strategy=multi_worker; leave one of the two out."
            )
        if request.run_dir is not None:
            gin_files.of_run(pathlib.Path(request.run_dir))  # before workers wait for each other
    return strategies.create(
        name, devices=request.devices, workers=request.workers, index=request.index
    )


def part(text: str) -> tuple[int, int]:
    """A share of the work: "1/4" is the second of four.

    Raises:
      ValueError: anything else.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f"--share is {text!r}; give I/N with I from 0 to N - 1, such as 0/4.")
    return int(index), int(count)


def attack(request: requests.Eval, names: Sequence[str], folder: pathlib.Path) -> None:
    """Attacks with the `--jobs` processes, each on its share of the cores; nothing with one.

    They leave reports and shares where this process' own audit looks for them. Stages go first:
    with fewer stages than processes each has several shares.

    Args:
      names: the stages of a run that are audited, or the model's.
      folder: of the run, or of the model's report; gets the `logs/`.

    Raises:
      JobError: one failed; the message names its log.
      LockedError: another process is at the same.
      Preempted: this process or one of those was; the same command resumes.
    """
    if request.jobs == 1:
        return
    todo = _jobs(request, names)
    if request.run_dir is not None:
        side_by_side.run_jobs(folder, todo, request.jobs)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "jobs.lock"):
        jobs.run(todo, request.jobs, folder / "logs")


def _jobs(request: requests.Eval, names: Sequence[str]) -> list[jobs.Job]:
    parts = max(1, request.jobs // len(names))
    own = dataclasses.replace(
        request, jobs=1, require=(), require_confident=False, junit=None, gate=False
    )
    if own.run_dir is not None and own.out is None:
        # Named, so that no process rewrites the report over all stages while others read it.
        own = dataclasses.replace(own, out=str(pathlib.Path(own.run_dir) / "evaluation"))
    todo = []
    for name in names:
        for index in range(parts):
            stages = () if own.run_dir is None else (name,)
            one = dataclasses.replace(own, stages=stages, share=f"{index}/{parts}")
            job = f"{name}.audit" + (f".{index}" if parts > 1 else "")
            todo.append(jobs.Job(job, command(one)))
    return todo


def command(request: requests.Eval) -> list[str]:
    """The arguments of a process that does what is asked, with the plugins of this one."""
    flags = request_fields.flags(request)
    return [sys.executable, "-m", "mtard_tf.bin.eval", *flags, *plugin_files.given()]
