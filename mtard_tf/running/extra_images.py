"""The extra images of stages: read and checked before training, labelled by a teacher if asked."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial

import gin
import keras
import numpy as np

from mtard_tf.data.extra import Extra, check_extra
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.distiller.distiller import Distiller
from mtard_tf.distiller.teachers import logits_table
from mtard_tf.experiment.stage import Stage
from mtard_tf.files import digest
from mtard_tf.running import soft_labels
from mtard_tf.running.context import RunContext


def load(stages: Sequence[Stage], data: ImageData) -> dict[str, Extra]:
    """Name -> extra images, of the stages that have some; equal ones are in memory once.

    Raises:
      ValueError: something other than images, or such as do not suit the data.
    """
    known: dict[str, Split] = {}
    found: dict[str, Extra] = {}
    for stage in stages:
        if stage.extra is None:
            continue
        with gin.config_scope(stage.scope):
            made = stage.extra()
        split = made.train if isinstance(made, ImageData) else made
        if not isinstance(split, Split):
            raise ValueError(
                f"{stage.scope}/Stage.extra returns a {type(split).__name__}; give a factory that "
                "returns an ImageData or a Split, such as @datasets.npz."
            )
        fingerprint = digest(split.images, split.labels)
        split = known.setdefault(fingerprint, split)
        found[stage.name] = Extra(split, stage.extra_share, fingerprint)
        check_extra(stage.scope, found[stage.name], data, stage.batch_size)
    return found


def check_labels(stage: Stage, distiller: Distiller, extra: Extra | None) -> None:
    """Raises ValueError for images without a label where the distiller needs labels."""
    if extra is None or not extra.unlabelled or stage.extra_labels is not None:
        return
    if distiller.needs_labels:
        roles, remedy = " or ".join(map(repr, stage.teachers)), ""
        if roles:
            remedy = f"set Stage.extra_labels to the teacher that gives them ({roles}), or "
        raise ValueError(
            f"{stage.scope}/Stage.extra has {extra.unlabelled:,} images without a label, and "
            f"{type(distiller).__name__} needs labels; {remedy}take images that have some."
        )


def labelled(
    stage: Stage,
    extra: Extra | None,
    teachers: Mapping[str, keras.Model],
    sources: Mapping[str, str],
    folder: pathlib.Path,
    context: RunContext,
) -> Extra | None:
    """The extra images with the labels of the teacher that `Stage.extra_labels` names.

    Args:
      stage: which is trained.
      extra: its images; None for none.
      teachers: role -> model.
      sources: role -> fingerprint of the teacher's file.
      folder: of the stage; the labels lie there while it is trained.
      context: of the run.
    """
    role = stage.extra_labels
    if extra is None or role is None:
        return extra
    ask = partial(_top_classes, teachers[role], extra.split)
    key = digest(sources.get(role), extra.fingerprint)
    (labels,) = soft_labels.shared([(folder / soft_labels.EXTRA, key, ask)], context.strategy)
    return dataclasses.replace(extra, split=Split(extra.split.images, labels))


def _top_classes(teacher: keras.Model, split: Split) -> np.ndarray:
    return logits_table(teacher, split).argmax(axis=1).astype(np.int32)
