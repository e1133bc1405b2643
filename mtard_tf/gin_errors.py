"""gin's many-line errors as one line that names the nearest known name."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
import tokenize
from collections.abc import Iterator

import gin

from mtard_tf import registry
from mtard_tf.bindable import BINDABLE


class ConfigError(ValueError):
    """A configuration that means nothing. The message is one line."""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turns gin's many-line errors into one line that names the nearest known name."""
    try:
        yield
    except ConfigError:
        raise
    except tokenize.TokenError as error:
        what, (line, _) = error.args
        raise ConfigError(f"A value does not end: {what}, line {line}.") from error
    except (ValueError, TypeError, RuntimeError, SyntaxError, OSError, NameError) as error:
        raise ConfigError(_explain(error)) from error


def _explain(error: Exception) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{error.filename or 'binding'}, line {error.lineno}: {error.msg}"
    place = re.search(r'In (file "[^"]+", line \d+|bindings string line \d+|[\w./-]+:\d+)', message)
    where = f" ({place.group(1)})" if place else ""
    if match := re.search(r"No configurable matching (?:reference )?'@?([\w./]+)", message):
        return registry.unknown_name("name", match.group(1), _selectors()) + where
    if match := re.search(
        r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", message
    ):
        selector, parameter = match.groups()
        known = _parameters(selector)
        return registry.unknown_name(f"parameter of {selector}", parameter, known) + where
    if match := re.search(r"Configurable '([\w.]+)' has denylisted kwarg '(\w+)'", message):
        name = ".".join(match.groups())
        return f"{name} is set by the stage; set Stage or Experiment instead{where}."
    if match := re.search(r"In call to configurable 'macro' .*? in scope '([\w./]+)'", message):
        name = match.group(1)
        near = difflib.get_close_matches(name, re.findall(r"^(\w+) = ", gin.config_str(), re.M), 1)
        hint = f"did you mean %{near[0]}? Otherwise " if near else ""
        return f"The macro %{name} is used but not set; {hint}add a line {name} = ..."
    if match := re.search(
        r"Required bindings for `([\w.]+)` not provided in config: (\[.*?\])", message
    ):
        return f"{match.group(1)} needs {match.group(2)}; set it in the run file or with --gin."
    if match := re.search(
        r"No values supplied by Gin or caller for arguments: (\[.*?\]).*"
        r"In call to configurable '([\w.]+)' .*?(?:in scope '([\w/]+)')?$",
        message,
    ):
        missing, selector, scope = match.groups()
        needy = f"{scope}/{selector}" if scope else selector
        return f"{needy} needs {missing}; set it in the run file or with --gin."
    return message.split(" In call to configurable")[0]


def _selectors() -> list[str]:
    plugins = [f"{kind}.{name}" for kind in registry.KINDS for name in registry.names(kind)]
    return [*plugins, *BINDABLE]


def _parameters(selector: str) -> list[str]:
    kind, _, name = selector.rpartition(".")
    target = BINDABLE.get(selector) or registry.get(kind, name)
    return list(inspect.signature(target).parameters)
