"""Refuses bindings that nothing reads: a line without effect is a mistake."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gin

from mtard_tf import registry
from mtard_tf.config.statements import MACRO, REFERENCE, Key, statements
from mtard_tf.experiment.stage import Stage

# Module of the selectors in `bindable`, whatever file they are defined in.
PACKAGE = "mtard_tf"
# Selectors that make lists of stages.
_LISTS = ("replicates", "chain", "temperature_sweep")
# Similarity from which an unused scope in a shared file counts as a misspelt stage.
_MISSPELT = 0.85
# Kind of selector -> a binding that uses one.
_USES = {
    "models": "Stage.model = @{}",
    "distillers": "Stage.distiller = @{}",
    "optimizers": "Stage.optimizer = @{}",
    "datasets": "Experiment.dataset = @{}",
    "schedules": "Stage.learning_rate_schedule = @{}()",
    "averaging": "Stage.averaging = @{}()",
    "attacks": "Stage.validation_attack = @{}()",
    "chain": "Experiment.stages = (@{}(),)",
    "replicates": "Experiment.stages = (@{}(),)",
    "temperature_sweep": "Experiment.stages = (@{}(),)",
}

# Kinds that a run reads while it is built; a user's own configurables may be read later.
_KINDS = {PACKAGE, "gin", "schedules", "averaging", "optimizers", *registry.KINDS}

# Bindings that must be read: those of the command line, and those of the last file itself.
_given: set[Key] = set()
_own: set[Key] = set()
REQUIRED = (_given, _own)


def require(last_file: str | None, given: Sequence[str]) -> None:
    """Notes which bindings of the parsed configuration must be read.

    Those are the bindings of the command line and of the last file itself; the file's only if the
    command line does not replace a part (`@...`) or the stages that the file was written for.
    Files that are included or given before are shared, and may bind what a run does not use.

    Args:
      last_file: its text; None if its bindings need not be read.
      given: bindings of the command line.
    """
    added = dict(statements("\n".join(given)))
    swapped = any(
        REFERENCE in flat(value) or short(key[1]) in _LISTS or key[2] == "stages"
        for key, value in added.items()
    )
    own = [] if last_file is None or swapped else [key for key, _ in statements(last_file)]
    _given.clear()
    _own.clear()
    _given.update(added)
    _own.update(own)


def check_scopes(stages: Sequence[Stage]) -> None:
    """Refuses bindings in a scope that no stage and no reference has.

    Raises:
      ValueError: names the nearest scope.
    """
    used = {tuple(stage.scope.split("/")) for stage in stages}
    used |= {tuple(r.scopes) for r in gin.config.iterate_references(gin.config._CONFIG)}
    known = {scope[:end] for scope in used for end in range(1, len(scope) + 1)}
    names = {stage.name: stage.scope for stage in stages if stage.scope != stage.name}
    tops = sorted({stage.scope.split("/")[0] for stage in stages})
    for scope, selector, parameter in _bound():
        if selector == MACRO or not scope or tuple(scope.split("/")) in known:
            continue
        if scope in names:
            raise ValueError(
                f"{scope}/... configures nothing: the scope of this stage is {names[scope]}; "
                f"write {names[scope]}/..."
            )
        key, top = (scope, selector, parameter), scope.split("/")[0]
        strict = key in _given or (key in _own and not _described(scope))
        near = difflib.get_close_matches(top, tops, 1, 0.5 if strict else _MISSPELT)
        if strict or (near and not _described(scope)):
            hint = f"did you mean {near[0]!r}? " if near and near[0] != top else ""
            raise ValueError(
                f"{text(key)} configures nothing: no stage has the scope {scope!r}; {hint}scopes: "
                f"{', '.join(tops)}."
            )


def check_read(stages: Sequence[Stage], apart_from: str = "") -> None:
    """Refuses bindings that nothing has read; call it once the whole experiment has been built.

    Args:
      stages: all stages of the experiment, for the advice in the message.
      apart_from: a kind of selectors that is not checked, such as "datasets".

    Raises:
      ValueError: names the binding, the nearest that is read, and what to bind instead.
    """
    read = {
        (scope, selector): set(parameters)
        for (scope, selector), parameters in gin.config._OPERATIVE_CONFIG.items()
    }
    macros = {"/".join(r.scopes) for r in gin.config.iterate_references(gin.config._CONFIG)}
    for key in _bound():
        scope, selector, parameter = key
        kind = selector.partition(".")[0]
        if key not in _given | _own or kind not in _KINDS or kind == apart_from:
            continue
        if scope in macros if selector == MACRO else _left_out(scope, stages):
            continue
        # A scope inherits the bindings of the scopes that enclose it.
        heirs = [at for at, of in read if of == selector and f"{at}/".startswith(f"{scope}/")]
        if not scope:
            heirs = [at for at, of in read if of == selector]
        reached = [heir for heir in heirs if parameter in read[heir, selector]]
        if not reached:
            used = sorted(at for at, of in read if of == selector)
            raise ValueError(_unread(key, bool(heirs), used, stages))
        nearer = [_nearer(key, heir) for heir in reached]
        if key in _given and all(nearer):
            others = " and ".join(sorted({text(other) for other in nearer if other}))
            raise ValueError(
                f"{text(key)} has no effect, overridden by {others}; give that instead."
            )


def _nearer(key: Key, at: str) -> Key | None:
    """The binding of a scope within the key's that holds at `at` in its place, if there is one."""
    scope, selector, parameter = key
    within = [
        (inner, selector, parameter)
        for inner, of, named in _bound()
        if (of, named) == (selector, parameter)
        and len(inner) > len(scope)
        and f"{at}/".startswith(f"{inner}/")
    ]
    return max(within, key=lambda other: len(other[0]), default=None)


