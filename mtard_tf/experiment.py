"""An experiment: an ordered list of stages in one run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Sequence

import tensorflow as tf

from mtard_tf import bindings, identity, registry, strategies
from mtard_tf.data.batches import check_batches
from mtard_tf.data.image_data import ImageData
from mtard_tf.dry_run import dry_run
from mtard_tf.global_state import fresh_names, seeded
from mtard_tf.locking import locked
from mtard_tf.preemption import Preempted, Preemption
from mtard_tf.run_directory import (
    RunError,
    claim,
    load_student,
    load_teacher,
)
from mtard_tf.setting import Setting
from mtard_tf.stage import Stage
from mtard_tf.stage_sources import check_initial, check_source, fingerprints, finished
from mtard_tf.stage_sources import restart as begin_anew
from mtard_tf.threat import ThreatModel, radius
from mtard_tf.training import train

# Attacks keep seeds as int32.
MAX_SEED = 2**31 - 1
# Of a run, besides those of its stages.
FOLDERS = ("evaluation", "report", "export", "comparison", "logs")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Stages in the order in which they run, what they share, and what judges them.

    Attributes:
      dataset: factory of the data, such as `@datasets.fashion_mini`.
      stages: in order; a stage's teachers are stages before it, or files.
      epsilon: radius of the threat model, in [0, 1] pixel units: a number, or text as "8/255".
      norm: "linf" or "l2".
      seed: of weights, order of examples, augmentation and attacks; 0 to 2^31 - 1.
      strategy: what to train on, see `strategies.create`; a flag overrules it.

    Raises:
      ValueError: no stages, a name twice, a stage whose teacher is neither an earlier stage nor a
        file, or a radius or seed out of range.
    """

    dataset: Callable[[], ImageData]
    stages: Sequence[Stage]
    epsilon: float | str = 8 / 255
    norm: str = "linf"
    seed: int = 0
    strategy: str = "one_device"

    def __post_init__(self) -> None:
        if isinstance(self.dataset, ImageData):
            raise ValueError(
                "Experiment.dataset is a data set; give its factory: @datasets.name, without ()."
            )
        registry.check_factory("Experiment.dataset", self.dataset, "datasets")
        self._check_numbers()
        names = [stage.name for stage in self.stages]
        if not names:
            raise ValueError("Experiment.stages is empty; name at least one stage.")
        for name in names:
            if name in FOLDERS or "/" in name:
                raise ValueError(
                    f"Experiment.stages has {name!r}; a stage's name is a folder of the run: no "
                    f"'/', and none of {', '.join(FOLDERS)}."
                )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"Experiment.stages has {', '.join(twice)} twice; give each stage a name of its "
                "own."
            )
        for place, stage in enumerate(self.stages):
            for source in stage.sources:
                check_source(stage.name, source, names[:place])
            check_initial(stage.name, stage.initial or "")

    def _check_numbers(self) -> None:
        """Refuses what is no norm, radius or seed, and makes numbers of radii that are text."""
        ThreatModel(self.norm, 0.0)
        epsilon = radius(self.epsilon, "Experiment.epsilon", self.norm)
        object.__setattr__(self, "epsilon", epsilon)
        for stage in self.stages:
            if stage.epsilon is not None:
                radius(stage.epsilon, f"{stage.scope}/Stage.epsilon", self.norm)
        whole = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        if not (whole and 0 <= self.seed <= MAX_SEED):
            raise ValueError(
                f"Experiment.seed is {self.seed!r}; give a whole number from 0 to {MAX_SEED}."
            )

    @property
    def threat(self) -> ThreatModel:
        """The threat model that training and evaluation share."""
        return ThreatModel(self.norm, float(self.epsilon))


