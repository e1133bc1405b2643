"""What Keras 3's `fit` needs to run under `tf.distribute`, each with its cause upstream.

A test in `tests/distribution_test.py` fails once a shim is no longer needed.
"""

from __future__ import annotations

import tensorflow as tf


class DistributedFit:
    """Mixed into a `keras.Model` whose layers are built before `fit`.

    1. `TensorFlowTrainer._maybe_symbolic_build` (keras/src/backend/tensorflow/trainer.py) takes the
       mean of the first batch over replicas to build the model. It fails under
       MultiWorkerMirroredStrategy, where a worker's batch holds one replica's values, and wherever
       the replicas' parts differ in size. Nothing is left to build here.
    2. `reduce_per_replica` (same file) reduces logs over axis 0 under
       MultiWorkerMirroredStrategy, which a scalar does not have: `fit_logs` gives it one.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        pass

    def fit_logs(self, logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The scalars of a step in the shape in which `fit` can reduce them."""
        context = tf.distribute.get_replica_context()
        if not isinstance(context.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return logs
        return {name: tf.reshape(value, [1]) for name, value in logs.items()}
