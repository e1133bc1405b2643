"""What the stages of a run share while they train."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.data.extra import Extra
from mtard_tf.data.image_data import ImageData
from mtard_tf.distribute import strategies
from mtard_tf.processes.preemption import Preemption
from mtard_tf.threat import ThreatModel


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What the stages of a run share while they train.

    Attributes:
      data: the data set.
      threat: threat model of the experiment.
      strategy: on whose devices they train.
      preemption: whether the process was preempted.
      callbacks: Keras' own, of the caller.
      extras: stage -> its extra images, where it has some.
    """

    data: ImageData
    threat: ThreatModel
    strategy: tf.distribute.Strategy = dataclasses.field(default_factory=tf.distribute.get_strategy)
    preemption: Preemption = dataclasses.field(default_factory=Preemption)
    callbacks: Sequence[keras.callbacks.Callback] = ()
    extras: Mapping[str, Extra] = dataclasses.field(default_factory=dict)

    def preempted(self) -> bool:
        """Whether any worker was preempted; all workers must ask at the same step."""
        flags = strategies.total_over_workers(
            self.strategy, np.array([self.preemption.received], int)
        )
        return bool(flags[0])
