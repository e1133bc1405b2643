"""Copies of a net in another precision, and BatchNorm statistics over all replicas."""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

import keras
import tensorflow as tf

from mtard_tf.models.compatibility import is_functional
from mtard_tf.models.layers import batch_norms

_WIDTHS = ("bfloat16", "float16", "float32")
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
AUTO = "auto"
# oneDNN, TensorFlow's kernels on x86, multiplies bfloat16 with these instructions; without them it
# converts each operand, which takes longer than float32.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
_GPU_CAPABILITY = (8, 0)  # Ampere, the first with bfloat16


def resolved(policy: str) -> str:
    """The policy, or for "auto" the one of this device: bfloat16 where it computes it natively.

    Args:
      policy: one of `POLICIES`, or `AUTO`.
    """
    if policy != AUTO:
        return policy
    return "mixed_bfloat16" if native_bfloat16() else "float32"


@functools.cache
def native_bfloat16() -> bool:
    """Whether all devices that nets run on here multiply bfloat16 in hardware; read once.

    A TPU does, a GPU from compute capability 8.0, a CPU with AVX-512 BF16 or AMX under Linux.
    """
    if tf.config.list_physical_devices("TPU"):
        return True
    if gpus := tf.config.list_physical_devices("GPU"):
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return all(d.get("compute_capability", (0, 0)) >= _GPU_CAPABILITY for d in details)
    return os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0" and bool(_CPU_FLAGS & _cpu_flags())


def _cpu_flags(path: str = "/proc/cpuinfo") -> set[str]:
    """What the first CPU can do, as Linux names it; empty elsewhere."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.partition(":")[2].split())


def with_precision(model: Any, policy: str) -> Any:
    """The model with this dtype policy and the same weights: itself, or a copy.

    Args:
      model: functional or Sequential; any other is returned unchanged.
      policy: one of `POLICIES`.
    """
    if not is_functional(model) and not isinstance(model, keras.Sequential):
        return model
    if all(layer.dtype_policy.name == policy for layer in _leaves(model)):
        return model

    def clone(part: keras.Operation) -> keras.Operation:
        if isinstance(part, keras.Model):
            return with_precision(part, policy)
        config = part.get_config()
        # Operations that are no layers (`x + y`, `keras.ops`) have no policy, and another `dtype`.
        return type(part).from_config(config | {"dtype": policy} if _is_layer(part) else config)

    call = {"call_function": _call} if is_functional(model) else {}
    copy = keras.models.clone_model(model, clone_function=clone, **call)
    copy.set_weights(model.get_weights())
    return copy


def _leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model and of the models within it, except inputs."""
    layers = model._flatten_layers(include_self=False)
    other = (keras.Model, keras.layers.InputLayer)
    return [layer for layer in layers if not isinstance(layer, other)]


def _call(part: keras.Operation, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer or operation; an operation computes in the widest precision of its inputs.

    Most operations do so themselves; convolutions and some others do not.
    """
    if _is_layer(part):
        return part(*args, **kwargs)
    given = [str(x.dtype) for x in keras.tree.flatten((args, kwargs)) if hasattr(x, "dtype")]
    widths = {name for name in given if name in _WIDTHS}
    if len(widths) < 2:
        return part(*args, **kwargs)
    widest = max(widths, key=_WIDTHS.index)

    def widened(x: Any) -> Any:
        return keras.ops.cast(x, widest) if str(getattr(x, "dtype", "")) in _WIDTHS else x

    args, kwargs = keras.tree.map_structure(widened, (args, kwargs))
    return part(*args, **kwargs)


def _is_layer(part: keras.Operation) -> bool:
    return isinstance(part, keras.layers.Layer)


def synchronize_batch_norm(model: Any) -> None:
    """Sets all BatchNorm layers to compute their statistics over all replicas."""
    for layer in batch_norms(model):
        layer.synchronized = True


def is_synchronized(model: Any) -> bool:
    """Whether any BatchNorm layer computes its statistics over all replicas."""
    return any(layer.synchronized for layer in batch_norms(model))
