"""The stages of an experiment in separate processes, several at a time."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence

import tensorflow as tf

from mtard_tf.experiment.experiment import Experiment
from mtard_tf.experiment.stage import Stage
from mtard_tf.processes import jobs
from mtard_tf.processes.locking import locked
from mtard_tf.reporting import run_files, run_page
from mtard_tf.running.experiment_run import prepare
from mtard_tf.running.identity import Identity
from mtard_tf.running.run_directory import RunError, claim, note_stages
from mtard_tf.running.stage_sources import check_begun, finished

_TRAIN = "mtard_tf.bin.train"


def run(
    experiment: Experiment,
    run_dir: pathlib.Path,
    config: str,
    count: int,
    strategy: tf.distribute.Strategy | None = None,
    options: Sequence[str] = (),
    only: Sequence[str] = (),
    restart: Sequence[str] = (),
    pools: jobs.Pools | None = None,
) -> list[dict]:
    """Does what `experiment_run.run` does in `count` processes, each with its share of the cores.

    Results depend on the number of cores in their last bits: the weights are those of any run with
    as many for each stage, not those of one process that has all of them.

    A stage starts as soon as those that it learns from are finished; its output is in
    `logs/<stage>.log`.

    Args:
      count: processes at a time.
      strategy: must be one device: each process has its own.
      options: flags of `mtard-train` for each process.
      pools: where they run; see `jobs.run`.
      experiment, run_dir, config, only, restart: see `experiment_run.run`.

    Raises:
      JobError: a stage failed.
      RunError: several devices; see `experiment_run.run`, also for Preempted.
    """
    strategy = strategy or tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync > 1:
        raise RunError(
            f"--jobs is {count} and the strategy has {strategy.num_replicas_in_sync} replicas; "
            "use one device with --jobs, or one job with several devices."
        )
    stages, _, _, known = prepare(experiment, run_dir, strategy, only, restart)
    claim(run_dir, config)
    note_stages(run_dir, experiment)
    run_jobs(run_dir, training_jobs(stages, run_dir, known, options, restart), count, pools)
    return [run_files.stage(run_dir / stage.name / "stage.json") for stage in stages]


def run_jobs(
    run_dir: pathlib.Path, todo: Sequence[jobs.Job], count: int, pools: jobs.Pools | None = None
) -> None:
    """Runs the jobs of a claimed run, `count` at a time, and notes on its page which stages failed.

    Raises:
      LockedError: someone trains the run as a whole, or runs jobs in it.
      JobError, Preempted: see `jobs.run`.
    """
    trained = {job.name for job in todo if _TRAIN in job.command}  # the rest are audits
    with locked(run_dir, shared=True), locked(run_dir, "jobs.lock"):
        if trained:
            run_page.announce(run_dir)
        try:
            jobs.run(todo, count, run_dir / "logs", pools=pools)
        except jobs.JobError as error:
            for name in trained & error.failed.keys():
                run_page.note_failed(run_dir / name, error.failed[name])
            raise
        finally:
            run_page.refresh(run_dir)


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
      restart: see `experiment_run.run`.

    Raises:
      Changed: a stage was begun with other settings and is not in `restart`.
    """
    command = [sys.executable, "-m", _TRAIN, f"--run_dir={run_dir}"]
    command += ["--strategy=one_device", *options]
    check_begun(stages, run_dir, identities, restart)
    todo: dict[str, jobs.Job] = {}
    for stage in stages:
        # A stage whose teacher is trained first compares itself with it then.
        asks = stage.name in restart or bool(set(stage.sources) & set(todo))
        if asks or finished(stage, run_dir, identities[stage.name]) is None:
            own = [f"--only={stage.name}"]
            own += [f"--restart={stage.name}"] if stage.name in restart else []
            todo[stage.name] = jobs.Job(stage.name, [*command, *own], stage.sources)
    return list(todo.values())
