"""The gin selectors other than plugins: experiment, stages, suites, schedules, optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gin

from mtard_tf import optimizers, schedules
from mtard_tf.auditing.suite import Suite
from mtard_tf.config.bindings import PACKAGE
from mtard_tf.data.image_data import ImageData
from mtard_tf.distiller import averaging
from mtard_tf.experiment import chains, stage_lists
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.experiment.stage import Stage


def described(
    dataset: Callable[[], ImageData],
    stages: stage_lists.Stages = "student",
    epsilon: float | str = 8 / 255,
    norm: str = "linf",
    seed: int = 0,
    strategy: str = "one_device",
    divide_cores: bool = False,
    plugins: str | Sequence[str] = (),
) -> Experiment:
    """The experiment of a run file; a stage's name is the gin scope that configures it.

    Teachers that stages name and `stages` lacks are added, each before the stages that it teaches.

    Args:
      dataset: factory of the data, such as `@datasets.fashion_mini`.
      stages: names, or what lists them, such as `@chain()`.
      epsilon: radius of the threat model, in [0, 1] pixel units: a number, or text as "8/255".
      norm: "linf" or "l2".
      seed: of weights, order of examples, augmentation and attacks; 0 to 2^31 - 1.
      strategy: devices to train on: "one_device", "mirrored", "multi_worker" or "tpu"; a flag
        overrides it.
      divide_cores: each operation takes the cores of one of the parts that are attacked side by
        side, in place of all: faster for small nets; slower for large ones without attack.
      plugins: Python files with parts of one's own, relative to the gin file; they are imported
        when that is read, see `plugin_files.load_bound`.
    """
    # Experiment parses an epsilon that is text, such as "8/255".
    listed = tuple(stage_lists.complete(stages))
    return Experiment(dataset, listed, epsilon, norm, seed, strategy, divide_cores)


# Selector -> what it configures.
BINDABLE: dict[str, Callable[..., Any]] = {
    "Experiment": described,
    "Stage": Stage,
    "Suite": Suite,
    "replicates": stage_lists.replicates,
    "chain": chains.chain,
    "temperature_sweep": chains.temperature_sweep,
    **{f"averaging.{c.__name__}": c for c in averaging.RULES},
    **{f"schedules.{c.__name__}": c for c in schedules.SCHEDULES},
    **{f"optimizers.{name}": factory for name, factory in optimizers.OPTIMIZERS.items()},
}
# The classes are not decorated: gin configures a wrapper of each.
CONFIGURABLE = {
    selector: gin.external_configurable(
        target, name=selector.split(".")[-1], module=selector.rpartition(".")[0] or PACKAGE
    )
    for selector, target in BINDABLE.items()
}
