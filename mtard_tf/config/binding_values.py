"""Checks that numbers in run files are finite and of the type that the parameter takes."""

from __future__ import annotations

import inspect
import math
from typing import Any

import gin

from mtard_tf import registry
from mtard_tf.config.bindable import BINDABLE
from mtard_tf.config.bindings import flat, short, text
from mtard_tf.config.gin_errors import ConfigError
from mtard_tf.config.statements import MACRO


def check_values() -> None:
    """Refuses numbers in quotes, booleans for numbers, fractions for integers, and infinity.

    Raises:
      ConfigError: names the binding.
    """
    for (scope, complete), parameters in gin.config._CONFIG.items():
        selector = short(complete)
        kinds = {} if selector == MACRO else _annotations(selector)
        for parameter, value in parameters.items():
            key = scope, complete, parameter
            value = _without_macro(value)
            if any(isinstance(v, float) and not math.isfinite(v) for v in flat(value)):
                raise ConfigError(f"{text(key)} holds {value!r}; give finite numbers.")
            wanted = _wanted(value, kinds.get(parameter))
            if wanted:
                raise ConfigError(f"{text(key)} is {value!r}; give {wanted}.")


def _annotations(selector: str) -> dict[str, str]:
    """Parameter -> its annotation, or "float | None" if it has none and its default is a number."""
    found = {}
    for name, parameter in inspect.signature(_target(selector)).parameters.items():
        annotation, default = parameter.annotation, parameter.default
        if annotation is parameter.empty:
            number = isinstance(default, (int, float)) and not isinstance(default, bool)
            found[name] = "float | None" if number else ""
        else:
            found[name] = annotation if isinstance(annotation, str) else annotation.__name__
    return found


def _target(selector: str) -> Any:
    kind, _, name = selector.rpartition(".")
    if kind in registry.KINDS:
        return registry.get(kind, name)
    return BINDABLE.get(selector) or gin.get_configurable(selector)  # or a user's own


def _wanted(value: Any, annotation: str | None) -> str | None:
    """What to give instead of the value, for the message; None if the value fits the annotation.

    Only annotations of numbers and booleans are checked; the classes check everything else.
    """
    kinds = {kind.strip() for kind in (annotation or "").split("|")}
    if kinds - {"int", "float", "bool", "None"} or not kinds & {"int", "float", "bool"}:
        return None
    if value is None and "None" in kinds or isinstance(value, gin.config.ConfigurableReference):
        return None
    if isinstance(value, bool):
        return None if "bool" in kinds else "a number"
    if isinstance(value, int) and kinds & {"int", "float"}:
        return None
    if isinstance(value, float) and "float" in kinds:
        return None
    what = "a number" if "float" in kinds else "a whole number"
    what = "True or False" if "bool" in kinds else what
    return what + (", without quotes" if isinstance(value, str) else "")


def _without_macro(value: Any) -> Any:
    """The value of a macro; any other value unchanged."""
    if isinstance(value, gin.config.ConfigurableReference) and repr(value).startswith("%"):
        name = "/".join(value.scopes)
        return gin.config._CONFIG.get((name, MACRO), {}).get("value", value)
    return value
