"""Label smoothing, for the distillers whose loss has the labels in it."""

from __future__ import annotations

import tensorflow as tf

from mtard_tf import losses


class HardLabels:
    """Mixed into a `Distiller` before it: `self.cross_entropy` is that of its terms.

    The attack keeps the labels as they are.

    Args:
      label_smoothing: share of the target that is uniform over the classes, in [0, 1).

    Raises:
      ValueError: a share that means nothing.
    """

    def __init__(self, *args, label_smoothing: float = 0.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {label_smoothing!r}; give a number from 0 to below 1."
            )
        self.label_smoothing = label_smoothing

    def cross_entropy(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Cross-entropy with the smoothed labels, `[batch]`."""
        return losses.cross_entropy(logits, labels, smoothing=self.label_smoothing)
