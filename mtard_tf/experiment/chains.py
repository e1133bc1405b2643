"""Lists of stages for chains of distillations: teacher -> assistant -> ... -> student."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtard_tf import registry
from mtard_tf.experiment import stage_lists
from mtard_tf.experiment.stage import Stage


def chain(
    length: int,
    distiller: Callable,
    *,
    name: str = "chain",
    temperature: float | None = None,
    first_temperature: float | None = None,
    first: Callable | str | None = None,
    models: Sequence[Callable] | Callable | None = None,
    widths: Sequence[Any] | None = None,
    role: str = "teacher",
    teachers: Mapping[str, str] | None = None,
    all_ancestors: bool = False,
    initial: str | None = None,
    suffix: str = "",
) -> list[Stage]:
    """A teacher, and `length` distillations one after the other: `length - 1` assistants.

    The stages are `<name>_teacher<suffix>`, `<name>_step1<suffix>`, ...; what is bound to
    `teacher/` configures the first, to `step/` all others, and to `step/<stage>/` one of them. The
    student of a shorter chain is a step of the longer one, so one list serves all lengths.

    Args:
      length: number of distillations, at least 1.
      distiller: of each of them, such as `@distillers.defensive`.
      name: prefix of the stages' names.
      temperature: of every distillation whose distiller has one; None leaves it to bindings.
      first_temperature: of the teacher's own training, which defensive distillation has at the
        chain's temperature and other papers at 1 (None).
      first: distiller of the teacher, default `@distillers.natural`; or the name of an earlier
        stage, or a path, that is the teacher.
      models: factory of every student, or one for each, the teacher's first (none where `first` is
        a name).
      widths: the `widths` of every model, likewise; for chains of shrinking nets.
      role: of the previous net in the distiller.
      teachers: further teachers of every distillation: role -> stage or path.
      all_ancestors: all earlier nets teach, as `link0`, `link1`, ... (`densely_guided`).
      initial: stage whose weights all students start from.
      suffix: of the stages' names.

    Raises:
      ValueError: a length below 1, or another number of models or widths than of nets.
    """
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"chain.length is {length!r}; give a whole number, at least 1.")
    given = isinstance(first, str)
    count = length if given else length + 1
    models = _one_each("models", [models] * count if callable(models) else models, count)
    widths = _one_each("widths", widths, count)
    ancestors, stages = [first] if isinstance(first, str) else [], []
    for place in range(count):
        is_first = not ancestors
        label = "teacher" if is_first else f"step{place + given}"
        settings: dict[str, Any] = {"distiller": distiller}
        if is_first:
            settings["distiller"] = first or registry.get("distillers", "natural")
        elif all_ancestors:
            settings["teachers"] = {f"link{i}": stage for i, stage in enumerate(ancestors)}
        else:
            settings["teachers"] = {role: ancestors[-1]}
        if not is_first:
            settings["teachers"] |= teachers or {}
        at = first_temperature if is_first else temperature
        settings["distiller"] = _at(settings["distiller"], at)
        settings |= {} if models[place] is None else {"model": models[place]}
        settings["initial"] = initial
        stage_name = f"{name}_{label}{suffix}"
        scope = f"{'teacher' if is_first else 'step'}/{stage_name}"
        built = stage_lists.stage(stage_name, scope, **settings)
        stages.append(built if widths[place] is None else _with_widths(built, widths[place]))
        ancestors.append(stage_name)
    return stages


def temperature_sweep(
    temperatures: Sequence[float],
    length: int,
    *,
    distiller: Callable | None = None,
    seeds: Sequence[int] = (0,),
    warm_start: bool = True,
) -> list[Stage]:
    """A chain of `length` distillations for every temperature and seed (arXiv 2305.08076).

    Stages: `init_s0` (scope `init`), then `t<temperature>_teacher_s0`, `t<temperature>_step1_s0`,
    ... (scopes `teacher` and `step`), and the same with other seeds.

    Args:
      temperatures: one chain each.
      length: number of distillations in each; it contains all shorter chains.
      distiller: default `@distillers.defensive`.
      seeds: numbers in the stages' names, which their seeds are derived from.
      warm_start: all stages of a seed start from the weights of `init_s<seed>`, trained on hard
        labels at temperature 1 (one epoch in the authors' code).
    """
    distiller = distiller or registry.get("distillers", "defensive")
    stages = []
    for seed in seeds:
        initial = f"init_s{seed}" if warm_start else None
        if initial:
            natural = registry.get("distillers", "natural")
            stages.append(stage_lists.stage(initial, "init", distiller=natural))
        for temperature in temperatures:
            first, *steps = chain(
                length,
                distiller,
                name=f"t{temperature:g}".replace(".", "_"),  # a gin scope has no point
                temperature=temperature,
                first_temperature=temperature,
                initial=initial,
                suffix=f"_s{seed}",
            )
            points = [(float(temperature), depth) for depth in range(length)]
            swept = [
                dataclasses.replace(step, sweep=point)
                for step, point in zip(steps, points, strict=True)
            ]
            stages += [first, *swept]
    return stages


def _one_each(what: str, values: Sequence[Any] | None, count: int) -> Sequence[Any]:
    if values is None:
        return [None] * count
    if len(values) != count:
        raise ValueError(
            f"chain.{what} has {len(values)} entries for {count} nets; give one for each, the "
            "largest first."
        )
    return values


def _at(distiller: Callable, temperature: float | None) -> Callable:
    takes = "temperature" in inspect.signature(distiller).parameters
    if temperature is None or not takes:
        return distiller
    return _bound(distiller, temperature=float(temperature))


def _with_widths(stage: Stage, widths: Any) -> Stage:
    return dataclasses.replace(stage, model=_bound(stage.model, widths=tuple(widths)))


def _bound(factory: Callable, **settings: Any) -> Callable:
    """The factory with some arguments set, under its own name, which model cards show."""
    return functools.update_wrapper(functools.partial(factory, **settings), factory)