def run(
    experiment: Experiment,
    run_dir: pathlib.Path,
    config: str,
    strategy: tf.distribute.Strategy | None = None,
    only: Sequence[str] = (),
    restart: Sequence[str] = (),
) -> list[dict]:
    """Runs all stages that are not finished; one that was cut off goes on.

    Args:
      experiment: with its stages built.
      run_dir: made if it is not there; README.md shows what it will hold. Several workers share it.
      config: the configuration as one text, kept as `config.gin`.
      strategy: what to train on; default one device.
      only: names of the stages to run, whose teachers are finished; other processes may run others
        in the same directory at the same time. All if empty.
      restart: names of stages to begin anew where they were begun with other data, code, settings
        or teachers; what was there is moved to `<name>.before`.

    Returns:
      One `stage.json` per stage.

    Raises:
      RunError: the directory holds a run of another configuration, or is in use.
      Changed: a stage was begun with other data, code, settings or teachers.
      Preempted: the process was told to go (SIGTERM).
    """
    strategy = strategy or tf.distribute.get_strategy()
    only = list(dict.fromkeys(only))  # a lock is held once
    for name in (*only, *restart):
        check_stage(experiment, name)
    stages = [s for s in experiment.stages if not only or s.name in only]
    data = experiment.dataset()
    check(experiment, data, strategy, stages, run_dir)
    identities = identities_of(experiment, data)
    chief = strategies.is_chief(strategy)
    with contextlib.ExitStack() as stack:
        if chief:
            claim(run_dir, config)
            stack.enter_context(locked(run_dir, shared=bool(only)))
            for name in only:
                stack.enter_context(locked(run_dir, f"{name}.lock"))
        strategies.wait_for_all(strategy)
        if not chief:
            claim(run_dir, config)  # by now it is there: this compares
        preemption = stack.enter_context(Preemption().listening())
        setting = Setting(data, experiment.threat, strategy, preemption)
        results = []
        for stage in stages:
            if stage.name in restart and chief:
                begin_anew(stage, run_dir, identities[stage.name])
            strategies.wait_for_all(strategy)
            results.append(_stage(experiment, stage, run_dir, setting, identities[stage.name]))
        return results


def identities_of(experiment: Experiment, data: ImageData) -> dict[str, identity.Identity]:
    """Name -> what the stage is."""
    prints = identity.of_data(data)
    return {
        stage.name: identity.of_stage(stage, prints, experiment.threat, experiment.seed)
        for stage in experiment.stages
    }


def _stage(
    experiment: Experiment,
    stage: Stage,
    run_dir: pathlib.Path,
    setting: Setting,
    now: identity.Identity,
) -> dict:
    result = finished(stage, run_dir, now)
    if result is not None:
        if strategies.is_chief(setting.strategy):
            print(f"{stage.name}: finished before, not run again.")
        return result
    if setting.told():
        raise Preempted
    seed = stage_seed(experiment.seed, stage.name)
    with fresh_names(), seeded(seed):
        with setting.strategy.scope():
            data = setting.data
            models = {role: load_teacher(run_dir, t, data) for role, t in stage.teachers.items()}
            initial = load_student(run_dir, stage.initial) if stage.initial else None
        return train(
            stage,
            models,
            run_dir / stage.name,
            setting,
            seed=seed,
            sources=fingerprints(stage, run_dir),
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
) -> None:
    """Refuses, before anything is trained, what one of the stages to run would refuse.

    What they learn from is among them, finished in `run_dir`, or a file.

    Raises:
      ValueError: training images that are also in another split, a batch size that does not suit
        the data and the devices, or whatever the parts of a stage refuse; a binding that nothing
        reads, where all stages are to run.
    """
    data.check_apart()
    for stage in stages:
        check_batches(len(data.train), stage.batch_size, strategy.num_replicas_in_sync)
        with strategy.scope():  # in which it is built to be trained
            stage.check_devices()
    dry_run(stages, data, experiment.threat, run_dir)
    if len(stages) == len(experiment.stages):
        bindings.check_read(stages)


def check_stage(experiment: Experiment, name: str) -> None:
    """Raises RunError, which names the stages, unless the experiment has a stage of this name."""
    known = [stage.name for stage in experiment.stages]
    if name not in known:
        raise RunError(f"The run has no stage {name!r}; its stages: {', '.join(known)}.")
