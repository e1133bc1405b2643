"""`--executor`: whether the jobs of a run are local processes or Ray tasks."""

from __future__ import annotations

import importlib.util

from mtard_tf.commands import requests
from mtard_tf.processes.jobs import JobError, Pools
from mtard_tf.processes.ray_pool import RayPool


def pools(request: requests.Train | requests.Compare) -> Pools | None:
    """Makes the pool of `jobs.run`; None for this machine's processes.

    Raises:
      JobError: another name, a flag of the other executor, or Ray is not installed.
    """
    if request.executor == "local":
        if request.ray_address is not None:
            raise JobError(
                f"--ray_address is {request.ray_address} and --executor local; give --executor=ray."
            )
        return None
    if request.executor != "ray":
        raise JobError(f"--executor is {request.executor!r}; give local or ray.")
    if importlib.util.find_spec("ray") is None:
        raise JobError(
            "--executor=ray needs Ray, which is not installed: pip install 'mtard_tf[cluster]'."
        )
    return lambda count, logs: RayPool(
        count, logs, request.ray_address, request.task_cpus, request.task_gpus
    )
