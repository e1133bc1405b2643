"""Which settings make the steps of a stage faster here: what `mtard-plan --tune` times."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from mtard_tf.data.image_data import ImageData
from mtard_tf.distiller import compiled_step
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.precision import native_bfloat16
from mtard_tf.planning.plan import Built
from mtard_tf.planning.rates import random_batch
from mtard_tf.reporting.tables import Table
from mtard_tf.threat import ThreatModel

# Below this share of the time a setting is worth its line, if no more than one round of the five
# saw it slower: the rest is the noise of a machine.
WORTH = 0.95
_ROUNDS, _SECONDS = 5, 0.5
_HALF = "mixed_bfloat16"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A setting of a stage beside the best before it.

    Attributes:
      scope: of the stage in gin.
      name: of the attribute of `Stage`.
      value: what was tried.
      seconds: of a step with it.
      share: of the time of a step without it, median over rounds.
      faster: whether that is more than noise.
      rounds_otherwise: whether weights are computed in fewer bits, not only faster.
    """

    scope: str
    name: str
    value: Any
    seconds: float
    share: float
    faster: bool
    rounds_otherwise: bool

    @property
    def binding(self) -> str:
        return f"{self.scope}/Stage.{self.name} = {self.value!r}"


def trials(built: Built, data: ImageData, threat: ThreatModel) -> Iterator[Trial]:
    """Tries the settings in turn; what is worth it stays for those after it, if it is exact.

    Args:
      built: the stage as the run file has it; what it sets itself is not changed.
      data: only its shapes are used.
      threat: of the experiment.
    """
    best, teachers = built.stage, built.teachers
    stage, timed = best, _steps(best, teachers, data, threat)
    attacks = "adversarial" in built.distiller.student_views
    for name, value, rounds_otherwise in candidates(stage, attacks):
        changed = dataclasses.replace(best, **{name: value})
        other = _steps(changed, teachers, data, threat)
        found = paired(timed, other)
        yield Trial(stage.scope, name, value, *found, rounds_otherwise)
        if found[-1] and not rounds_otherwise:
            best, timed = changed, other


def candidates(stage: Stage, attacks: bool) -> Iterator[tuple[str, Any, bool]]:
    """(attribute, value, whether it computes in fewer bits) of what the stage leaves open."""
    if stage.attack_shards is None and attacks:
        yield from (("attack_shards", parts, False) for parts in (1, 4))
    if stage.steps_per_execution == 1:
        yield "steps_per_execution", 10, False
    if (stage.precision, stage.attack_precision) == ("float32", None) and native_bfloat16():
        names = ("attack_precision", "precision") if attacks else ("precision",)
        yield from ((name, _HALF, True) for name in names)


def _steps(
    stage: Stage, teachers: Mapping[str, keras.Model], data: ImageData, threat: ThreatModel
) -> Callable[[], float]:
    """Trains on one random batch, as a run does, for about a second; returns seconds per step."""
    distiller = stage.build(data, teachers, threat, 0)
    compiled_step.choose(stage.jit_compile, distiller, data, stage.batch_size, lambda line: None)
    batch = random_batch(data, min(stage.batch_size, len(data.train)), distiller.cached_parts)
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    at_once = stage.steps_per_execution

    def fit(steps: int) -> float:
        began = time.perf_counter()
        distiller.fit(batches, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
        return (time.perf_counter() - began) / steps

    fit(at_once)  # compiles
    steps = at_once * max(1, round(_SECONDS / (at_once * fit(2 * at_once))))
    return lambda: fit(steps)


def paired(one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float, bool]:
    """Seconds of a step of the other, its share of one's, and whether that is more than noise.

    They run in turn, so that other processes slow both alike; medians over the rounds.
    """
    rounds = [(one(), other()) for _ in range(_ROUNDS)]
    shares = [b / a for a, b in rounds]
    share = statistics.median(shares)
    faster = share <= WORTH and sum(s >= 1 for s in shares) <= 1
    return statistics.median(b for _, b in rounds), share, faster


def markdown(tried: list[Trial]) -> str:
    """The table of all trials."""
    header = ("setting", "ms/step", "share of the time before", "")
    rows = [[t.binding, f"{1e3 * t.seconds:.1f}", f"{t.share:.2f}", _judged(t)] for t in tried]
    return "\n".join(Table(header, rows).markdown())


def _judged(trial: Trial) -> str:
    if not trial.faster:
        return ""
    return "faster, fewer bits" if trial.rounds_otherwise else "faster"


def gin_text(tried: list[Trial], device: str) -> str:
    """A gin file: what is faster; settings that also change numbers are comments.

    Args:
      tried: all trials of all stages.
      device: one line on what was measured.
    """
    # Of two values of one setting, the one that was kept last.
    kept = {(t.scope, t.name): t for t in tried if t.faster}
    lines = [f"# Timed by mtard-plan --tune. {device}"]
    for trial in kept.values():
        mark = "# In bfloat16: " if trial.rounds_otherwise else ""
        lines.append(f"{mark}{trial.binding}  # {trial.share:.2f} of the time of a step")
    return "\n".join(lines) + "\n"
