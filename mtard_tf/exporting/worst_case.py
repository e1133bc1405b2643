"""How much worst-case accuracy a file loses: attacked 8-bit images, evaluated on the file."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from mtard_tf.attacks.attack import Attack
from mtard_tf.attacks.margin import CWInf
from mtard_tf.attacks.pgd import PGD
from mtard_tf.data.batches import to_float
from mtard_tf.data.image_data import ImageData
from mtard_tf.exporting import proof
from mtard_tf.exporting.attacked_images import BATCH, attacked_images
from mtard_tf.exporting.formats import INT8
from mtard_tf.models.folding import FoldedInference
from mtard_tf.runtimes.litert import LiteRT
from mtard_tf.threat import ThreatModel

# Neither stops at the boundary, so that their images are not brought back by a rounding.
ATTACKS: dict[str, Attack] = {"pgd": PGD(num_steps=50), "cw_inf": CWInf(num_steps=50)}


class WorstCase:
    """Counts images that are classified correctly, clean and under attacks.

    The attacks' images are of whole levels, at most floor(255 epsilon) from the clean ones. The
    student is asked for those on itself, and a file for those on the student and on its own
    straight-through copy (`runtimes.straight_through`).

    Args:
      student: from float32 images in [0, 1] to logits.
      data: its first labelled validation images are attacked.
      threat: of the attacks.
      examples: at most this many images.
    """

    def __init__(self, student: Any, data: ImageData, threat: ThreatModel, examples: int) -> None:
        split = data.labelled("validation", examples)
        self.labels, self.threat = np.asarray(split.labels), threat
        self.images = {"clean": np.asarray(split.images)}
        model_fn = FoldedInference(student)()
        for name, attack in ATTACKS.items():
            self.images[name] = self._attacked(model_fn, attack)
        self.right = self._correct(
            {
                name: np.concatenate(
                    [np.asarray(model_fn(to_float(x))) for x in self._parts(images)]
                )
                for name, images in self.images.items()
            }
        )

    def of_file(self, file: pathlib.Path) -> dict[str, Any]:
        """Shares that are right in the worst case, `float` and `file`, and how many `images`."""
        images = dict(self.images)
        # Its own gradients: rounding hides an image's from attacks on the float student.
        copy = LiteRT(file).straight_through()
        for name, attack in ATTACKS.items():
            images[f"{name} on the file"] = self._attacked(copy, attack)
        standing = self._correct({name: proof.logits(INT8, file, x) for name, x in images.items()})
        return {
            "float": float(self.right.mean()),
            "file": float(standing.mean()),
            "images": len(self.labels),
            "epsilon": float(self.threat.epsilon),
            "norm": self.threat.norm,
            "attacks": list(images)[1:],
        }

    def _correct(self, logits: dict[str, np.ndarray]) -> np.ndarray:
        return np.all([np.argmax(z, axis=1) == self.labels for z in logits.values()], axis=0)

    def _parts(self, images: np.ndarray) -> list[np.ndarray]:
        return [images[i : i + BATCH] for i in range(0, len(images), BATCH)]

    def _attacked(self, model_fn: Any, attack: Attack) -> np.ndarray:
        return attacked_images(model_fn, attack, self.images["clean"], self.labels, self.threat)
