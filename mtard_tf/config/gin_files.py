"""Gin files as experiments: search path, bindings of the command line, errors of one line."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

import gin

from mtard_tf import registry
from mtard_tf.auditing.suite import Suite
from mtard_tf.config import bindings, canonical_text, data_of_run, plugin_files
from mtard_tf.config.bindable import CONFIGURABLE
from mtard_tf.config.binding_values import check_values
from mtard_tf.config.gin_errors import ConfigError, one_line
from mtard_tf.experiment.experiment import Experiment


def config_folder() -> str:
    """The folder of the `.gin` files: installed beside the package, or the checkout's `gin/`."""
    installed = importlib.util.find_spec("mtard_tf.configs")
    if installed and installed.submodule_search_locations:
        return list(installed.submodule_search_locations)[0]
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.path.join(os.path.dirname(package), "gin")


def parse(files: Sequence[str], given: Sequence[str] = (), *, finished: bool = False) -> None:
    """Reads gin files, then bindings, later ones overriding; replaces the current configuration.

    A file is looked for in the working directory, then in the package's `gin/` folder; an included
    file first beside the file that includes it.

    Args:
      files: paths; `~` is the home directory.
      given: bindings such as `student/Stage.epochs = 5`.
      finished: the file was written by a run, so unread bindings in it are allowed.

    Raises:
      ConfigError: a file, selector, parameter or macro that does not exist, a required macro that
        is not set, or a value that its parameter does not take.
    """
    for line in registry.broken().values():
        print(f"warning: {line}", file=sys.stderr)
    gin.clear_config()
    plugin_files.load_bound("\n".join(given), pathlib.Path())
    if not files:
        raise ConfigError(
            "No configuration was given; use --config=FILE, such as --config=quickstart.gin."
        )
    with one_line(), _reader():
        gin.parse_config_files_and_bindings(list(files), list(given), finalize_config=False)
        text = gin.config_str()
    missing = re.findall(r"^(\w+) = %gin\.REQUIRED", text, re.M)
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} must be set; add --gin='{missing[0]} = ...' or a line to your "
            "file."
        )
    check_values()
    bindings.require(None if finished else _find(files[-1]).read_text("utf-8"), given)


def text() -> str:
    """The whole configuration as one gin file: includes inlined, macros kept."""
    return canonical_text.whole()


def experiment() -> Experiment:
    """The experiment that the parsed configuration describes.

    Raises:
      ConfigError: a value that the experiment or one of its stages refuses.
    """
    with one_line():
        described = CONFIGURABLE["Experiment"]()
        bindings.check_scopes(described.stages)
    return described


def suite(name: str | Suite) -> Suite:
    """The attack suite of that name in `suites/`, or of a `.gin` file; or the one that is given.

    A name replaces the current configuration, as `parse` does.

    Raises:
      ConfigError: no such suite, or an invalid one.
    """
    if not isinstance(name, str):
        return name
    if not name.endswith(".gin"):
        known = [path.stem for path in pathlib.Path(config_folder(), "suites").glob("*.gin")]
        if name not in known:
            raise ConfigError(registry.unknown_name("suite", name, known))
        name = f"suites/{name}.gin"
    parse([name])
    with one_line():
        made = CONFIGURABLE["Suite"]()
        bindings.check_read(())
    return made


def start_or_resume(
    run_dir: pathlib.Path, files: Sequence[str], given: Sequence[str]
) -> Experiment:
    """The experiment of the given files, or, without any, that of the run directory.

    Raises:
      ConfigError: neither is given, or as `parse`.
    """
    if not files and not given and (run_dir / "config.gin").exists():
        return of_run(run_dir)
    parse(files, given)
    return data_of_run.resolve(experiment(), run_dir)


def of_run(run_dir: pathlib.Path) -> Experiment:
    """The experiment of a run directory.

    Raises:
      ConfigError: the directory holds no run.
    """
    path = run_dir / "config.gin"
    if (run_dir / "experiment.json").exists():
        raise ConfigError(
            f"{run_dir} holds a run that was begun from Python; repeat the call there, or use "
            "mtard_tf.audit and mtard_tf.export, or --model=FILE, on its student.keras."
        )
    if not path.exists():
        raise ConfigError(f"{run_dir} holds no run (no config.gin); run mtard-train first.")
    plugin_files.load_kept(run_dir)
    parse([str(path.resolve())], finished=True)
    return data_of_run.resolve(experiment(), run_dir)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Starts from an empty configuration, and restores the caller's afterwards."""
    own = gin.config  # which has no public access to these
    parts: list[Any] = [own._CONFIG, own._SINGLETONS, own._OPERATIVE_CONFIG, own._IMPORTS]
    parts += bindings.REQUIRED
    before, locked = [copy.copy(part) for part in parts], gin.config_is_locked()
    gin.clear_config()
    bindings.require(None, ())
    try:
        yield
    finally:
        for part, content in zip(parts, before, strict=True):
            part.clear()
            part.update(content)
        own._set_config_is_locked(locked)


# The files being parsed, each included by the one before.
_reading: list[pathlib.Path] = []


def _find(name: str) -> pathlib.Path:
    """The file of that name, looked for as `parse` says.

    Raises:
      ConfigError: not found; the message names the nearest file of the package.
    """
    path, folder = pathlib.Path(name).expanduser(), pathlib.Path(config_folder())
    places = [*(beside.parent for beside in _reading[-1:]), pathlib.Path(), folder]
    for place in places:
        if (place / path).is_file():
            return place / path
    known = [str(path.relative_to(folder)) for path in folder.rglob("*.gin")]
    raise ConfigError(registry.unknown_name("config file", name, known))


@contextlib.contextmanager
def _open(name: str) -> Iterator[IO[str]]:
    path = _find(name)
    if path.resolve() in _reading:
        raise ConfigError(f"{path} includes itself; leave one of the includes out.")
    _reading.append(path.resolve())
    try:
        text = path.read_text(encoding="utf-8")
        plugin_files.load_bound(text, path.parent)
        file = io.StringIO(text)
        file.name = str(path)  # gin's messages say it
        yield file
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8; give a gin file.") from error
    finally:
        _reading.pop()


@contextlib.contextmanager
def _reader() -> Iterator[None]:
    """Inside, gin opens files by `_open`; its own reader looks in the working directory alone."""
    ours = (_open, lambda name: True)
    gin.config._FILE_READERS.insert(0, ours)
    try:
        yield
    finally:
        gin.config._FILE_READERS.remove(ours)
