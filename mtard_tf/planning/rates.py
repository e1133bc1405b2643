"""Throughput of this device for each kind of pass, and the time that a stage takes."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.data.image_data import ImageData
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.planning.flops import PlanError, count
from mtard_tf.planning.plan import PARTS, VALIDATION, Built, StagePlan, batch_signature

# FLOPs of a timed pass: larger batches are halved, since their throughput is hardly higher.
_LARGEST_PASS = 3e11
_MIN_ROUNDS, _MAX_ROUNDS = 5, 15
_SECONDS_PER_CALL, _MAX_SECONDS = 0.1, 10.0


@dataclasses.dataclass(frozen=True)
class Rates:
    """The throughput of a device.

    Attributes:
      flops_per_second: by part, one of `plan.PARTS`.
      update_seconds: time of the optimizer's update per step.
    """

    flops_per_second: Mapping[str, float]
    update_seconds: float = 0.0

    def step_seconds(self, plan: StagePlan) -> float:
        """Seconds of a full training step."""
        flops = {part: value for part, value in plan.step.flops.items() if value}
        passes = sum(value / self.flops_per_second[part] for part, value in flops.items())
        return passes + self.update_seconds

    def hours(self, plan: StagePlan) -> float:
        """Hours of a stage, with its validations."""
        validations = plan.validations * plan.validation_flops / self.flops_per_second[VALIDATION]
        return (plan.full_steps * self.step_seconds(plan) + validations) / 3600


def given(teraflops: float) -> Rates:
    """A device with this throughput in TFLOP/s (10^12 per second) for every pass."""
    return Rates(dict.fromkeys(PARTS, teraflops * 1e12))


@dataclasses.dataclass(frozen=True)
class Check:
    """Measured steps compared with the prediction from their passes.

    Attributes:
      seconds: median time of a step.
      ratio: predicted over measured time of a step, median over rounds.
    """

    seconds: float
    ratio: float


def measure(built: Built, data: ImageData, check: bool = False) -> tuple[Rates, Check | None]:
    """Times each kind of pass of a stage separately, on random images.

    Args:
      built: the stage.
      data: only its shapes are used.
      check: also time whole training steps, alternating with the passes.

    Raises:
      PlanError: a student without a convolution or matrix product.
    """
    plan = built.plan
    batch_size = plan.batch_size
    while batch_size > 8 and plan.flops_per_image("student") * batch_size > _LARGEST_PASS:
        batch_size //= 2
    batch = random_batch(data, batch_size)
    work, calls = {}, {}
    for part, function in _passes(built).items():
        cost = count(function, *batch_signature(data, batch_size)).flops
        work[part] = sum(cost.values())
        if not work[part]:
            raise PlanError(
                f"The {part} of stage {plan.name!r} has no convolution or matrix product to count."
            )
        calls[part] = _call(function, batch)
    calls["update"] = _call(_update(built), ())
    if check:
        step = built.distiller.train_step
        rows = random_batch(data, plan.batch_size, built.distiller.cached_parts)
        calls["step"] = _call(lambda *rows: step(rows), rows)
    rounds = in_rounds(calls)
    rates = _rates(work, {name: statistics.median(turn[name] for turn in rounds) for name in calls})
    if not check:
        return rates, None
    ratios = (_rates(work, turn).step_seconds(plan) / turn["step"] for turn in rounds)
    return rates, Check(
        statistics.median(turn["step"] for turn in rounds), statistics.median(ratios)
    )


def _rates(work: Mapping[str, int], seconds: Mapping[str, float]) -> Rates:
    return Rates({part: flops / seconds[part] for part, flops in work.items()}, seconds["update"])


def in_rounds(calls: Mapping[str, Callable[[], Any]]) -> list[dict[str, float]]:
    """Seconds of each call, in rounds, so that other processes slow all calls down alike."""
    for call in calls.values():
        call()  # compiles
    began = time.perf_counter()
    rounds: list[dict[str, float]] = []
    while len(rounds) < _MIN_ROUNDS or (
        len(rounds) < _MAX_ROUNDS and time.perf_counter() - began < _MAX_SECONDS
    ):
        turn = {}
        for name, call in calls.items():
            started, times = time.perf_counter(), 0
            while not times or time.perf_counter() - started < _SECONDS_PER_CALL:
                call()
                times += 1
            turn[name] = (time.perf_counter() - started) / times
        rounds.append(turn)
    return rounds


def _call(function: Callable, arguments: tuple) -> Callable[[], None]:
    compiled = tf.function(function, autograph=False)

    def call() -> None:
        compiled(*arguments)
        tf.test.experimental.sync_devices()  # calls on a GPU return before they are done

    return call


def _passes(built: Built) -> dict[str, Callable]:
    """Part -> a function of a batch that runs only passes of that kind."""
    distiller = built.distiller
    student = distiller.student
    training = FusedTraining(student)
    inference = FoldedInference(student, distiller.context.attack_precision)
    teachers = [FoldedInference(teacher) for teacher in built.teachers.values()]

    def train(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(losses.cross_entropy(training(images), labels))
        return tape.gradient(loss, student.trainable_variables)

    def attack(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> list[tf.Tensor]:
        model_fn, threat = inference(), distiller.context.threat
        climb = PGD(num_steps=3, start="none")
        # In shards, as in a training step.
        size = -(-images.shape[0] // distiller.context.shards)
        parts = [slice(start, start + size) for start in range(0, images.shape[0], size)]
        return [
            climb(
                model_fn,
                images[rows],
                labels[rows],
                threat=threat,
                seeds=image_seeds(0, ids[rows]),
            )
            for rows in parts
        ]

    def teach(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> list[tf.Tensor]:
        return [teacher()(images) for teacher in teachers]

    return {"student": train, "attack": attack, **({"teachers": teach} if teachers else {})}


def _update(built: Built) -> Callable:
    variables, optimizer = built.distiller.trained_variables, built.distiller.optimizer

    def update() -> None:
        optimizer.apply([tf.zeros(v.shape, v.dtype) for v in variables], variables)

    return update


def random_batch(data: ImageData, batch_size: int, cached: int = 0) -> tuple[tf.Tensor, ...]:
    """Images, labels, ids, and logits of `cached` teachers, as random numbers."""
    seed = [0, 1]
    logits = tf.random.stateless_uniform([batch_size, data.num_classes], seed)
    return (
        tf.random.stateless_uniform([batch_size, *data.image_shape], seed),
        tf.random.stateless_uniform([batch_size], seed, 0, data.num_classes, tf.int32),
        tf.range(batch_size, dtype=tf.int64),
        *[logits] * cached,
    )
