"""The distiller: one `train_step`, its inner attack and teachers, and the options of a step."""

from mtard_tf.distiller.context import TrainingContext
from mtard_tf.distiller.distiller import Distiller
from mtard_tf.distiller.gradient import Weighed
from mtard_tf.distiller.inner_attack import Attack, InnerAttack, default_attack
from mtard_tf.distiller.teachers import Models, Teachers, Tensors

__all__ = [
    "Attack",
    "Distiller",
    "InnerAttack",
    "Models",
    "Teachers",
    "Tensors",
    "TrainingContext",
    "Weighed",
    "default_attack",
]
