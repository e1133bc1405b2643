"""A relative `data_dir` means the folder in which the run was begun, wherever a command is run."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pathlib
from typing import Any

import gin

from mtard_tf import files, registry
from mtard_tf.experiment.experiment import Experiment


def found(experiment: Experiment, run_dir: pathlib.Path) -> Experiment:
    """The experiment, with the `data_dir` of its data set taken from where the run was begun.

    `environment.json` says where that was. What is no longer there is looked for, as it is in a run
    that is about to begin, in the working directory.

    Args:
      experiment: as configured; the data set's binding is read from gin.
      run_dir: of the run.
    """
    begun = _begun(run_dir)
    key = f"{registry.selector(experiment.dataset)}.data_dir"
    try:
        bound = gin.query_parameter(key)
    except ValueError:  # not bound, or no data set of the registry
        return experiment
    given = copy.deepcopy(bound)  # that is what a macro's value is taken by
    if begun is None or not isinstance(given, str) or not given or given.startswith("~"):
        return experiment
    there = begun / given  # an absolute one stays what it is
    if not there.is_dir():
        return experiment

    @functools.wraps(experiment.dataset)
    def dataset(*args: Any, **kwargs: Any) -> Any:
        # As an argument it would leave the binding unread, which is refused.
        gin.bind_parameter(key, str(there))
        try:
            return experiment.dataset(*args, **kwargs)
        finally:
            gin.bind_parameter(key, bound)

    return dataclasses.replace(experiment, dataset=dataset)


def _begun(run_dir: pathlib.Path) -> pathlib.Path | None:
    try:
        folder = files.read_json(run_dir / "environment.json")["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not begun, or by something else
    return pathlib.Path(folder) if isinstance(folder, str) else None
