"""A model and attacks on it as compiled functions, each compiled once."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks.gradients import none_reaches
from mtard_tf.attacks.pgd import input_gradient
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.sharding import default_shards
from mtard_tf.models.cpu_kernels import never_empty
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.threat import ThreatModel

# Batches to attack are filled up to a multiple of this, with copies of their last image.
SIZES = 16
# A batch is attacked in parts of at least this many images.
_LEAST = SIZES


class CompiledModel:
    """One model's logits, gradients, attacks and measures, from several threads if need be.

    Each function is compiled once and reads the model's weights at each call, so that one object
    serves a student through its training.

    Args:
      model: from images to logits.
      threat: ball and box.
      seed: of the attacks' random numbers; per image, so batching does not change a result.
    """

    def __init__(self, model: keras.Model, threat: ThreatModel, seed: int = 0) -> None:
        self.model = model
        self.threat = threat
        self.seed = seed
        self.inference = FoldedInference(model)
        self._lock = threading.Lock()
        self._ready = False
        self._compiled: dict[tuple[int, object, str], tuple[object, Callable]] = {}
        self._counts = False
        self._passed: dict[str, tf.Variable] = {}  # by device: each computes a batch of its own

    def count_passes(self) -> None:
        """Begins to count the images that attacks send through the model; before the first one."""
        self._counts = True

    def passes(self, device: str | None = None) -> int:
        """The images counted so far, those that fill up a batch included; None for all devices."""
        names = list(self._passed) if device is None else [device]
        return sum(int(self._passed[name].numpy()) for name in names if name in self._passed)

    def logits(self, images: tf.Tensor) -> np.ndarray:
        """The model's logits on a batch of float32 images, `[batch, classes]`."""
        self._prepare(images)
        return self._predict(images).numpy()

    def gradients(self, images: tf.Tensor, labels: tf.Tensor) -> np.ndarray:
        """Largest absolute input gradient of the cross-entropy for each image, `[batch]`."""
        self._prepare(images)
        return self._gradient(images, labels).numpy()

    def blind(self, images: tf.Tensor) -> bool:
        """Whether no gradient reaches these images, so that attacks along it cannot move them."""
        return none_reaches(self._answer, images)

    def attacked(
        self,
        attack: Callable,
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        epsilon: float | None = None,
    ) -> tuple[tf.Tensor, np.ndarray]:
        """What `attack` makes of a batch, and how far each image leaves ball and box, `[batch]`.

        Args:
          attack: see `mtard_tf.attacks`.
          images: float32 in the box, `[batch, height, width, channels]`.
          labels: int32 `[batch]`.
          ids: int64 `[batch]`, which fix each image's random numbers.
          epsilon: another radius than the threat model's (sweeps); compiled for all of them.

        Raises:
          EvaluationError: the attack failed.
        """
        swept = epsilon is not None

        def run(
            model_fn: Callable,
            images: tf.Tensor,
            labels: tf.Tensor,
            seeds: tf.Tensor,
            epsilon: tf.Tensor,
        ) -> tuple[tf.Tensor, tf.Tensor]:
            # A Python number where it is fixed: attacks then round their step size only once.
            threat = dataclasses.replace(self.threat, epsilon=epsilon) if swept else self.threat
            perturbed = attack(model_fn, images, labels, threat=threat, seeds=seeds)
            return perturbed, threat.violation(perturbed, images)

        radius = tf.constant(epsilon if swept else self.threat.epsilon, tf.float32)

        def part(rows: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
            # Kernels are made and kept for each size of batch; few sizes keep time and memory down.
            padded = np.pad(rows, (0, -len(rows) % SIZES), mode="edge")
            with tf.device(images.device):  # which a new thread does not know
                given = (tf.gather(tensor, padded) for tensor in (images, labels, ids))
                found = self.run((attack, swept), run, *given, radius)
            return tuple(tensor[: len(rows)] for tensor in found)

        try:
            parts = self._parts(attack, images, labels)
            done = _side_by_side(part, parts)
        except (ValueError, tf.errors.OpError) as error:
            raise EvaluationError(f"{attack!r}: {last_line(error)}") from error
        back = np.argsort(np.concatenate(parts))
        found = (tf.concat(results, axis=0) for results in zip(*done, strict=True))
        perturbed, violation = (tf.gather(tensor, back) for tensor in found)
        return perturbed, violation.numpy()

    def run(
        self,
        key: tuple[object, object],
        compute: Callable,
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        *rest: tf.Tensor,
    ) -> Any:
        """What `compute(model_fn, images, labels, seeds, *rest)` returns, as one graph.

        Args:
          key: an object by identity and a variant of it; each is compiled once on each device.
          compute: called once for each key and device, while it is traced.
          images: float32 `[batch, height, width, channels]`.
          labels: int32 `[batch]`.
          ids: int64 `[batch]`, which fix each image's random numbers.
          rest: further tensors; their first dimension, if they have one, is free.
        """
        self._prepare(images)
        device = images.device

        def traced(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor, *rest: tf.Tensor) -> Any:
            model_fn = self._counted(never_empty(self.inference()), device)
            return compute(model_fn, images, labels, image_seeds(self.seed, ids), *rest)

        owner, variant = key
        with self._lock:  # several devices ask at once
            if self._counts and device not in self._passed:
                self._passed[device] = tf.Variable(0, trainable=False, dtype=tf.int64)
            if (id(owner), variant, device) not in self._compiled:
                further = [
                    tf.TensorSpec([None, *given.shape[1:]] if given.shape.rank else [], given.dtype)
                    for given in rest
                ]
                signature = [*self._specs, tf.TensorSpec([None], tf.int64), *further]
                function = _graph(traced, signature)
                # The object is kept, so that no other can come to have its id.
                self._compiled[id(owner), variant, device] = owner, function
            function = self._compiled[id(owner), variant, device][1]
        return function(images, labels, ids, *rest)

    def _parts(self, attack: Callable, images: tf.Tensor, labels: tf.Tensor) -> list[np.ndarray]:
        """Row numbers of the parts of a batch, each with as much to do, one for each core.

        Where an attack stops early, it does so on images with a small margin. The smallest comes
        last, and fills a part up.
        """
        rows = np.arange(len(labels))
        count = max(1, min(default_shards(), len(rows) // _LEAST))
        if count == 1 or not getattr(attack, "stops_early", False):
            return np.array_split(rows, count)
        margins = losses.margin(tf.constant(self.logits(images)), labels).numpy()
        order = np.argsort(-margins, kind="stable")
        return [order[first::count] for first in range(count)]

    def _prepare(self, images: tf.Tensor) -> None:
        """At the first batch: the images' size, which a model may leave open, and the folding."""
        with self._lock:  # several devices ask at once
            if self._ready:
                return
            self.inference.prove(images)
            self._specs = (
                tf.TensorSpec([None, *images.shape[1:]]),
                tf.TensorSpec([None], tf.int32),
            )
            self._predict = _graph(self._answer, self._specs[:1])
            self._gradient = _graph(self._largest_gradient, self._specs)
            self._ready = True

    def _counted(self, model_fn: Callable, device: str) -> Callable:
        if not self._counts:
            return model_fn
        passed = self._passed[device]

        def counted(images: tf.Tensor) -> tf.Tensor:
            passed.assign_add(tf.shape(images, tf.int64)[0])
            return model_fn(images)

        return counted

    def _answer(self, images: tf.Tensor) -> tf.Tensor:
        return self.model(images, training=False)

    def _largest_gradient(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        gradient = input_gradient(
            self.inference(), images, lambda _, logits: losses.cross_entropy(logits, labels)
        )
        return tf.reduce_max(tf.abs(gradient), axis=list(range(1, images.shape.rank)))


def _side_by_side(compute: Callable[[np.ndarray], Any], parts: Sequence[np.ndarray]) -> list[Any]:
    """`compute` of each part of a batch, in threads: small nets leave a core idle in many steps."""
    if len(parts) == 1:
        return [compute(parts[0])]
    with ThreadPool(len(parts)) as pool:
        return pool.map(compute, parts)


def _graph(function: Callable, signature: Sequence[tf.TensorSpec]) -> Callable:
    # A partial has no code, by which TensorFlow counts traces: it would take the functions of
    # several models and attacks for one, and warn of retracing it.
    own = functools.partial(function)
    return tf.function(own, input_signature=signature, autograph=False)


def last_line(error: Exception) -> str:
    """The message itself, of an error that a trace has wrapped into the lines of its stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("[[")]  # names of a graph's nodes
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix(f"{type(error).__name__}: ")
