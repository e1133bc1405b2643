"""Accuracy on clean and attacked images. The caller of an attack checks what it returns."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from multiprocessing.pool import ThreadPool

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks.gradients import none_reaches
from mtard_tf.attacks.pgd import input_gradient
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.data.batches import evaluation_batches, to_float
from mtard_tf.data.image_data import Split
from mtard_tf.distribute.strategies import (
    local_devices,
    total_over_workers,
    worker_count,
    worker_index,
)
from mtard_tf.models import twins
from mtard_tf.models.empty_batches import never_empty
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.threat import ThreatModel

# Rounding of a float32 sum near 1 is below 1e-7; more is an attack that left its threat model.
TOLERANCE = 1e-6
# What is attacked at a time is filled up to a multiple of this, with its last image.
_SIZES = 16


class NonFiniteLogits(EvaluationError):
    """Logits that are not numbers."""


class Evaluator:
    """Runs attacks on one model and counts what they leave.

    The functions are compiled once per attack and read the model's weights at each call, so that
    one evaluator serves a student through its training.

    Args:
      model: from images to logits.
      threat: ball and box that every attacked image must stay in.
      batch_size: images at a time; memory depends on it and not on the number of images.
      seed: of the attacks' random starts; per image, so batching does not change a result.
      strategy: under whose scope the model was made; `clean` and `attacked` share the batches among
        its workers and devices, and every worker gets the whole result.
    """

    def __init__(
        self,
        model: keras.Model,
        threat: ThreatModel,
        *,
        batch_size: int = 250,
        seed: int = 0,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        self.model = model
        self.threat = threat
        self.batch_size = batch_size
        self.seed = seed
        self.strategy = strategy or tf.distribute.get_strategy()
        self.inference = FoldedInference(model)
        self._lock = threading.Lock()
        self._ready = False
        self._compiled: dict[tuple[int, bool], tuple[Callable, Callable]] = {}

    def _prepare(self, images: tf.Tensor) -> None:
        """At the first batch: the images' size, which a model may leave open, and the folding."""
        with self._lock:  # several devices ask at once
            if self._ready:
                return
            self.inference.prove(images)
            images, labels = [None, *images.shape[1:]], [None]
            self._specs = tf.TensorSpec(images), tf.TensorSpec(labels, tf.int32)
            self._predict = tf.function(
                self._answer, input_signature=self._specs[:1], autograph=False
            )
            self._gradient = tf.function(
                self._largest_gradient, input_signature=self._specs, autograph=False
            )
            self._ready = True

    def logits(self, images: tf.Tensor) -> np.ndarray:
        """The model's logits on a batch of float32 images, `[batch, classes]`."""
        self._prepare(images)
        return self._predict(images).numpy()

    def gradients(self, images: tf.Tensor, labels: tf.Tensor) -> np.ndarray:
        """Largest absolute input gradient of the cross-entropy for each image, `[batch]`."""
        self._prepare(images)
        return self._gradient(images, labels).numpy()

    def blind(self, split: Split) -> bool:
        """Whether no gradient reaches the images, so that attacks which follow one stand still."""
        images = to_float(split.images[: twins.PROBED])
        return none_reaches(self._answer, images)

    def clean(self, split: Split, examples: int | None = None) -> np.ndarray:
        """Which of the first `examples` images are classified rightly, bool `[examples]`."""
        return self._over(lambda images, labels, _: self.correct(images, labels), split, examples)

    def attacked(self, attack: Callable, split: Split, examples: int | None = None) -> np.ndarray:
        """Which images are still classified rightly after `attack`, bool `[examples]`.

        An image that the model gets wrong anyway counts as wrong and is not attacked.

        Raises:
          EvaluationError: the attack returned an image outside the ball or the box.
        """

        def standing(images, labels, ids):
            return self.standing(attack, images, labels, ids, self.correct(images, labels))

        return self._over(standing, split, examples)

    def _over(self, compute: Callable, split: Split, examples: int | None) -> np.ndarray:
        """`compute` on every batch, bool `[examples]`: a batch goes to one device of one worker."""
        workers, index = worker_count(self.strategy), worker_index(self.strategy)
        devices = local_devices(self.strategy)
        result = np.zeros(min(examples or len(split), len(split)), np.int32)

        def one(numbered) -> None:
            place, (images, labels, ids) = numbered
            with tf.device(devices[place // workers % len(devices)]):
                result[ids.numpy()] = compute(images, labels, ids)

        batches = enumerate(evaluation_batches(split, self.batch_size, examples))
        own = (numbered for numbered in batches if numbered[0] % workers == index)
        if len(devices) == 1:
            for numbered in own:
                one(numbered)
        else:
            with ThreadPool(len(devices)) as pool:
                for _ in pool.imap_unordered(one, own):
                    pass
        return total_over_workers(self.strategy, result).astype(bool)

    def standing(
        self,
        attack: Callable,
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        correct: np.ndarray,
        epsilon: float | None = None,
    ) -> np.ndarray:
        """Which images of one batch stand after `attack`; goes only at those in `correct`.

        Args:
          attack: see `mtard_tf.attacks`.
          images: float32 in the box, `[batch, height, width, channels]`.
          labels: int32 `[batch]`.
          ids: int64 `[batch]`, which fix each image's random numbers.
          correct: bool `[batch]`, what the model gets right when clean.
          epsilon: another radius than the threat model's (sweeps).
        """
        known = np.asarray(labels)
        before = np.where(correct, known, -1)
        return self.attacked_predictions(attack, images, labels, ids, before, epsilon) == known

    def attacked_predictions(
        self,
        attack: Callable,
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        before: np.ndarray,
        epsilon: float | None = None,
    ) -> np.ndarray:
        """Predictions on one batch after `attack`, int64 `[batch]`; arguments as `standing`.

        `before`, int64 `[batch]`, are those on clean images; where they are wrong they stay.
        """
        result = before.astype(np.int64)
        chosen = np.flatnonzero(before == np.asarray(labels))
        if len(chosen) and (self.threat.epsilon if epsilon is None else epsilon) != 0:
            images, labels, ids = (tf.gather(tensor, chosen) for tensor in (images, labels, ids))
            perturbed = self.perturb(attack, images, labels, ids, epsilon)
            result[chosen] = self.predictions(perturbed)
        return result

    def perturb(
        self,
        attack: Callable,
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        epsilon: float | None = None,
    ) -> tf.Tensor:
        """Attacked images of one batch, checked against ball and box; arguments as `standing`."""
        low, high = float(tf.reduce_min(images)), float(tf.reduce_max(images))
        if not self.threat.minimum <= low <= high <= self.threat.maximum:
            raise EvaluationError(
                f"The images run from {low:.3g} to {high:.3g}; give float32 in "
                f"[{self.threat.minimum:g}, {self.threat.maximum:g}] (uint8 divided by 255)."
            )
        radius = self.threat.epsilon if epsilon is None else epsilon
        self._prepare(images)
        run = self._compile(attack, swept=epsilon is not None)
        # Kernels are made and kept for each size of batch; few sizes keep time and memory down.
        count = len(labels)
        rows = np.minimum(np.arange(-(-count // _SIZES) * _SIZES), count - 1)
        padded = (tf.gather(tensor, rows) for tensor in (images, labels, ids))
        try:
            perturbed, violation = run(*padded, tf.constant(radius, tf.float32))
            perturbed, violation = perturbed[:count], violation[:count]
        except (ValueError, tf.errors.OpError) as error:
            raise EvaluationError(f"{attack!r}: {last_line(error)}") from error
        worst = float(np.max(violation))
        if not worst <= TOLERANCE:  # so that NaN is refused as well
            count = int(np.sum(~(violation.numpy() <= TOLERANCE)))
            raise EvaluationError(
                f"{attack!r} left the threat model ({self.threat.norm}, epsilon {radius:.6g}, box "
                f"[{self.threat.minimum:g}, {self.threat.maximum:g}]) on {count} of "
                f"{len(violation)} images, by up to {worst:.3g}; its result is not counted."
            )
        return perturbed

    def correct(self, images: tf.Tensor, labels: tf.Tensor) -> np.ndarray:
        """Which images of a batch are classified rightly, bool `[batch]`."""
        return self.predictions(images) == np.asarray(labels)

    def predictions(self, images: tf.Tensor) -> np.ndarray:
        """The class of the largest logit, int64 `[batch]`.

        Raises:
          EvaluationError: a logit is not finite.
        """
        logits = self.logits(images)
        if not np.isfinite(logits).all():
            raise NonFiniteLogits(
                f"{self.model.name} returned logits that are not finite on "
                f"{int((~np.isfinite(logits)).any(axis=1).sum())} of {len(logits)} images; nothing "
                "can be counted. Look at its weights and at its input scale."
            )
        return logits.argmax(axis=1)

    def _answer(self, images: tf.Tensor) -> tf.Tensor:
        return self.model(images, training=False)

    def _largest_gradient(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        gradient = input_gradient(
            self.inference(), images, lambda _, logits: losses.cross_entropy(logits, labels)
        )
        return tf.reduce_max(tf.abs(gradient), axis=list(range(1, images.shape.rank)))

    def _compile(self, attack: Callable, swept: bool) -> Callable:
        key = id(attack), swept
        with self._lock:  # several devices ask at once
            return self._compile_once(key, attack, swept)

    def _compile_once(self, key: tuple[int, bool], attack: Callable, swept: bool) -> Callable:
        if key not in self._compiled:

            def run(images, labels, ids, epsilon):
                # A Python number where it is fixed: attacks then round their step size only once.
                threat = dataclasses.replace(self.threat, epsilon=epsilon) if swept else self.threat
                seeds = image_seeds(self.seed, ids)
                model_fn = never_empty(self.inference())
                perturbed = attack(model_fn, images, labels, threat=threat, seeds=seeds)
                return perturbed, threat.violation(perturbed, images)

            further = tf.TensorSpec([None], tf.int64), tf.TensorSpec([])
            # The attack is kept, so that no other can come to have its id.
            compiled = tf.function(run, input_signature=[*self._specs, *further], autograph=False)
            self._compiled[key] = attack, compiled
        return self._compiled[key][1]


def last_line(error: Exception) -> str:
    """The message itself, of an error that a trace has wrapped into the lines of its stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("[[")]  # names of a graph's nodes
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix(f"{type(error).__name__}: ")
