"""Context managers that set global seeds and layer names, and restore them."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import gc
import random
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context as eager_context

# Keras' names of its own global attributes.
_SEEDS = ("global_random_seed", "global_seed_generator")
_NAMES = "object_name_uids"
_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("inside seeded()", default=False)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Sets the global seeds of Python, NumPy, TensorFlow and Keras, and restores the caller's.

    Nested calls set them too; only the outermost restores. TensorFlow's generator restarts from the
    caller's seed, since its position cannot be read.

    Args:
      seed: integer from 0 to 2**32 - 1.
    """
    if _inside.get():
        keras.utils.set_random_seed(seed)
        yield
        return
    python, numpy = random.getstate(), np.random.get_state()
    tensorflow = eager_context.global_seed()
    known = {name: global_state.get_global_attribute(name) for name in _SEEDS}
    token = _inside.set(True)
    try:
        keras.utils.set_random_seed(seed)
        yield
    finally:
        _inside.reset(token)
        random.setstate(python)
        np.random.set_state(numpy)
        tf.random.set_seed(tensorflow)
        for name, value in known.items():
            global_state.set_global_attribute(name, value)


@contextlib.contextmanager
def fresh_names() -> Iterator[None]:
    """Numbers layers without a name from the start inside the block, and as before after it.

    `keras.backend.clear_session` would reset more of the caller's state. Collects garbage last.
    """
    before = global_state.get_global_attribute(_NAMES)
    global_state.set_global_attribute(_NAMES, collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(_NAMES, before)
        gc.collect()
