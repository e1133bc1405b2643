"""What Keras 3's `fit` needs to run under `tf.distribute`, each with its cause upstream.

A test in `tests/distribution_test.py` fails once a shim is no longer needed.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

_PACKED = "packed_logs"


class ShimmedModel(keras.Model):
    """A Keras model that `fit` trains under `tf.distribute`; its layers are built before `fit`.

    1. `TensorFlowTrainer._maybe_symbolic_build` (keras/src/backend/tensorflow/trainer.py) takes the
       mean of the first batch over replicas to build the model. It fails under
       MultiWorkerMirroredStrategy, where a worker's batch holds one replica's values, and wherever
       the replicas' parts differ in size. Nothing is left to build here: `FitModel` checks the
       first batch in that place.
    2. `reduce_per_replica` (same file) reduces each log over axis 0 under
       MultiWorkerMirroredStrategy: a scalar has none, and every log would be an exchange among the
       workers of its own. `fit_logs` packs them into one vector, which the train function unpacks.
    """

    train_function: Any
    _log_names: tuple[str, ...] = ()

    def fit_logs(self, logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The scalars of a step in the shape in which `fit` can reduce them."""
        context = tf.distribute.get_replica_context()
        if not isinstance(context.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return logs
        self._log_names = tuple(logs)
        return {_PACKED: tf.stack(list(logs.values()))[tf.newaxis]}

    def make_train_function(self, force: bool = False) -> None:
        """Keras' train function, with logs unpacked."""
        if self.train_function is not None and not force:
            return
        super().make_train_function(force)
        packed = self.train_function

        def train_function(iterator: Any) -> dict[str, Any]:
            logs = packed(iterator)
            if _PACKED not in logs:
                return logs
            return dict(zip(self._log_names, tf.unstack(logs[_PACKED]), strict=True))

        self.train_function = train_function
