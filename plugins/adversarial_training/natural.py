"""Natural training: cross-entropy on clean images."""

from __future__ import annotations

from mtard_tf.distiller import Distiller
from mtard_tf.losses import cross_entropy


class Natural(Distiller):
    """loss = CE(f(x), y). Makes the clean teacher. No attack is run."""

    def terms(self, labels, student, teachers):
        return {"cross_entropy": cross_entropy(student["clean"], labels)}
