"""Runs the stages of an experiment in one directory."""

from __future__ import annotations

import contextlib
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence

import keras
import tensorflow as tf

from mtard_tf.config import bindings
from mtard_tf.data.batches import check_batches
from mtard_tf.data.extra import Extra
from mtard_tf.data.image_data import ImageData
from mtard_tf.distribute import strategies
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.experiment.stage import Stage
from mtard_tf.experiment.stage_checks import check_data, check_devices
from mtard_tf.models.global_state import fresh_names, seeded
from mtard_tf.processes.locking import locked
from mtard_tf.processes.preemption import Preempted, Preemption
from mtard_tf.reporting.run_page import announce, noting
from mtard_tf.running import extra_images, identity
from mtard_tf.running.context import RunContext
from mtard_tf.running.dry_run import dry_run
from mtard_tf.running.run_directory import (
    CONFIG,
    EXPERIMENT,
    RunError,
    claim,
    load_student,
    load_teacher,
    note_stages,
)
from mtard_tf.running.stage_run import train
from mtard_tf.running.stage_sources import check_begun, fingerprints, finished
from mtard_tf.running.stage_sources import restart as begin_anew
from mtard_tf.running.teacher_check import note_fitness


def run(
    experiment: Experiment,
    run_dir: pathlib.Path,
    config: str | None = None,
    strategy: tf.distribute.Strategy | None = None,
    only: Sequence[str] = (),
    restart: Sequence[str] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
    page: bool = True,
) -> list[dict]:
    """Runs all stages that are not finished; one that was interrupted resumes.

    Args:
      experiment: with its stages built.
      run_dir: made if absent; docs/runs.md shows what it will hold. Several workers share it.
      config: the gin configuration as one text, kept as `config.gin`; None where the experiment is
        not gin's: it is kept as `experiment.json`.
      strategy: what to train on; default one device.
      only: names of the stages to run, whose teachers are finished; other processes may run others
        in the same directory at the same time. All if empty.
      restart: names of stages to begin anew where they were begun with other data, code, settings
        or teachers; what was there is moved to `<name>.before`.
      callbacks: Keras' own, given to each stage's `fit`.
      page: whether the directory gets a page; one that is removed afterwards needs none.

    Returns:
      One `stage.json` per stage.

    Raises:
      RunError: the directory holds a run of another configuration, or is in use.
      Changed: a stage was begun with other data, code, settings or teachers.
      Preempted: the process was preempted (SIGTERM).
    """
    strategy = strategy or tf.distribute.get_strategy()
    stages, data, extras, identities = prepare(experiment, run_dir, strategy, only, restart)
    named = (identity.of_experiment(experiment), EXPERIMENT) if config is None else (config, CONFIG)
    with _claimed(run_dir, named, only, strategy), Preemption().listening() as heard:
        if strategies.is_chief(strategy) and page:
            note_stages(run_dir, experiment)
        check_begun(stages, run_dir, identities, restart)
        if strategies.is_chief(strategy) and page and not only:  # else their parent says so
            announce(run_dir)
        context = RunContext(data, experiment.threat, strategy, heard, callbacks, extras)
        results = []
        for stage in stages:
            now = identities[stage.name]
            if stage.name in restart and strategies.is_chief(strategy):
                begin_anew(stage, run_dir, now)
            strategies.wait_for_all(strategy)
            results.append(_stage(experiment, stage, run_dir, context, now))
        return results


@contextlib.contextmanager
def _claimed(
    run_dir: pathlib.Path,
    named: tuple[str, str],
    only: Sequence[str],
    strategy: tf.distribute.Strategy,
) -> Iterator[None]:
    """Within it the directory is this run's, and the stages of the chief's process are locked."""
    with contextlib.ExitStack() as stack:
        if strategies.is_chief(strategy):
            claim(run_dir, *named)
            stack.enter_context(locked(run_dir, shared=bool(only)))
            for name in dict.fromkeys(only):  # a lock is held once
                stack.enter_context(locked(run_dir, f"{name}.lock"))
        strategies.wait_for_all(strategy)
        if not strategies.is_chief(strategy):
            claim(run_dir, *named)  # by now it is there: this compares
        yield


