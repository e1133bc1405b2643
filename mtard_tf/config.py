"""Gin files to an experiment: search path, what can be bound, and errors in one line."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Sequence

import gin

from mtard_tf import registry
from mtard_tf.bindable import CONFIGURABLE
from mtard_tf.bindings import check_values
from mtard_tf.experiment import Experiment
from mtard_tf.gin_errors import ConfigError, one_line
from mtard_tf.suites import Suite


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
    check_values()


def text() -> str:
    """The whole configuration as one gin file, with every include and macro in it."""
    return gin.config_str()


def experiment() -> Experiment:
    """The experiment that the parsed configuration describes.

    Raises:
      ConfigError: a value that the experiment or one of its stages refuses.
    """
    with one_line():
        described = CONFIGURABLE["Experiment"]()
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
        return CONFIGURABLE["Suite"]()


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


def _check_exists(file: str) -> None:
    folder = pathlib.Path(config_folder())
    if os.path.exists(file) or (folder / file).exists():
        return
    known = [str(path.relative_to(folder)) for path in folder.rglob("*.gin")]
    raise ConfigError(registry.unknown_name("config file", file, known))
