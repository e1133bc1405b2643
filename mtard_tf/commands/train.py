"""`mtard-train`: starts or resumes a run, on the chosen devices."""

from __future__ import annotations

import functools
import pathlib
import shlex

from mtard_tf.attacks import sharding
from mtard_tf.commands import executors, requests
from mtard_tf.config import gin_files
from mtard_tf.distribute import strategies
from mtard_tf.reporting.run_page import PAGE
from mtard_tf.running import experiment_run, side_by_side


def run(request: requests.Train) -> str:
    """Trains what is not finished; returns the lines to print, none from workers but the chief.

    Raises:
      ValueError: flags that do not go together, or whatever the run refuses; one line.
      Preempted: the process was preempted; the same command resumes.
    """
    run_dir, pools = pathlib.Path(request.run_dir), executors.pools(request)
    described = gin_files.start_or_resume(run_dir, request.config, request.gin)
    if described.divide_cores:
        sharding.divide_cores()
    strategy = strategies.create(
        request.strategy or described.strategy,
        devices=request.devices,
        workers=request.workers,
        index=request.index,
    )
    if request.deterministic:
        strategies.be_deterministic()
    train = experiment_run.run
    if request.jobs > 1 or pools is not None:
        options = ["--deterministic"] if request.deterministic else []
        train = functools.partial(
            side_by_side.run, count=request.jobs, options=options, pools=pools
        )
    stages = train(
        described,
        run_dir,
        gin_files.text(),
        strategy=strategy,
        only=request.only,
        restart=request.restart,
    )
    if not strategies.is_chief(strategy):
        return ""
    lines = [f"{stage['stage']}: {run_dir / stage['stage'] / 'student.keras'}" for stage in stages]
    lines.append(f"Page: {run_dir / PAGE}")
    return "\n".join([*lines, f"Next: mtard-eval --run_dir={shlex.quote(str(run_dir))}"])
