"""Digests of a stage's data, code and settings. A stage that was begun with others is refused.

What the package itself computes is identified by its version, which is recorded and never refused:
a bug-fix release resumes what an earlier one began. Code that others registered gives no such
promise, so its modules' text is compared.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import pathlib
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
import numpy as np

from mtard_tf.data.image_data import ImageData
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.experiment.stage import Stage
from mtard_tf.files import FORMAT, digest
from mtard_tf.threat import ThreatModel

# Kind -> name -> value or fingerprint. The kinds are "data", "code" and "settings".
Identity = dict[str, dict[str, str]]

# Fields of a stage that do not change what it computes, or are compared otherwise (teachers by
# their files).
_NO_SETTINGS = (
    *("name", "scope", "sweep", "checkpoint_every", "keep_checkpoints"),
    *("teachers", "initial", "epsilon", "extra"),
)
# Packages whose code is identified by a version.
_VERSIONED = {"mtard_tf", "gin", "keras", "numpy", "tensorflow", *sys.stdlib_module_names}
_SHOWN = 60  # characters of a value in a message
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def of_data(data: ImageData) -> dict[str, str]:
    """Fingerprints of the splits' images and labels, and the augmentation."""
    splits = {role: getattr(data, role) for role in ("train", "validation", "test")}
    prints = {f"the {k} split": digest(s.images, s.labels) for k, s in splits.items()}
    return prints | {"the augmentation": data.augmentation}


def of_stage(stage: Stage, data: Mapping[str, str], threat: ThreatModel, seed: int) -> Identity:
    """What a stage is.

    Args:
      stage: as it was built; what gin binds in its scope to its factories belongs to it.
      data: from `of_data`, and the fingerprint of the stage's extra images.
      threat: of the experiment.
      seed: of the experiment.
    """
    describer = _Describer(stage.scope)
    settings = {
        f"Stage.{field.name}": describer.describe(getattr(stage, field.name))
        for field in dataclasses.fields(stage)
        if field.name not in _NO_SETTINGS and _is_set(stage, field)
    }
    settings["the threat model"] = describer.describe(stage.threat(threat))
    settings["Experiment.seed"] = repr(seed)
    code = {name: _code(name) for name in sorted(_own(describer.modules))}
    return {"data": dict(data), "code": code, "settings": settings}


def of_experiment(experiment: Experiment) -> str:
    """The stages and their settings as JSON, equal in every process for equal experiments.

    The directory of a run that was begun from Python is known by it. Data and teachers' files are
    not in it: each stage has their fingerprints.
    """
    stages = {
        stage.name: {
            "teachers": sorted(stage.teachers),
            **of_stage(stage, {}, experiment.threat, experiment.seed)["settings"],
        }
        for stage in experiment.stages
    }
    return json.dumps({"format": FORMAT, "stages": stages}, indent=1) + "\n"


def changes(before: Mapping[str, Mapping], now: Mapping[str, Mapping]) -> list[str]:
    """What differs, one phrase each, at most four."""
    found = []
    for kind in now:
        old, new = before.get(kind, {}), now[kind]
        for name in dict.fromkeys((*old, *new)):
            if old.get(name) == new.get(name):
                continue
            if kind == "settings":
                values = (_short(side.get(name, "not set")) for side in (old, new))
                found.append("{} was {} and is {}".format(name, *values))
            else:
                found.append(f"the code of {name}" if kind == "code" else name)
    return found if len(found) <= 4 else [*found[:3], f"{len(found) - 3} more"]


