"""The configuration as text with complete names, which plugins registered later do not change.

gin writes the shortest unique names: a later plugin with a second `pgd` would make them ambiguous.
"""

from __future__ import annotations

import pprint
from typing import Any

import gin
from gin import config_parser

from mtard_tf.registry import RESERVED

_WIDTH = 80


def whole() -> str:
    """All bindings, with includes and macros, under complete names."""
    return _complete(gin.config_str())


def operative() -> str:
    """The arguments, bound or default, of every configurable that was called."""
    return _complete(gin.operative_config_str())


class _Text:
    """Text whose `repr` is itself, for printing within dicts and tuples."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _References(config_parser.ParserDelegate):
    """Turns parsed references into text with complete names."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> _Text:
        return _reference(gin.config.ConfigurableReference(scoped_configurable_name, evaluate))

    def macro(self, macro_name: str) -> _Text:
        return _Text(f"%{macro_name}")


def _complete(text: str) -> str:
    if "__gin__" in text:
        return text  # gin's dynamic registration: names are those of modules already
    imports: list[str] = []
    macros: list[str] = []
    groups: dict[tuple, list[str]] = {}
    for statement in config_parser.ConfigParser(text, _References()):
        if isinstance(statement, config_parser.ImportStatement):
            imports.append(statement.format())
        elif not statement.arg_name:  # NAME = ..., a macro
            key = "/".join(filter(None, (statement.scope, statement.selector)))
            macros.append(_line(key, _value(f"{key}/gin.macro.value", statement.value)))
        else:
            selector = _selector(gin.config.ConfigurableReference(statement.selector, False))
            full = "/".join(filter(None, (statement.scope, selector)))
            value = _value(f"{full}.{statement.arg_name}", statement.value)
            place = (selector.lower().split(".")[::-1], statement.scope.split("/")[::-1])
            groups.setdefault((*map(tuple, place), full), []).append(
                _line(f"{full}.{statement.arg_name}", value)
            )
    blocks = [sorted(imports), macros, *(groups[key] for key in sorted(groups))]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _value(key: str, parsed: Any) -> Any:
    """The bound value itself: gin sorts the dicts that it prints, and the order of roles counts."""
    try:
        return _printable(gin.query_parameter(key))
    except ValueError:
        return parsed  # a default, of the operative configuration


def _printable(value: Any) -> Any:
    if isinstance(value, gin.config.ConfigurableReference):
        return _reference(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_printable, value))
    return value


def _reference(reference: Any) -> _Text:
    scopes = "/".join(reference.scopes)
    if reference.configurable.selector in ("gin.macro", "gin.constant") and reference.evaluate:
        return _Text(f"%{scopes}")
    name = "/".join((*reference.scopes, _selector(reference)))
    return _Text(f"@{name}{'()' if reference.evaluate else ''}")


def _selector(reference: Any) -> str:
    """The complete name; for a reserved word such as `Stage`, the word itself.

    Plugins cannot register reserved words, and the modules that define them may move.
    """
    selector = reference.configurable.selector
    name = selector.rpartition(".")[2]
    return name if name in RESERVED else selector


def _line(key: str, value: Any) -> str:
    text = pprint.pformat(value, width=_WIDTH - 4, sort_dicts=False)
    if "\n" not in text and len(key) + len(text) + 3 <= _WIDTH:
        return f"{key} = {text}"
    return f"{key} = \\\n" + "\n".join(f"    {line}" for line in text.split("\n"))
