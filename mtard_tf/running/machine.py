"""What a run is computed on: cores, threads, devices, versions."""

from __future__ import annotations

import os
from collections.abc import Callable

import keras
import tensorflow as tf

from mtard_tf import __version__
from mtard_tf.data.image_data import ImageData
from mtard_tf.distiller import compiled_step
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.precision import AUTO, native_bfloat16


def settle(
    stage: Stage, distiller: keras.Model, data: ImageData, say: Callable[[str], None]
) -> None:
    """Has this device decide what the stage leaves to it, before the first step.

    Args:
      stage: to be trained.
      distiller: of the stage; its step may be compiled by XLA from here on.
      data: of the experiment.
      say: given a line on each decision.
    """
    say_precision(stage, say)
    compiled_step.choose(stage.jit_compile, distiller, data, stage.batch_size, say)


def computing(stage: Stage, strategy: tf.distribute.Strategy, by_xla: bool = False) -> str:
    """What a stage is computed on, as far as the last bits of its weights depend on it."""
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    replicas = strategy.num_replicas_in_sync
    # Attacks are split among the cores, operations among the threads; both round accordingly.
    host = f", cores: {cores()}, threads: {threads()}" if device == "CPU" else ""
    chosen = f", precision: {chosen_precision(stage)}" if AUTO in _given(stage) else ""
    chosen += ", XLA" if by_xla else ""
    return (
        f"mtard_tf {__version__}, TensorFlow {tf.__version__}, {device} x {replicas}{host}{chosen}"
    )


def chosen_precision(stage: Stage) -> str:
    """The dtype policy of a stage on this device, and that of its attack if it is another."""
    apart = f", attack {stage.attack_policy}" if stage.attack_policy != stage.policy else ""
    return f"{stage.policy}{apart}"


def _given(stage: Stage) -> tuple[str | None, ...]:
    return stage.precision, stage.attack_precision


def say_precision(stage: Stage, say: Callable[[str], None]) -> None:
    """Gives `say` a line on what "auto" chose, if the stage leaves its precision to the device."""
    if AUTO in _given(stage):
        native = "multiplies" if native_bfloat16() else "does not multiply"
        say(f"precision: {chosen_precision(stage)} (this device {native} bfloat16 in hardware).")


def gone_on(before: list[str], now: str, say: Callable[[str], None]) -> list[str]:
    """What a stage was computed on so far, `now` included; `say` is given a line if it changed."""
    if before[-1] == now:
        return before
    say(
        f"begun on: {before[-1]}; resumed on: {now}. Its weights will not be those of an "
        "uninterrupted run to the bit; for those, resume with the --jobs, cores and versions of "
        "before."
    )
    return [*before, now]


def threads() -> int:
    """Threads in which this process computes one operation of TensorFlow on the CPU."""
    chosen = tf.config.threading.get_intra_op_parallelism_threads()
    chosen = chosen or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)
    return chosen if chosen > 0 else cores()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
