"""The bindings in a text of gin, read without resolving what they refer to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gin

# (scope, complete selector, parameter): ("student", "mtard_tf.Stage", "epochs"). For a macro: its
# name, MACRO and "value".
Key = tuple[str, str, str]
MACRO = "gin.macro"
REFERENCE = object()  # in place of every "@..."


class _Names(gin.config.config_parser.ParserDelegate):
    """Parses statements without resolving references."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> object:
        return REFERENCE

    def macro(self, macro_name: str) -> None:
        return None


def statements(lines: str) -> Iterator[tuple[Key, Any]]:
    """The bindings in a text, without those of included files, and their values."""
    for statement in gin.config.config_parser.ConfigParser(lines, _Names()):
        if not isinstance(statement, gin.config.config_parser.BindingStatement):
            continue
        scope, name, parameter, value, _ = statement
        if not parameter:
            yield (f"{scope}/{name}" if scope else name, MACRO, "value"), value
        else:
            yield (scope, gin.config._REGISTRY.get_match(name).selector, parameter), value
