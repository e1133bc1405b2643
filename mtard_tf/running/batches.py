"""Training batches under a strategy."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tensorflow as tf

from mtard_tf.data.batches import training_batches
from mtard_tf.data.extra import Extra
from mtard_tf.data.image_data import ImageData


def training_data(
    strategy: tf.distribute.Strategy,
    data: ImageData,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    start_step: int,
    tensors: Sequence[tf.Tensor] | None = None,
    extra: Extra | None = None,
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """One epoch of `training_batches` from `start_step` on, each replica with its rows.

    Args:
      strategy: of the training.
      data: the set.
      batch_size: over all replicas.
      epoch: counted from 0.
      seed: of order and augmentation.
      start_step: counted from the start of training, within the epoch.
      tensors: see `training_batches`.
      extra: see `training_batches`.
    """
    replicas = strategy.num_replicas_in_sync
    batches = functools.partial(
        training_batches,
        data,
        batch_size=batch_size,
        epochs=epoch + 1,
        seed=seed,
        start_step=start_step,
        replicas=replicas,
        tensors=tensors,
        extra=extra,
    )
    if replicas == 1:
        return batches(parts=(0,))

    def of_process(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * local
        return batches(parts=range(first, first + local))

    return strategy.distribute_datasets_from_function(of_process)
