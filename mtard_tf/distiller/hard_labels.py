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

    def check_smoothing(self, label_weight: float, because: str) -> None:
        """Raises ValueError if labels are smoothed that the loss does not have.

        Args:
          label_weight: of the cross-entropy in the loss.
          because: the argument that makes it so, such as "alpha = 1".
        """
        if self.label_smoothing and abs(label_weight) < 1e-9:  # what rounding leaves of 1 - a - b
            raise ValueError(
                f"label_smoothing is {self.label_smoothing!r}, but {because} leaves no term with "
                "labels; change one of the two."
            )

    def cross_entropy(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Cross-entropy with the smoothed labels, `[batch]`."""
        return losses.cross_entropy(logits, labels, smoothing=self.label_smoothing)
