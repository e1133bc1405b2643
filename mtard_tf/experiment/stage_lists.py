"""Lists of stages as run files write them: names, replicates, lists within lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import gin

from mtard_tf.experiment.sources import is_path
from mtard_tf.experiment.stage import Stage

_SCOPE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# A stage's name, a stage, or any nesting of lists of them.
Stages = str | Stage | Sequence["Stages"]


def complete(stages: Stages) -> list[Stage]:
    """The stages one after another, and before each the teachers that it names and nobody listed.

    An added teacher is the stage that the bindings of its name describe; a name without bindings
    is left for `Experiment` to refuse.
    """
    listed = flat(stages)
    names = {built.name for built in listed}
    done: list[Stage] = []

    def add(built: Stage) -> None:
        for source in built.sources:
            if source not in names and not is_path(source) and _binds_in(source):
                names.add(source)
                add(stage(source))
        done.append(built)

    for built in listed:
        add(built)
    return done


def flat(stages: Stages) -> list[Stage]:
    """The stages one after another, those of lists within lists as well."""
    if isinstance(stages, str):
        return [stage(stages)]
    if isinstance(stages, Stage):
        return [stages]
    if not isinstance(stages, Sequence):
        given = f"@{stages.__name__}" if callable(stages) else repr(stages)
        raise ValueError(
            f"Experiment.stages holds {given}; give names of stages in quotes, and lists as "
            "@replicates() with brackets."
        )
    return [built for inner in stages for built in flat(inner)]


def stage(name: str, scope: str = "", **settings: Any) -> Stage:
    """The stage that the bindings of `scope` describe, of the name's where it is empty.

    In a scope of several parts, `trades/trades_s1`, what is bound to `trades` holds as well.

    Args:
      name: of the stage.
      scope: gin scope.
      settings: fields of `Stage` that no binding overrules.

    Raises:
      ValueError: a name that is no scope of gin.
    """
    if not all(map(_SCOPE.fullmatch, (scope or name).split("/"))):
        near = re.sub(r"\W", "_", name)
        raise ValueError(
            f"Experiment.stages has {name!r}; a stage's name is the scope of its bindings: give "
            f"letters, digits and _ only: {near if _SCOPE.fullmatch(near) else 'stage_1'}."
        )
    # A list stands for the whole scope; a string would be put behind the one that is active.
    with gin.config_scope((scope or name).split("/")):
        return gin.get_configurable("Stage")(name=name, scope=scope or name, **settings)


def replicates(names: str | Sequence[str], count: int = 3, first: int = 0) -> list[Stage]:
    """`count` stages of each name that differ by their seed alone: `<name>_s0`, `<name>_s1`, ...

    What is bound to `<name>/` configures all of its replicates, `<name>/<name>_s1/` one of them.

    Args:
      names: one, or several.
      count: of replicates of each, at least 1.
      first: number of the first, such as 3 on a machine that adds to those of another.

    Returns:
      The first replicate of every name, then the second of every name, and so on: a comparison
      that is cut off holds whole seeds.

    Raises:
      ValueError: a count that is no whole number, or less than 1; a first that is none, or less
        than 0.
    """
    for name, value, least in (("count", count, 1), ("first", first, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(
                f"replicates.{name} is {value!r}; give a whole number, at least {least}."
            )
    names = [names] if isinstance(names, str) else names
    pairs = [(name, f"{name}_s{seed}") for seed in range(first, first + count) for name in names]
    return [stage(replicate, f"{name}/{replicate}") for name, replicate in pairs]


def _binds_in(scope: str) -> bool:
    """Whether anything is bound in a scope."""
    return any(f"{at}/".startswith(f"{scope}/") for at, _ in gin.config._CONFIG)
