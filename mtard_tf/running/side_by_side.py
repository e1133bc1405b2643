"""The stages of an experiment in processes of their own, several at a time."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence

import tensorflow as tf

from mtard_tf.experiment.experiment import Experiment
from mtard_tf.experiment.stage import Stage
from mtard_tf.processes import jobs
from mtard_tf.processes.locking import locked
from mtard_tf.reporting import run_files
from mtard_tf.running.experiment_run import check, check_stage, identities_of
from mtard_tf.running.identity import Identity
from mtard_tf.running.run_directory import RunError, claim
from mtard_tf.running.stage_sources import finished


def run(
    experiment: Experiment,
    run_dir: pathlib.Path,
    config: str,
    count: int,
    strategy: tf.distribute.Strategy | None = None,
    options: Sequence[str] = (),
    only: Sequence[str] = (),
    restart: Sequence[str] = (),
) -> list[dict]:
    """Does what `experiment.run` does in `count` processes, each with its share of the cores.

    Fewer cores round otherwise: the weights are those of any run with as many for each, to the
    bit, not those of one process that has all of them.

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
      restart: see `experiment.run`.

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
    for name in (*only, *restart):
        check_stage(experiment, name)
    data = experiment.dataset()
    extras = check(experiment, data, strategy, stages, run_dir)
    claim(run_dir, config)
    known = identities_of(experiment, data, extras)
    run_jobs(run_dir, training_jobs(stages, run_dir, known, options, restart), count)
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
    stages: Sequence[Stage],
    run_dir: pathlib.Path,
    identities: Mapping[str, Identity],
    options: Sequence[str] = (),
    restart: Sequence[str] = (),
) -> list[jobs.Job]:
    """One job for each stage of a claimed run that is not finished, named as the stage.

    Args:
      stages: of the experiment.
      run_dir: of the run.
      identities: name -> what the stage is now.
      options: flags of `mtard-train` for each process.
      restart: see `experiment.run`.

    Raises:
      Changed: a stage was begun as another and is not to be begun anew.
    """
    command = [sys.executable, "-m", "mtard_tf.bin.train", f"--run_dir={run_dir}"]
    command += ["--strategy=one_device", *options]
    todo: dict[str, jobs.Job] = {}
    for stage in stages:
        # A stage whose teacher is trained anew asks once more whether it stands.
        asks = stage.name in restart or bool(set(stage.sources) & set(todo))
        if asks or finished(stage, run_dir, identities[stage.name]) is None:
            own = [f"--only={stage.name}"]
            own += [f"--restart={stage.name}"] if stage.name in restart else []
            todo[stage.name] = jobs.Job(stage.name, [*command, *own], stage.sources)
    return list(todo.values())
