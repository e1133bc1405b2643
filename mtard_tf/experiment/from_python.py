"""A stage from what a Python program gives: names or objects, and settings of stage and method."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from mtard_tf import optimizers, registry, schedules
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.borrowed import Architecture

_FIELDS = {field.name for field in dataclasses.fields(Stage)}
# What `stage` is given by other arguments.
_TAKEN = {"name", "distiller", "model", "teachers", "initial", "epsilon", "scope"}
_ATTACKS = ("attack", "validation_attack")
# From the first step at a large epsilon a small net can collapse to chance.
_WARMUP = 0.25


def stage(
    name: str | None,
    method: str | Callable,
    net: keras.Model,
    teachers: Mapping[str, str],
    epochs: int,
    settings: Mapping[str, Any],
    initial: str | None = None,
) -> Stage:
    """The stage that trains a net.

    Defaults are those of a short training: Adam at 2e-3, and for methods that attack an epsilon
    that grows over the first quarter of the epochs. All others are `Stage`'s.

    Args:
      name: of the stage; None for the method's.
      method: name or class of a distiller, "bmtard".
      net: its architecture is trained, with fresh weights.
      teachers: role -> path.
      epochs: passes over the training split.
      settings: fields of `Stage` and arguments of the distiller, by name. Attacks, optimizers and
        schedules may be names: "pgd", "adam", "cosine" (over all epochs).
      initial: path of the weights that it starts from.

    Raises:
      ValueError: a name that does not exist, or a setting that neither has.
    """
    distiller, known = _method(method)
    name = name or (method if isinstance(method, str) else method.__name__.lower())
    fields: dict[str, Any] = {"optimizer": "adam", "learning_rate": 2e-3}
    fields["learning_rate_schedule"] = schedules.CONSTANT
    if attacks(distiller):
        fields["epsilon_schedule"] = schedules.Warmup(_WARMUP * epochs)
    else:
        fields["validation_attack"] = None
    arguments: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in _FIELDS - _TAKEN and key not in known:
            what = f"setting of {distiller.__name__} or of a stage"
            raise ValueError(registry.unknown_name(what, key, sorted(known | (_FIELDS - _TAKEN))))
        (arguments if key in known else fields)[key] = value
    arguments = {key: _object(key, value, epochs) for key, value in arguments.items()}
    bound = functools.partial(distiller, **arguments)
    if arguments:  # a run is told the method by its name
        distiller = functools.update_wrapper(bound, distiller, updated=())
    return Stage(
        name=name,
        distiller=distiller,
        model=Architecture(net),
        teachers=dict(teachers),
        epochs=epochs,
        initial=initial,
        **{key: _object(key, value, epochs) for key, value in fields.items()},
    )


def check_teachers(method: str | Callable, teachers: Mapping[str, Any]) -> None:
    """Refuses, with ValueError, other teachers than those that the method has roles for."""
    distiller, _ = _method(method)
    roles = sorted(distiller.teacher_views)
    # MTARD also works with one of its two.
    if (roles and not teachers) or set(teachers) - set(roles):
        raise ValueError(
            f"{distiller.__name__} was given the teachers ({', '.join(sorted(teachers))}); it has "
            f"the roles ({', '.join(roles)}): mtard_tf.distil(..., teachers={{role: model}})."
        )


def attacks(distiller: Any) -> bool:
    """Whether a method trains on adversarial images."""
    views = [*getattr(distiller, "student_views", ())]
    for seen in getattr(distiller, "teacher_views", {}).values():
        views += [seen] if isinstance(seen, str) else seen
    return "adversarial" in views


def _method(method: str | Callable) -> tuple[Any, set[str]]:
    """The distiller, and the arguments that are its own."""
    made = registry.get("distillers", method) if isinstance(method, str) else method
    distiller = registry.target("distillers", method) if isinstance(method, str) else method
    if not (inspect.isclass(distiller) and hasattr(distiller, "student_views")):
        raise ValueError(
            f"The method is {method!r}; give a subclass of mtard_tf.Distiller, or the name of one: "
            f"{', '.join(registry.names('distillers'))}."
        )
    names = set(inspect.signature(made).parameters)
    return distiller, names - {"student", "teachers", "kwargs", *registry.SET_BY_STAGE}


def _object(key: str, value: Any, epochs: int) -> Any:
    """The object that a name refers to; any other value unchanged."""
    if not isinstance(value, str):
        return value
    if key in _ATTACKS:
        return registry.target("attacks", value)()
    if key == "optimizer":
        return _chosen(key, value, optimizers.OPTIMIZERS)
    if key.endswith("_schedule"):
        made = _chosen(key, value, {kind.__name__.lower(): kind for kind in schedules.SCHEDULES})
        takes_length = "epochs" in inspect.signature(made).parameters
        return made(epochs) if takes_length else made()
    return value


def _chosen(key: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ValueError(registry.unknown_name(key, name, list(known)))
    return known[name]
