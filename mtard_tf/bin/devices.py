"""Flags for the devices to train on, and the strategy that they mean."""

from __future__ import annotations

from typing import Any

from absl import flags

_STRATEGY = flags.DEFINE_string(
    "strategy",
    None,
    "one_device, mirrored, multi_worker or tpu; default the file's, or one_device.",
)
_DEVICES = flags.DEFINE_integer("devices", None, "GPUs of this machine to use; default all.", 1)
_WORKERS = flags.DEFINE_list("workers", [], "HOST:PORT of each worker; default TF_CONFIG.")
_INDEX = flags.DEFINE_integer("index", None, "Which of --workers this process is.", 0)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "Same seed and cores, same weights to the bit; slower."
)


def strategy(default: str) -> Any:
    """The strategy of the flags, or the one named `default`; call it before using TensorFlow."""
    from mtard_tf.distribute import strategies

    made = strategies.create(
        _STRATEGY.value or default,
        devices=_DEVICES.value,
        workers=_WORKERS.value,
        index=_INDEX.value,
    )
    if _DETERMINISTIC.value:
        strategies.be_deterministic()
    return made


def options() -> list[str]:
    """The flags that a process for one stage of this run needs as well."""
    return ["--deterministic"] if _DETERMINISTIC.value else []
