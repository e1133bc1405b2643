"""Resolves relative paths of data against the folder in which the run was started."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pathlib
from typing import Any

import gin

from mtard_tf import files, registry
from mtard_tf.experiment.experiment import Experiment

# Factories whose place is called `path`; that of the others is `data_dir`.
_BY_PATH = ("datasets.image_folder", "datasets.npz")


def resolve(experiment: Experiment, run_dir: pathlib.Path) -> Experiment:
    """The experiment, with paths of data and of extra images relative to where the run was started.

    `environment.json` holds that folder. A path that is not there is looked for in the working
    directory, as in a new run.

    Args:
      experiment: as configured; the bindings of the paths are read from gin.
      run_dir: the run directory.
    """
    start = _start_folder(run_dir)
    if start is None:
        return experiment
    stages = [
        stage
        if (extra := _moved(stage.extra, start)) is stage.extra
        else dataclasses.replace(stage, extra=extra)
        for stage in experiment.stages
    ]
    dataset = _moved(experiment.dataset, start)
    return dataclasses.replace(experiment, dataset=dataset, stages=tuple(stages))


def _moved(factory: Any, start: pathlib.Path) -> Any:
    """The factory, that takes from `start` what lies there; itself where there is nothing."""
    selector = registry.selector(factory)
    if selector is None:  # no data set of the registry
        return factory
    parameter = "path" if selector in _BY_PATH else "data_dir"
    bound, there = {}, {}
    for (scope, complete), values in gin.config._CONFIG.items():
        if f".{complete}".endswith(f".{selector}") and parameter in values:
            given = copy.deepcopy(values[parameter])  # which resolves a macro
            if not isinstance(given, str) or not given or given.startswith("~"):
                continue
            path = start / given  # an absolute one stays what it is
            if path.exists():
                key = f"{scope}/{selector}.{parameter}".removeprefix("/")
                bound[key], there[key] = values[parameter], str(path)
    if not there:
        return factory

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        # Bound, not passed: a binding that nothing reads is refused.
        for key, value in there.items():
            gin.bind_parameter(key, value)
        try:
            return factory(*args, **kwargs)
        finally:
            for key, value in bound.items():
                gin.bind_parameter(key, value)

    return make


def _start_folder(run_dir: pathlib.Path) -> pathlib.Path | None:
    try:
        folder = files.read_json(run_dir / "environment.json")["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a new run, or the file is damaged
    return pathlib.Path(folder) if isinstance(folder, str) else None
