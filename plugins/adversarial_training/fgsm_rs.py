"""FGSM-RS: fast adversarial training (Wong et al., ICLR 2020, arXiv 2001.03994)."""

from __future__ import annotations

import keras

from mtard_tf.attacks.pgd import PGD
from mtard_tf.distiller import Attack, Models, TrainingContext
from mtard_tf.plugins.adversarial_training.pgd_at import PGDAdversarialTraining


class FGSMRS(PGDAdversarialTraining):
    """loss = CE(f(x'), y), x' one step of 1.25 epsilon from a uniform start, in ball and box.

    A step costs two forward and backward passes, where `pgd_at` needs eleven. The failure to look
    for is catastrophic overfitting: within an epoch or two the accuracy under PGD falls to about 0
    while that under FGSM rises; a larger step, epsilon and more epochs make it likelier.
    `Stage.on_overfitting = 'stop'` ends the stage there with the student from before.

    The authors train 15 epochs of batches of 128, weight decay 5e-4, with a learning rate that
    rises to 0.2 and falls: `schedules.Cyclic`. Their scheduler also moves momentum from 0.9 to
    0.8 and back, which is left out here. With `official_quirks` BatchNorm is in training mode
    during the attack, whose pass moves the running statistics.

    Args:
      attack: default PGD-1, step 1.25 epsilon, uniform start.
      official_quirks: what the code does.

    Source: `locuslab/fast_adversarial:CIFAR10/train_fgsm.py:96-140`.
    """

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        attack: Attack | None = None,
        attack_batch_norm: str | None = None,
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
    ) -> None:
        super().__init__(
            student,
            teachers,
            context=context,
            attack=attack or PGD(1, 1.25, "uniform"),
            attack_batch_norm=attack_batch_norm or ("training" if official_quirks else "inference"),
            label_smoothing=label_smoothing,
        )