def text(key: Key) -> str:
    """The left side of a binding, as written in a run file."""
    scope, selector, parameter = key
    if selector == MACRO:
        return scope
    return f"{scope}/{short(selector)}.{parameter}" if scope else f"{short(selector)}.{parameter}"


def short(selector: str) -> str:
    """A selector without the package."""
    return selector.removeprefix(f"{PACKAGE}.")


def flat(value: Any) -> Iterator[Any]:
    """The values within a bound value, those in dicts and lists included."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple, set)):
        for inner in value:
            yield from flat(inner)
    else:
        yield value


def _unread(key: Key, called: bool, used: Sequence[str], stages: Sequence[Stage]) -> str:
    """The line for a binding without effect.

    Args:
      key: of the binding.
      called: whether its selector was called in its scope, with the argument given by the caller.
      used: scopes in which the selector was called.
      stages: of the experiment.
    """
    scope, selector, parameter = key
    name = short(selector)
    if selector == MACRO:
        return f"The macro {scope} is set and %{scope} is used nowhere; leave it out."
    if called:
        return f"{text(key)} has no effect: the code that builds {name} here sets it; leave it out."
    if used:
        near = (difflib.get_close_matches(scope, used, 1, 0.0) or used)[0]
        return (
            f"{text(key)} has no effect: {name} is not used there; did you mean "
            f"{text((near, selector, parameter))}?"
        )
    if name == "Suite":
        return f"{text(key)} has no effect on a run; mtard-eval reads it: --suite=FILE.gin."
    inside = [s for s in stages if f"{s.scope}/".startswith(f"{scope}/")] if scope else stages
    return f"{text(key)} has no effect: nothing uses {name}; {_instead(key, list(inside))}"


def _instead(key: Key, stages: Sequence[Stage]) -> str:
    """What to bind instead; without stages (a suite, a model), which selectors are used."""
    scope, selector, parameter = key
    name, prefix = short(selector), f"{scope}/" if scope else ""
    kind = name.partition(".")[0]
    for stage in stages:
        distiller = registry.selector(stage.distiller)
        if distiller is None:
            continue
        takes = inspect.signature(stage.distiller).parameters
        if kind == "attacks" and "attack" in takes:
            return f"bind {prefix or f'{stage.scope}/'}{distiller}.attack = @{name}()."
        if kind == "distillers" and parameter in takes:
            return f"did you mean {prefix}{distiller}.{parameter}?"
    if not stages:
        used = sorted({at for _, at in gin.config._OPERATIVE_CONFIG if at.startswith(f"{kind}.")})
        return f"used are: {', '.join(used) or 'none'}."
    instead = _USES.get(kind, "").format(name)
    return f"bind {prefix if instead.startswith('Stage') else ''}{instead}, or leave it out."


def _bound() -> Iterable[Key]:
    for (scope, selector), parameters in gin.config._CONFIG.items():
        for parameter in parameters:
            yield scope, selector, parameter


def _described(scope: str) -> bool:
    """Whether a scope configures a whole stage, which `Experiment.stages` may leave out."""
    return "distiller" in gin.config._CONFIG.get((scope, f"{PACKAGE}.Stage"), {})


def _left_out(scope: str, stages: Sequence[Stage]) -> bool:
    tops = {stage.scope.split("/")[0] for stage in stages}
    return _described(scope) and scope.split("/")[0] not in tops