def prepare(
    experiment: Experiment,
    run_dir: pathlib.Path,
    strategy: tf.distribute.Strategy,
    only: Sequence[str] = (),
    restart: Sequence[str] = (),
) -> tuple[list[Stage], ImageData, Mapping[str, Extra], dict[str, identity.Identity]]:
    """The stages to run, their data and extra images, and identities, after what `check` refuses.

    Raises:
      RunError: no such stage.
      ValueError: see `check`.
    """
    for name in (*only, *restart):
        check_stage(experiment, name)
    stages = [stage for stage in experiment.stages if not only or stage.name in only]
    data = experiment.dataset()
    extras = check(experiment, data, strategy, stages, run_dir)
    return stages, data, extras, identities_of(experiment, data, extras)


def identities_of(
    experiment: Experiment, data: ImageData, extras: Mapping[str, Extra] | None = None
) -> dict[str, identity.Identity]:
    """Name -> identity of the stage; `extras` are from `check`, of the stages asked about."""
    prints = identity.of_data(data)
    further = {name: {"the extra images": e.fingerprint} for name, e in (extras or {}).items()}
    return {
        stage.name: identity.of_stage(
            stage, prints | further.get(stage.name, {}), experiment.threat, experiment.seed
        )
        for stage in experiment.stages
    }


def _stage(
    experiment: Experiment,
    stage: Stage,
    run_dir: pathlib.Path,
    context: RunContext,
    now: identity.Identity,
) -> dict:
    result = finished(stage, run_dir, now)
    if result is not None:
        if strategies.is_chief(context.strategy):
            print(f"{stage.name}: finished before, not run again.")
        return result
    if context.preempted():
        raise Preempted
    seed = stage_seed(experiment.seed, stage.name)
    chief = strategies.is_chief(context.strategy)
    noted = noting(run_dir / stage.name) if chief else contextlib.nullcontext()
    sources = fingerprints(stage, run_dir)
    if chief:
        note_fitness(stage, run_dir, sources)
    with noted, fresh_names(), seeded(seed):
        with context.strategy.scope():
            data = context.data
            models = {role: load_teacher(run_dir, t, data) for role, t in stage.teachers.items()}
            initial = load_student(run_dir, stage.initial) if stage.initial else None
        return train(
            stage,
            models,
            run_dir / stage.name,
            context,
            seed=seed,
            sources=sources,
            initial=initial,
            identity=now,
        )


def stage_seed(seed: int, name: str) -> int:
    """A seed of the stage's own, so that neither stages nor runs with near seeds share draws."""
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF


def check(
    experiment: Experiment,
    data: ImageData,
    strategy: tf.distribute.Strategy,
    stages: Sequence[Stage],
    run_dir: pathlib.Path,
) -> dict[str, Extra]:
    """Refuses, before anything is trained, what one of the stages to run would refuse.

    What they learn from is among them, finished in `run_dir`, or a file.

    Raises:
      ValueError: training images that are also in another split, a batch size that does not suit
        the data and the devices, or whatever the parts of a stage refuse; a binding that nothing
        reads, where all stages are to run.
    """
    data.check_trainable()
    extras = extra_images.load(stages, data)
    for stage in stages:
        check_data(stage, data)
        # Extra images fill the last batch of an epoch.
        images = stage.batch_size if stage.name in extras else len(data.train)
        check_batches(images, stage.batch_size, strategy.num_replicas_in_sync)
        with strategy.scope():  # in which it is built to be trained
            check_devices(stage)
    dry_run(stages, data, experiment.threat, run_dir, extras)
    if len(stages) == len(experiment.stages):
        bindings.check_read(stages)
    return extras


def check_stage(experiment: Experiment, name: str) -> None:
    """Raises RunError, which names the stages, unless the experiment has a stage of this name."""
    known = [stage.name for stage in experiment.stages]
    if name not in known:
        raise RunError(f"The run has no stage {name!r}; its stages: {', '.join(known)}.")
