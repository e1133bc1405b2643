"""Small, accurate and adversarially robust classifiers, distilled from several teachers.

The names below are the public API. Each is imported on first use, so that `import mtard_tf` and
a binary's `--help` do not wait for TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

from mtard_tf import keras_environment

__version__ = "0.1.0"

# Public name -> the module that it is, or that holds it.
_PUBLIC = {
    "Distiller": "mtard_tf.distiller.distiller",
    "FGSM": "mtard_tf.attacks.pgd",
    "ImageData": "mtard_tf.data.image_data",
    "PGD": "mtard_tf.attacks.pgd",
    "ThreatModel": "mtard_tf.threat",
    "TrainingContext": "mtard_tf.distiller.context",
    "audit": "mtard_tf.api",
    "data": "mtard_tf.data",
    "distil": "mtard_tf.api",
    "export": "mtard_tf.api",
    "get": "mtard_tf.registry",
    "losses": "mtard_tf.losses",
    "models": "mtard_tf.models",
    "register": "mtard_tf.registry",
    "schedules": "mtard_tf.schedules",
    "train": "mtard_tf.api",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    target = _PUBLIC.get(name)
    if target is None:
        raise AttributeError(
            f"module 'mtard_tf' has no attribute {name!r}; its public names are "
            f"{', '.join(sorted(_PUBLIC))}."
        )
    keras_environment.check()  # before importing Keras, whose backend may not be installed
    module = importlib.import_module(target)
    value = module if target == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
