"""Throughput of this device at the passes that a step is made of, and the time that follows."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks.pgd import PGD
from mtard_tf.data.image_data import ImageData
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.planning.flops import PlanError, count
from mtard_tf.planning.plan import PARTS, VALIDATION, Built, StagePlan, batch_signature

# Batches are halved until a pass is below this; above it a larger one is hardly faster.
_LARGEST_PASS = 3e11
_FEWEST_TURNS, _MOST_TURNS = 5, 15
_SECONDS_PER_CALL, _ENOUGH_SECONDS = 0.1, 10.0


@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast a device is.

    Attributes:
      flops_per_second: by part, one of `plan.PARTS`.
      update_seconds: the optimizer's own time per step.
    """

    flops_per_second: Mapping[str, float]
    update_seconds: float = 0.0

    def step_seconds(self, plan: StagePlan) -> float:
        """One full training step."""
        flops = {part: value for part, value in plan.step.flops.items() if value}
        passes = sum(value / self.flops_per_second[part] for part, value in flops.items())
        return passes + self.update_seconds

    def hours(self, plan: StagePlan) -> float:
        """The stage with its validations."""
        validations = plan.validations * plan.validation_flops / self.flops_per_second[VALIDATION]
        return (plan.full_steps * self.step_seconds(plan) + validations) / 3600


def given(teraflops: float) -> Rates:
    """A device that achieves so many TFLOP/s (10^12 a second), whatever the pass."""
    return Rates(dict.fromkeys(PARTS, teraflops * 1e12))


@dataclasses.dataclass(frozen=True)
class Check:
    """Whole steps against what their passes predict.

    Attributes:
      seconds: median of a step.
      ratio: median over turns of the seconds that the passes of the turn predict over the step's.
    """

    seconds: float
    ratio: float


def measure(built: Built, data: ImageData, check: bool = False) -> tuple[Rates, Check | None]:
    """Times the passes of a stage, each alone, on random images.

    Args:
      built: the stage.
      data: only its shapes matter.
      check: time whole training steps as well, in turn with the passes.

    Raises:
      PlanError: a student without a convolution or matrix product.
    """
    plan = built.plan
    batch_size = plan.batch_size
    while batch_size > 8 and plan.flops_per_image("student") * batch_size > _LARGEST_PASS:
        batch_size //= 2
    batch = _random_batch(data, batch_size)
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
        rows = _random_batch(data, plan.batch_size, len(built.distiller.cached_roles))
        calls["step"] = _call(lambda *rows: step(rows), rows)
    turns = in_turns(calls)
    rates = _rates(work, {name: _median(turn[name] for turn in turns) for name in calls})
    if not check:
        return rates, None
    ratios = (_rates(work, turn).step_seconds(plan) / turn["step"] for turn in turns)
    return rates, Check(_median(turn["step"] for turn in turns), _median(ratios))


def _rates(work: Mapping[str, int], seconds: Mapping[str, float]) -> Rates:
    return Rates({part: flops / seconds[part] for part, flops in work.items()}, seconds["update"])


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def in_turns(calls: Mapping[str, Callable[[], Any]]) -> list[dict[str, float]]:
    """Seconds of each call, turn by turn: what is compared must meet the same other processes."""
    for call in calls.values():
        call()  # compiles
    began = time.perf_counter()
    turns: list[dict[str, float]] = []
    while len(turns) < _FEWEST_TURNS or (
        len(turns) < _MOST_TURNS and time.perf_counter() - began < _ENOUGH_SECONDS
    ):
        turn = {}
        for name, call in calls.items():
            started, times = time.perf_counter(), 0
            while not times or time.perf_counter() - started < _SECONDS_PER_CALL:
                call()
                times += 1
            turn[name] = (time.perf_counter() - started) / times
        turns.append(turn)
    return turns


def _call(function: Callable, arguments: tuple) -> Callable[[], None]:
    compiled = tf.function(function, autograph=False)

    def call() -> None:
        compiled(*arguments)
        tf.test.experimental.sync_devices()  # a GPU's call returns before it is done

    return call


def _passes(built: Built) -> dict[str, Callable]:
    """Part -> a function of a batch that does such passes and nothing else."""
    distiller = built.distiller
    student = distiller.student
    training, inference = FusedTraining(student), FoldedInference(student)
    teachers = [FoldedInference(teacher) for teacher in built.teachers.values()]

    def train(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(losses.cross_entropy(training(images), labels))
        return tape.gradient(loss, student.trainable_variables)

    def attack(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> list[tf.Tensor]:
        model_fn, threat = inference(), distiller.threat
        climb = PGD(num_steps=3, start="none")
        # Side by side, as the step attacks them.
        size = -(-images.shape[0] // distiller.attack_shards)
        parts = [slice(start, start + size) for start in range(0, images.shape[0], size)]
        return [
            climb(model_fn, images[rows], labels[rows], threat=threat, seeds=ids[rows, None])
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


def _random_batch(data: ImageData, batch_size: int, cached: int = 0) -> tuple[tf.Tensor, ...]:
    seed = [0, 1]
    logits = tf.random.stateless_uniform([batch_size, data.num_classes], seed)
    return (
        tf.random.stateless_uniform([batch_size, *data.image_shape], seed),
        tf.random.stateless_uniform([batch_size], seed, 0, data.num_classes, tf.int32),
        tf.range(batch_size, dtype=tf.int64),
        *[logits] * cached,
    )
