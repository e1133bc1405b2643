"""The stages of an experiment in processes of their own, several at a time."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

import tensorflow as tf

from mtard_tf import jobs, run_files
from mtard_tf.experiment import Experiment, check, check_stage
from mtard_tf.locking import locked
from mtard_tf.run_directory import RunError, claim
from mtard_tf.stage import Stage
from mtard_tf.stage_sources import finished


def run(
    experiment: Experiment,
    run_dir: pathlib.Path,
    config: str,
    count: int,
    strategy: tf.distribute.Strategy | None = None,
    options: Sequence[str] = (),
    only: Sequence[str] = (),
) -> list[dict]:
    """The same as `experiment.run` in `count` processes, each with its share of the cores.

    A stage starts as soon as those that it learns from are finished. What each prints is in
    `logs/<stage>.log`.

    Args:
      experiment: with its stages built.
      run_dir: see `experiment.run`.
      config: see `experiment.run`.
      count: processes at a time.
      strategy: must be one device: each process has its own.
      options: flags of `mtard-train` for each process.
      only: see `experiment.run`.

    Returns:
      One `stage.json` per stage.

    Raises:
      JobError: a stage failed.
      RunError: several devices; see `experiment.run`, also for Preempted.
    """
    strategy = strategy or tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync > 1:
        raise RunError(
            f"--jobs is {count} and the strategy has {strategy.num_replicas_in_sync} replicas; "
            "use one device with --jobs, or one job with several devices."
        )
    stages = [stage for stage in experiment.stages if not only or stage.name in only]
    for name in only:
        check_stage(experiment, name)
    check(experiment, experiment.dataset(), strategy, stages, run_dir)
    claim(run_dir, config)
    run_jobs(run_dir, training_jobs(stages, run_dir, options), count)
    return [run_files.stage(run_dir / stage.name / "stage.json") for stage in stages]


def run_jobs(run_dir: pathlib.Path, todo: Sequence[jobs.Job], count: int) -> None:
    """Runs the jobs of a claimed run, `count` at a time.

    Raises:
      LockedError: someone trains the run as a whole, or runs jobs in it.
      JobError, Preempted: see `jobs.run`.
    """
    with locked(run_dir, shared=True), locked(run_dir, "jobs.lock"):
        jobs.run(todo, count, run_dir / "logs")


def training_jobs(
    stages: Sequence[Stage], run_dir: pathlib.Path, options: Sequence[str] = ()
) -> list[jobs.Job]:
    """One job for each stage of a claimed run that is not finished, named as the stage.

    Raises:
      RunError: a finished stage learned from other files than those now there.
    """
    command = [sys.executable, "-m", "mtard_tf.bin.train", f"--run_dir={run_dir}"]
    command += ["--strategy=one_device", *options]
    return [
        jobs.Job(stage.name, [*command, f"--only={stage.name}"], stage.sources)
        for stage in stages
        if finished(stage, run_dir) is None
    ]