class _Describer:
    """Describes values and factories as text that is the same in every process.

    Args:
      scope: gin scope in which the factories will be called.
    """

    def __init__(self, scope: str) -> None:
        self._scope = scope.split("/")
        self.modules: set[str] = set()
        self._open: list[int] = []  # objects that are being described

    def describe(self, value: Any) -> str:
        if isinstance(value, gin.config.ConfigurableReference):
            return self._reference(value)
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{k!r}: {self.describe(v)}" for k, v in value.items()) + "}"
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return "(" + ", ".join(self.describe(item) for item in value) + ")"
        if isinstance(value, set | frozenset):
            return "{" + ", ".join(sorted(map(self.describe, value))) + "}"
        if isinstance(value, np.ndarray):
            return digest(value)
        if isinstance(value, functools.partial):
            inner = [*map(self.describe, value.args), *self._pairs(value.keywords)]
            return f"{self.describe(value.func)}({', '.join(inner)})"
        if inspect.isroutine(value) or inspect.isclass(value):
            return self._factory(value)
        return self._object(value)

    def _reference(self, reference: Any) -> str:
        configurable = reference.configurable
        with gin.config_scope(list(reference.scopes) or self._scope):
            bound = gin.get_bindings(configurable.wrapper, resolve_references=False)
            if configurable.selector == "gin.macro":
                return self.describe(bound.get("value"))
            return self._named(configurable.wrapper, bound)

    def _factory(self, factory: Any) -> str:
        scope, bound = self._scope, {}
        for inner in _unwrapped(factory):
            # What `@scope/name` in a run file makes; gin keeps the scope nowhere else.
            inside = inspect.getclosurevars(inner).nonlocals if inspect.isfunction(inner) else {}
            scope = inside.get("scope_components") or scope
            try:
                with gin.config_scope(list(scope)):
                    bound = gin.get_bindings(inner, resolve_references=False)
                break
            except (TypeError, ValueError):
                continue  # no configurable
        return self._named(factory, bound)

    def _named(self, factory: Any, bound: Mapping[str, Any]) -> str:
        *_, origin = _unwrapped(factory)
        self.modules.add(origin.__module__ or "")
        return f"{origin.__qualname__}({', '.join(self._pairs(bound))})"

    def _object(self, value: Any) -> str:
        kind = type(value)
        if kind.__module__ == "builtins":
            return _ADDRESS.sub("", repr(value))
        self.modules.add(kind.__module__)
        if dataclasses.is_dataclass(value):
            fields = [field for field in dataclasses.fields(value) if _is_set(value, field)]
            held = {field.name: getattr(value, field.name) for field in fields}
        elif repr(value) != object.__repr__(value):
            return _ADDRESS.sub("", repr(value))
        else:
            held = dict(getattr(value, "__dict__", {}))
        if id(value) in self._open:  # it holds itself
            return f"{kind.__qualname__}(...)"
        self._open.append(id(value))
        text = f"{kind.__qualname__}({', '.join(self._pairs(held))})"
        self._open.pop()
        return text

    def _pairs(self, held: Mapping[str, Any]) -> list[str]:
        return [f"{name}={self.describe(value)}" for name, value in sorted(held.items())]


def _unwrapped(factory: Any) -> Iterator[Any]:
    yield factory
    while (factory := getattr(factory, "__wrapped__", None)) is not None:
        yield factory


def _is_set(value: Any, field: dataclasses.Field) -> bool:
    """Whether a field is not at its default: later releases may have more fields."""
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return default is dataclasses.MISSING or getattr(value, field.name) != default


def _own(names: set[str]) -> set[str]:
    """Those of the modules that have no version, and what they are made of."""
    found: set[str] = set()
    pending = {name for name in names if name.split(".")[0] not in _VERSIONED}
    while pending:
        name = pending.pop()
        found.add(name)
        top = name.split(".")[0]
        for value in list(vars(sys.modules[name]).values()) if name in sys.modules else ():
            other = value.__name__ if isinstance(value, types.ModuleType) else None
            other = other or getattr(value, "__module__", None)
            if isinstance(other, str) and other not in found and _belongs(other, top):
                pending.add(other)
    return found


def _belongs(name: str, top: str) -> bool:
    """Whether a module is of the package `top`, or lies where code is edited."""
    module = sys.modules.get(name)
    if module is None or name.split(".")[0] in _VERSIONED:
        return False
    installed = {"site-packages", "dist-packages"} & set(_file(name).parts)
    return name.split(".")[0] == top or (bool(_file(name).name) and not installed)


def _file(name: str) -> pathlib.Path:
    return pathlib.Path(getattr(sys.modules.get(name), "__file__", None) or "")


def _code(name: str) -> str:
    return digest(_file(name).read_bytes()) if _file(name).is_file() else "no file"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."
