"""Flags made from a dataclass of `commands.requests`; the kind of a flag is that of its field."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from absl import flags

from mtard_tf.bin import paths

Request = TypeVar("Request")


def define(request: type[Request]) -> Callable[[], Request]:
    """Defines the flags of a dataclass; returns what makes one, once they are parsed."""
    kinds = typing.get_type_hints(request)
    fields = dataclasses.fields(request)  # type: ignore[arg-type]
    holders = {field.name: _define(field, _kind(kinds[field.name])) for field in fields}
    return lambda: request(**{name: holder.value for name, holder in holders.items()})


def _kind(hint: Any) -> Any:
    """The type of a field that may be None; Sequence for any sequence."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return typing.get_origin(hint) or hint


def _define(field: dataclasses.Field, kind: Any) -> flags.FlagHolder[Any]:
    how = field.metadata
    name, help, required = how.get("name", field.name), how["help"], how.get("required", False)
    default: Any = None if required else field.default
    limits = how.get("minimum"), how.get("maximum")
    if how.get("path"):
        return paths.define(name, help, required=required)
    if kind is int:
        return flags.DEFINE_integer(name, default, help, *limits)
    if kind is float:
        return flags.DEFINE_float(name, default, help, *limits)
    if kind is bool:
        return flags.DEFINE_bool(name, default, help)
    if kind is str:
        return flags.DEFINE_string(name, default, help)
    several = flags.DEFINE_list if how.get("commas") else flags.DEFINE_multi_string
    return several(name, list(default), help)
