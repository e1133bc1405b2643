"""Resolves a relative path of data against the folder in which the run was started."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pathlib
from typing import Any

import gin

from mtard_tf import files, registry
from mtard_tf.experiment.experiment import Experiment


def resolve(experiment: Experiment, run_dir: pathlib.Path) -> Experiment:
    """The experiment, with its data set's path relative to where the run was started.

    `environment.json` holds that folder. A `data_dir`, or the `path` of `image_folder`, that is not
    there is looked for in the working directory, as in a new run.

    Args:
      experiment: as configured; the binding of the path is read from gin.
      run_dir: the run directory.
    """
    start = _start_folder(run_dir)
    selector = registry.selector(experiment.dataset)
    key = f"{selector}.{'path' if selector == 'datasets.image_folder' else 'data_dir'}"
    try:
        bound = gin.query_parameter(key)
    except ValueError:  # not bound, or no data set of the registry
        return experiment
    given = copy.deepcopy(bound)  # which resolves a macro
    if start is None or not isinstance(given, str) or not given or given.startswith("~"):
        return experiment
    there = start / given  # an absolute one stays what it is
    if not there.is_dir():
        return experiment

    @functools.wraps(experiment.dataset)
    def dataset(*args: Any, **kwargs: Any) -> Any:
        # Bound, not passed: a binding that nothing reads is refused.
        gin.bind_parameter(key, str(there))
        try:
            return experiment.dataset(*args, **kwargs)
        finally:
            gin.bind_parameter(key, bound)

    return dataclasses.replace(experiment, dataset=dataset)


def _start_folder(run_dir: pathlib.Path) -> pathlib.Path | None:
    try:
        folder = files.read_json(run_dir / "environment.json")["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a new run, or the file is damaged
    return pathlib.Path(folder) if isinstance(folder, str) else None
