"""gin's errors of many lines as one line that names the nearest known name."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import re
import tokenize
from collections.abc import Iterator

import gin

from mtard_tf import registry
from mtard_tf.config.bindable import BINDABLE
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.processes.preemption import Preempted

# Arguments that a stage gives to models, distillers and optimizers.
GIVEN_LATER = {"image_shape", "num_classes", "student", "learning_rate"}

# Settings of a training that a stage gives its distiller.
_OF_CONTEXT = {field.name for field in dataclasses.fields(TrainingContext)}


class ConfigError(ValueError):
    """An invalid configuration. The message is one line."""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turns gin's errors into a `ConfigError` of one line, with the nearest known name."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(" ".join(str(error).split())) from error  # gin may have added the place
    except tokenize.TokenError as error:
        what, (line, _) = error.args
        raise ConfigError(f"A value does not end: {what}, line {line}.") from error
    except RecursionError as error:
        raise ConfigError(
            "A value of the run file is nested too deeply, or macros name each other; write it out."
        ) from error
    except (
        *(ValueError, TypeError, RuntimeError, SyntaxError, OSError, NameError, ImportError),
        KeyError,
    ) as error:
        raise ConfigError(explain(error)) from error
    except Preempted:
        raise
    except (Exception, SystemExit) as error:  # raised by a user's module
        # TensorFlow wraps the message in "{{function_node ...}} ... [Op:...] name:".
        words = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", " ".join(str(error).split()))
        raise ConfigError(
            f"What the run file imports or calls ended with {type(error).__name__} ({words}); "
            "--debug shows where."
        ) from error


def explain(error: Exception) -> str:
    """One line for an error raised within gin, which appends the calls to the message."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return _syntax(error)
    if isinstance(error, ImportError):
        return (
            f"{message.split(' In ')[0]}; the run file imports it: put the folder it is in on "
            "PYTHONPATH, or install it."
        )
    place = re.search(r'In (file "[^"]+", line \d+|bindings string line \d+|[\w./-]+:\d+)', message)
    where = f" ({place.group(1)})" if place else ""
    if match := re.search(r"Ambiguous selector '([\w.]+)', matches \[(.*?)\]", message):
        one, several = match.group(1), match.group(2).replace("'", "")
        return f"{one} may be any of {several}; write the whole name{where}."
    if match := re.search(r"No configurable matching (?:reference )?'@?([\w./]+)", message):
        return registry.unknown_name("name", match.group(1), _selectors()) + where
    if match := re.search(
        r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", message
    ):
        selector, parameter = match.groups()
        if selector.startswith("distillers.") and parameter in _OF_CONTEXT:
            return _set_by_stage(f"{selector}.{parameter}", where)
        known = _parameters(selector)
        return registry.unknown_name(f"parameter of {selector}", parameter, known) + where
    if match := re.search(r"Configurable '([\w.]+)' has denylisted kwarg '(\w+)'", message):
        return _set_by_stage(".".join(match.groups()), where)
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
        r"No values supplied by Gin or caller for arguments: (\[.*?\]).*?"
        r"In call to configurable '([\w.]+)' \([^()]*\)(?: in scope '([\w/.]+)')?",
        message,
    ):
        return _missing(re.findall(r"'(\w+)'", match.group(1)), match.group(2), match.group(3))
    return message.split(" In call to configurable")[0]


def _syntax(error: SyntaxError) -> str:
    file = (error.filename or "binding").replace("<tokenize>", "run file")
    place = f"{file}, line {error.lineno}"
    sum_ = re.search(r"=\s*((-?[\d.]+)\s*([-+*/]{1,2})\s*(-?[\d.]+))\s*(#.*)?$", error.text or "")
    if sum_ is None:
        return f"{place}: {' '.join(str(error.msg).split())}"
    written, left, operator, right = sum_.groups()[:4]
    value = ""
    if operator == "/" and float(right):
        value = f" {float(left) / float(right)!r}, or for an epsilon '{left}/{right}' in quotes"
    return (
        f"{place}: {written} is a Python expression, which gin does not evaluate; write the number"
        f"{value}."
    )


def _missing(parameters: list[str], name: str, scope: str | None) -> str:
    """The line for a call that lacks arguments.

    Args:
      parameters: the missing ones.
      name: of the configurable, without its kind.
      scope: of the call.
    """
    selector = next((s for s in _selectors() if s.rpartition(".")[2] == name), name)
    if set(parameters) & GIVEN_LATER:
        return (
            f"@{selector}() is called before there is {' and '.join(parameters)}; leave the "
            f"brackets out: @{selector}."
        )
    missing = f"{selector}.{parameters[0]}"
    kind = {"model": "@models.NAME", "distiller": "@distillers.NAME", "dataset": "@datasets.NAME"}
    example = f"{missing} = {kind.get(parameters[0], '...')}"
    alone = f" ({scope}/{missing} for it alone)" if scope else ""
    where = f" for {scope}" if scope else ""
    return f"{missing} is not set{where}; add {example}{alone} to the run file, or with --gin."


def _set_by_stage(name: str, where: str) -> str:
    return f"{name} is set by the stage; set Stage or Experiment instead{where}."


def _selectors() -> list[str]:
    plugins = [f"{kind}.{name}" for kind in registry.KINDS for name in registry.names(kind)]
    return [*plugins, *BINDABLE]


def _parameters(selector: str) -> list[str]:
    kind, _, name = selector.rpartition(".")
    target = BINDABLE.get(selector) or registry.get(kind, name)
    hidden = registry.SET_BY_STAGE if kind == "distillers" else ()
    return [name for name in inspect.signature(target).parameters if name not in hidden]
