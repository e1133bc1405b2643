"""`tf.distribute` strategies by name, and what each process reads and writes under one.

Training is synchronous: every replica sees its rows of one global batch. A parameter server, whose
workers run at their own pace, has no global batch to take entropies and losses over, so the balance
of several teachers is undefined there; it is not offered.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

NAMES = ("one_device", "mirrored", "multi_worker", "tpu")


class StrategyError(ValueError):
    """A strategy that is not available here. The message is one line."""


def create(
    name: str = "one_device",
    *,
    devices: int | None = None,
    workers: Sequence[str] = (),
    index: int | None = None,
) -> tf.distribute.Strategy:
    """The strategy of that name. Call it before anything else touches TensorFlow.

    Args:
      name: "one_device" (TensorFlow's own choice of device), "mirrored" (all GPUs of this machine),
        "multi_worker" (all GPUs of all machines, one process a machine) or "tpu".
      devices: how many GPUs of this machine; without GPUs, this many logical CPU devices.
        None for all GPUs.
      workers: host:port of each worker, the same list in each process; default `TF_CONFIG`.
      index: which of them this process is.

    Raises:
      StrategyError: an unknown name, devices that are not there, or workers that do not fit.
    """
    if name not in NAMES:
        raise StrategyError(f"The strategy is {name!r}; use one of {', '.join(NAMES)}.")
    if (workers or index is not None) and name != "multi_worker":
        raise StrategyError(f"--workers and --index go with --strategy=multi_worker, not {name}.")
    if index is not None and not workers:
        raise StrategyError(f"--index is {index} without --workers; give both, or TF_CONFIG.")
    if name == "tpu":
        return _tpu()
    if name == "one_device":
        if devices not in (None, 1):
            raise StrategyError(f"one_device has one device, not {devices}; use mirrored.")
        return _one_device()
    local = _devices(devices)
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(local)
    _announce(workers, index)
    # It takes every device of the process; `_devices` has left the others out.
    return tf.distribute.MultiWorkerMirroredStrategy()


def be_deterministic() -> None:
    """Makes TensorFlow's operations give the same bits each time, and refuses those that cannot."""
    tf.config.experimental.enable_op_determinism()


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """Which worker this process is; 0 where there is one."""
    resolver = strategy.cluster_resolver
    if not is_multi_worker(strategy) or resolver.task_id is None:
        return 0
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", []))
    return resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together."""
    return int(strategy.extended._num_workers) if is_multi_worker(strategy) else 1


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether several processes train together."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes."""
    return worker_index(strategy) == 0


def local_devices(strategy: tf.distribute.Strategy) -> list[str]:
    """The devices of this process that hold a replica."""
    if not tf.distribute.has_strategy() and strategy is tf.distribute.get_strategy():
        return [""]  # TensorFlow chooses
    return list(strategy.extended.worker_devices)


def of_process(strategy: tf.distribute.Strategy) -> tf.distribute.Strategy:
    """The strategy of this process' own devices, under which no other worker has to wait."""
    if not is_multi_worker(strategy):
        return strategy
    devices = local_devices(strategy)
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else _one_device()


def total_over_workers(strategy: tf.distribute.Strategy, value: np.ndarray) -> np.ndarray:
    """The sum of every worker's array, the same on all; each waits here for the others.

    Args:
      strategy: of the training.
      value: integers or floats, of one shape on all workers.
    """
    if not is_multi_worker(strategy):
        return np.asarray(value)
    local = len(local_devices(strategy))

    def of_replica(context: tf.distribute.ReplicaContext) -> tf.Tensor:
        mine = context.replica_id_in_sync_group % local == 0
        return tf.convert_to_tensor(np.asarray(value) if mine else np.zeros_like(value))

    values = strategy.experimental_distribute_values_from_function(of_replica)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None).numpy()


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns once every worker is here: what the chief wrote before is there for all."""
    total_over_workers(strategy, np.zeros(1, np.float32))


def check_one_folder(strategy: tf.distribute.Strategy, folder: pathlib.Path) -> None:
    """Refuses a folder that is not the same one for all workers; makes it if it is absent.

    Raises:
      StrategyError: the workers see different folders.
    """
    if not is_multi_worker(strategy):
        return
    folder.mkdir(parents=True, exist_ok=True)
    chief = is_chief(strategy)
    # A name of this start: an earlier one may have left its own.
    number = total_over_workers(strategy, np.array([time.time_ns() if chief else 0]))[0]
    mark = folder / f".workers-{number}"
    if chief:
        mark.touch()
    wait_for_all(strategy)
    seen = total_over_workers(strategy, np.array([mark.exists()], np.int64))[0]
    if chief:
        mark.unlink()
    if seen != worker_count(strategy):
        raise StrategyError(
            f"{folder} is another folder for some workers; give one that all of them share."
        )


def _one_device() -> tf.distribute.Strategy:
    return tf.distribute.get_strategy()


def _devices(count: int | None) -> list[str]:
    gpus = tf.config.list_physical_devices("GPU")
    if count is not None and count < 1:
        raise StrategyError(f"--devices is {count}; give a whole number, at least 1.")
    if gpus:
        if count is not None and count > len(gpus):
            raise StrategyError(f"--devices is {count}; this machine has {len(gpus)} GPUs.")
        if count is not None:
            tf.config.set_visible_devices(gpus[:count], "GPU")
        return [f"GPU:{i}" for i in range(count or len(gpus))]
    count = count or 1
    if count > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
        except RuntimeError as error:
            raise StrategyError(f"{count} logical CPU devices: {error}.") from error
    return [f"CPU:{i}" for i in range(count)]


def _announce(workers: Sequence[str], index: int | None) -> None:
    """Writes `TF_CONFIG` from the flags, if given, and checks it: a wrong one waits for ever."""
    if workers:
        without = [worker for worker in workers if not worker.rpartition(":")[2].isdecimal()]
        if without:
            raise StrategyError(f"--workers has {without[0]!r}; give HOST:PORT for each.")
        if index is None or not 0 <= index < len(workers):
            raise StrategyError(
                f"--index is {index}; with {len(workers)} workers give 0 to {len(workers) - 1}."
            )
        task = {"type": "worker", "index": index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": list(workers)}, "task": task})
    try:
        described = json.loads(os.environ.get("TF_CONFIG", ""))
        kind, place = described["task"]["type"], int(described["task"]["index"])
        count = len(described["cluster"][kind])
    except (ValueError, KeyError, TypeError) as error:
        raise StrategyError(
            "multi_worker needs --workers=HOST:PORT,HOST:PORT and --index=I, or TF_CONFIG with "
            "cluster, task.type and task.index."
        ) from error
    if kind not in ("chief", "worker") or not 0 <= place < count:
        raise StrategyError(
            f"TF_CONFIG has the task {kind} {place} for {count} of them; it needs chief or worker, "
            "counted from 0."
        )


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", ""))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise StrategyError(f"No TPU was found ({reason}); set TPU_NAME.") from error
    return tf.distribute.TPUStrategy(resolver)
