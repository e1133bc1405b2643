"""Batches of an evaluation, spread over the workers and devices of a strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from multiprocessing.pool import ThreadPool

import numpy as np
import tensorflow as tf

from mtard_tf.distribute.strategies import (
    local_devices,
    total_over_workers,
    worker_count,
    worker_index,
)


def over_batches(
    compute: Callable[..., np.ndarray],
    batches: Iterable[tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
    examples: int,
    strategy: tf.distribute.Strategy,
) -> np.ndarray:
    """A yes or no for each image; each batch goes to one device of one worker.

    Args:
      compute: (images, labels, ids) of one batch -> bool `[batch]`; with several devices, called
        from a thread for each.
      batches: the same on all workers; ids are places in the result, each there once.
      examples: how many images there are.
      strategy: whose workers and devices share the work.

    Returns:
      bool `[examples]`, the same on all workers.
    """
    workers, index = worker_count(strategy), worker_index(strategy)
    devices = local_devices(strategy)
    result = np.zeros(examples, np.int32)

    def one(numbered: tuple[int, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]) -> None:
        place, (images, labels, ids) = numbered
        with tf.device(devices[place // workers % len(devices)]):
            result[ids.numpy()] = compute(images, labels, ids)

    own = (numbered for numbered in enumerate(batches) if numbered[0] % workers == index)
    if len(devices) == 1:
        for numbered in own:
            one(numbered)
    else:
        with ThreadPool(len(devices)) as pool:
            for _ in pool.imap_unordered(one, own):
                pass
    return total_over_workers(strategy, result).astype(bool)
