"""The teachers of a distiller: which views of a batch each sees, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import Split
from mtard_tf.models.cpu_kernels import never_empty
from mtard_tf.models.folding import FoldedInference

_TABLE_BATCH = 500

Models = Mapping[str, keras.Model]
Tensors = Mapping[str, tf.Tensor]


class Teachers:
    """Models that run in inference mode outside the tape.

    They are never changed, not tracked by Keras, and not part of a checkpoint.

    Args:
      models: role -> model from images to logits.
      views: role -> the view that this teacher sees, or several: the logits of one view are named
        by the role, those of several `<role>_<view>`.
      owner: name of the distiller, for messages.

    Attributes:
      cached: roles whose answers on the plain training images come with the batch, in this order.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        views: Mapping[str, str | Sequence[str]],
        owner: str = "The distiller",
    ) -> None:
        self._views, self._owner = dict(views), owner
        self.inference = {role: FoldedInference(model) for role, model in models.items()}
        self.cached: tuple[str, ...] = ()

    def label(self, how: str) -> None:
        """Sets whether all teachers answer on the plain images once ("cached") or on each batch.

        Raises:
          ValueError: neither "cached" nor "online".
        """
        if how not in ("cached", "online"):
            raise ValueError(f"{self._owner}.labels is {how!r}; use 'cached' or 'online'.")
        self.cached = tuple(self._views) if how == "cached" else ()

    @property
    def seen(self) -> tuple[str, ...]:
        """All views that some teacher sees."""
        return tuple(view for _, _, view in self.questions())

    def fn(self, role: str) -> Callable[[tf.Tensor], tf.Tensor]:
        """A teacher as a function: images -> float32 logits; gradients reach the images."""
        inference = never_empty(self.inference[role]())
        return lambda images: tf.cast(inference(images), tf.float32)

    def ask(self, views: Tensors, known: Tensors) -> dict[str, tf.Tensor]:
        """`known`, and the logits on the views that are there and are not known, no gradient.

        Args:
          views: view -> images of this replica.
          known: name -> logits `[batch, classes]`, from a table or an earlier question.
        """
        answers = dict(known)
        with tf.name_scope("teachers/"):  # the slash goes on with the scope
            for name, role, view in self.questions():
                if name not in answers and view in views:
                    answers[name] = tf.stop_gradient(self.fn(role)(views[view]))
        return answers

    def on(self, role: str, view: str, views: Tensors, known: Tensors) -> tf.Tensor:
        """A teacher's logits on a view, `[batch, classes]`, no gradient.

        Args:
          role: of the teacher.
          view: of `views`.
          views: view -> images of this replica.
          known: what `ask` answered; asked again only where this view is not among it.
        """
        for name, asked, seen in self.questions():
            if (asked, seen) == (role, view):
                return known[name]
        with tf.name_scope("teachers/"):
            return tf.stop_gradient(self.fn(role)(views[view]))

    def questions(self) -> Iterator[tuple[str, str, str]]:
        """(name of the logits, role, view) of all that is asked."""
        for role, views in self._views.items():
            if isinstance(views, str):
                yield role, role, views
            else:
                yield from ((f"{role}_{view}", role, view) for view in views)


def logits_table(model: keras.Model, split: Split) -> np.ndarray:
    """A model's logits on every image, not augmented, float32 `[images, classes]`."""
    infer = tf.function(lambda images: model(images, training=False), autograph=False)
    batches = evaluation_batches(split, _TABLE_BATCH)
    return np.concatenate([infer(images).numpy() for images, _, _ in batches])
