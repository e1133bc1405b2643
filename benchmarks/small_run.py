"""A run of three stages on small images that takes seconds, to be killed and broken."""

from __future__ import annotations

import pathlib
import socket

ROOT = pathlib.Path(__file__).resolve().parents[1]
STAGES = ("clean_teacher", "robust_teacher", "student")

CONFIG = """
import kill_test_data
Experiment.dataset = @datasets.squares
Experiment.stages = ('clean_teacher', 'robust_teacher', 'student')
Experiment.epsilon = 0.1
Stage.model = @models.small_cnn
Stage.optimizer = @optimizers.adam
Stage.learning_rate = 0.01
Stage.batch_size = 16
Stage.epochs = 12
Stage.checkpoint_every = 5
models.small_cnn.widths = (4, 4)
models.small_cnn.dense = 8
models.small_cnn.batch_normalization = True
clean_teacher/Stage.distiller = @distillers.natural
clean_teacher/Stage.validation_attack = None
robust_teacher/Stage.distiller = @distillers.trades
student/Stage.distiller = @distillers.bmtard
student/Stage.teachers = {'clean': 'clean_teacher', 'robust': 'robust_teacher'}
"""

SUITE = """
Suite.attacks = {'pgd': @attacks.pgd(), 'square': @attacks.square()}
attacks.pgd.num_steps = 10
attacks.square.num_queries = 50
"""

DATA = '''
import numpy as np
from mtard_tf import registry
from mtard_tf.data import ImageData, Split


@registry.register("datasets", "squares")
def squares():
    """Three classes of 8x8 colour images: the class is the bright channel."""
    numbers = np.random.RandomState(0)

    def split(count):
        labels = (np.arange(count) % 3).astype(np.int32)
        images = numbers.randint(0, 120, (count, 8, 8, 3))
        images[np.arange(count), :, :, labels] += 40
        return Split(images.astype(np.uint8), labels)

    return ImageData("squares", ("red", "green", "blue"), split(120), split(30), split(60))
'''


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return opened.getsockname()[1]
