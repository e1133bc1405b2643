"""Names to plugins: distillers, attacks, measures, models, datasets; a name is a gin selector.

Built-ins stand in a literal table and are imported on first use. Third parties declare an entry
point in the group `mtard_tf.plugins`, whose value is a module that calls `register` when imported:

    [project.entry-points."mtard_tf.plugins"]
    my_plugin = "my_package.my_module"
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import inspect
import logging
from collections.abc import Callable
from typing import Any

import gin

from mtard_tf.built_ins import BUILT_INS

KINDS = ("distillers", "attacks", "measures", "models", "datasets")
ENTRY_POINTS = "mtard_tf.plugins"

# What run files say without a kind; a plugin of such a name would make all of them ambiguous.
RESERVED = (
    *("Experiment", "Stage", "Suite", "replicates", "chain", "temperature_sweep"),
    *("macro", "constant", "singleton"),
)

# What a stage gives every distiller; a binding of these would be overruled without a word.
SET_BY_STAGE = ("student", "teachers", "context")


class RegistryError(ValueError):
    """A name that is unknown or taken. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A registered plugin.

    Attributes:
      target: the class or function that was registered.
      factory: calls it with what gin binds.
      origin: module that it came from.
    """

    target: Any
    factory: Callable[..., Any]
    origin: str


_plugins: dict[str, dict[str, Plugin]] = {kind: {} for kind in KINDS}
_broken: dict[str, str] = {}


def register(kind: str, name: str) -> Callable[[Any], Any]:
    """Decorator that makes a class or function a plugin, for third parties.

        @register("attacks", "my_attack")
        @dataclasses.dataclass(frozen=True)
        class MyAttack: ...

    Args:
      kind: one of "distillers", "attacks", "measures", "models", "datasets".
      name: its name in `get` and in gin (`@attacks.my_attack`).

    Raises:
      RegistryError: an unknown kind, or a name that another module, or run files, have taken.
    """

    def decorate(target: Any) -> Any:
        _load_built_ins()
        _add(kind, name, target, target.__module__)
        return target

    return decorate


def get(kind: str, name: str) -> Callable[..., Any]:
    """The factory of a plugin; what gin binds to it applies when it is called.

    Raises:
      RegistryError: no such kind or name; the message names the nearest known one.
    """
    return _find(kind, name).factory


def target(kind: str, name: str) -> Any:
    """The class or function itself, as it was registered, without gin.

    Raises:
      RegistryError: no such kind or name.
    """
    return _find(kind, name).target


def check_factory(what: str, value: Any, kind: str) -> None:
    """Refuses, with ValueError, what makes no plugin of a kind: an object, or one of another kind.

    Args:
      what: the binding, for the message.
      value: a factory, a user's own function or a registered one.
      kind: such as "models".
    """
    made_by = selector(value)
    if not callable(value) or (made_by and made_by.partition(".")[0] != kind):
        raise ValueError(
            f"{what} is {f'@{made_by}' if made_by else repr(value)}; give a factory of "
            f"{kind}: @{kind}.NAME, without ()."
        )


def selector(value: Any) -> str | None:
    """The name in gin of a registered factory, as `models.small_cnn`; None for anything else."""
    found = getattr(value, "mtard_selector", None)
    return found if isinstance(found, str) else None


def names(kind: str) -> tuple[str, ...]:
    """The names of all plugins of a kind, sorted."""
    load()
    return tuple(sorted(_table(kind)))


def broken() -> dict[str, str]:
    """Third-party entry points that failed to load: name -> one line that says why."""
    load()
    return dict(_broken)


@functools.cache
def load() -> None:
    """Imports all plugins, once. A third party that fails is logged and does not stop others."""
    _load_built_ins()
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        before = {kind: dict(table) for kind, table in _plugins.items()}
        try:
            entry_point.load()
        except Exception as error:  # whatever a stranger's module raises at import
            _plugins.update(before)
            _broken[entry_point.name] = (
                f"plugin {entry_point.name!r} ({entry_point.value}) was left out: "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            )
            logging.getLogger(__name__).warning(_broken[entry_point.name])


def unknown_name(what: str, name: str, known: list[str]) -> str:
    """One line for a misspelt name: the nearest known one, then all, or all of its module."""
    module = name.rpartition(".")[0]
    known = [other for other in known if module and other.startswith(f"{module}.")] or known
    near = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    lost = f" Also, {'; '.join(_broken.values())}." if _broken else ""
    return f"Unknown {what} {name!r}; {hint}known: {', '.join(sorted(known))}.{lost}"


@functools.cache
def _load_built_ins() -> None:
    for kind, table in BUILT_INS.items():
        for name, path in table.items():
            module, attribute = path.split(":")
            _add(kind, name, getattr(importlib.import_module(module), attribute), module)


def _find(kind: str, name: str) -> Plugin:
    load()
    table = _table(kind)
    if name not in table:
        raise RegistryError(unknown_name(kind[:-1], name, list(table)))
    return table[name]


def _table(kind: str) -> dict[str, Plugin]:
    if kind not in _plugins:
        raise RegistryError(unknown_name("kind of plugin", kind, list(KINDS)))
    return _plugins[kind]


def _add(kind: str, name: str, target: Any, origin: str) -> None:
    table = _table(kind)
    if name in RESERVED:
        raise RegistryError(
            f"{kind}.{name}, of {origin}, is a reserved word of run files; rename it."
        )
    if name in table:
        raise RegistryError(
            f"The name {kind}.{name} is registered twice: by {table[name].origin} and by {origin}; "
            "rename one of them."
        )
    hidden = SET_BY_STAGE if kind == "distillers" else ()
    taken = inspect.signature(target).parameters
    further = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    if missing := [argument for argument in hidden if argument not in taken and not further]:
        raise RegistryError(
            f"{kind}.{name}, of {origin}, does not take {', '.join(missing)}; a distiller is "
            "called with (student, teachers, context=...)."
        )
    factory = gin.external_configurable(
        _factory(target, f"{kind}.{name}"),
        name=name,
        module=kind,
        denylist=list(hidden),
    )
    table[name] = Plugin(target, factory, origin)


def _factory(target: Any, selector: str) -> Callable[..., Any]:
    """A plain function that calls `target`, with its signature.

    Gin would subclass a class, which breaks Keras models (their `get_config` and `build`).
    """

    def make(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    make.__name__ = make.__qualname__ = getattr(target, "__name__", "factory")
    make.__module__ = target.__module__
    make.__doc__ = target.__doc__
    make.mtard_selector = selector  # type: ignore[attr-defined]
    make.__signature__ = inspect.signature(target)  # type: ignore[attr-defined]
    return make
