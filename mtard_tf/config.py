"""Gin files to an experiment: search path, what can be bound, and errors in one line."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin

from mtard_tf import averaging, chains, optimizers, registry, schedules, stage_lists
from mtard_tf.data.image_data import ImageData
from mtard_tf.experiment import Experiment
from mtard_tf.stage import Stage
from mtard_tf.suites import Suite


class ConfigError(ValueError):
    """A configuration that means nothing. The message is one line."""


def _described(
    dataset: Callable[[], ImageData],
    stages: stage_lists.Stages,
    epsilon: float = 8 / 255,
    norm: str = "linf",
    seed: int = 0,
    strategy: str = "one_device",
) -> Experiment:
    """The experiment of a run file; a stage's name is the gin scope that configures it."""
    return Experiment(dataset, tuple(stage_lists.flat(stages)), epsilon, norm, seed, strategy)


# What run files bind besides plugins.
_BINDABLE: dict[str, Callable[..., Any]] = {
    "Experiment": _described,
    "Stage": Stage,
    "Suite": Suite,
    "replicates": stage_lists.replicates,
    "chain": chains.chain,
    "temperature_sweep": chains.temperature_sweep,
    **{f"averaging.{c.__name__}": c for c in averaging.RULES},
    **{f"schedules.{c.__name__}": c for c in schedules.SCHEDULES},
    **{f"optimizers.{name}": factory for name, factory in optimizers.OPTIMIZERS.items()},
}
# The classes stay plain; gin gets a wrapper of its own.
_configurable = {
    selector: gin.external_configurable(
        target, name=selector.split(".")[-1], module=selector.rpartition(".")[0] or None
    )
    for selector, target in _BINDABLE.items()
}


def config_folder() -> str:
    """The folder of the `.gin` files: installed beside the package, or the checkout's `gin/`."""
    installed = importlib.util.find_spec("mtard_tf.configs")
    if installed and installed.submodule_search_locations:
        return list(installed.submodule_search_locations)[0]
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "gin")


def parse(files: Sequence[str], bindings: Sequence[str] = ()) -> None:
    """Reads gin files (later ones win), then bindings; replaces whatever was configured before.

    Args:
      files: paths, relative to the working directory or to the package's own `gin/` folder.
      bindings: such as `student/Stage.epochs = 5`.

    Raises:
      ConfigError: a file, selector, parameter or macro that does not exist, or a required macro
        that is not set.
    """
    for line in registry.broken().values():
        print(f"warning: {line}", file=sys.stderr)
    gin.clear_config()
    if not files:
        raise ConfigError(
            "No configuration was given; use --config=FILE, such as --config=quickstart.gin."
        )
    gin.add_config_file_search_path(config_folder())
    for file in files:
        _check_exists(file)
    with one_line():
        gin.parse_config_files_and_bindings(list(files), list(bindings), finalize_config=False)
        text = gin.config_str()
    missing = re.findall(r"^(\w+) = %gin\.REQUIRED", text, re.M)
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} must be set; add --gin='{missing[0]} = ...' or a line to your "
            "file."
        )


def text() -> str:
    """The whole configuration as one gin file, with every include and macro in it."""
    return gin.config_str()


def experiment() -> Experiment:
    """The experiment that the parsed configuration describes.

    Raises:
      ConfigError: a value that the experiment or one of its stages refuses.
    """
    with one_line():
        described = _configurable["Experiment"]()
    for built in described.stages:
        if built.scope != built.name and re.search(rf"^{re.escape(built.name)}/", text(), re.M):
            raise ConfigError(
                f"{built.name}/... configures nothing: the scope of this stage is {built.scope}; "
                f"write {built.scope}/..."
            )
    return described


def suite(name: str) -> Suite:
    """The attack suite of that name in `suites/`, or of a `.gin` file.

    Replaces whatever was configured before, as `parse` does.

    Raises:
      ConfigError: no such suite, or one that means nothing.
    """
    if not name.endswith(".gin"):
        known = [path.stem for path in pathlib.Path(config_folder(), "suites").glob("*.gin")]
        if name not in known:
            raise ConfigError(registry.unknown_name("suite", name, known))
        name = f"suites/{name}.gin"
    parse([name])
    with one_line():
        return _configurable["Suite"]()


def begin_or_go_on(
    run_dir: pathlib.Path, files: Sequence[str], bindings: Sequence[str]
) -> Experiment:
    """The experiment of the given files, or, where none are given, the one that the run holds.

    Raises:
      ConfigError: neither, or whatever `parse` refuses.
    """
    if not files and not bindings and (run_dir / "config.gin").exists():
        return of_run(run_dir)
    parse(files, bindings)
    return experiment()


def of_run(run_dir: pathlib.Path) -> Experiment:
    """The experiment that a run directory holds.

    Raises:
      ConfigError: there is no run.
    """
    path = run_dir / "config.gin"
    if not path.exists():
        raise ConfigError(f"{run_dir} holds no run (no config.gin); run mtard-train first.")
    parse([str(path.resolve())])
    return experiment()


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


def _check_exists(file: str) -> None:
    folder = pathlib.Path(config_folder())
    if os.path.exists(file) or (folder / file).exists():
        return
    known = [str(path.relative_to(folder)) for path in folder.rglob("*.gin")]
    raise ConfigError(registry.unknown_name("config file", file, known))


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
        near = difflib.get_close_matches(name, re.findall(r"^(\w+) = ", text(), re.M), 1)
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
    return [*plugins, *_BINDABLE]


def _parameters(selector: str) -> list[str]:
    kind, _, name = selector.rpartition(".")
    target = _BINDABLE.get(selector) or registry.get(kind, name)
    return list(inspect.signature(target).parameters)
