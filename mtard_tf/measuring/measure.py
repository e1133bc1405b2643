"""The base of all measures: their call, and what it checks."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import tensorflow as tf

from mtard_tf.attacks.attack import ModelFn, Problem
from mtard_tf.threat import ThreatModel


@dataclasses.dataclass(frozen=True)
class Measure(abc.ABC):
    """Base of a measure: its fields are settings, and `run` computes its columns.

    Attributes:
      examples: measures only the first N images; all of them if None.
      columns: name -> definition in one line; "value" is reported under the measure's own name.
      logarithmic: names of the columns that are a log10.
    """

    examples: int | None = None
    columns: ClassVar[Mapping[str, str]]
    logarithmic: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self,
        model_fn: ModelFn,
        images: tf.Tensor,
        labels: tf.Tensor,
        *,
        threat: ThreatModel,
        seeds: tf.Tensor,
        temperature: float,
    ) -> dict[str, tf.Tensor]:
        """Column -> float32 `[batch]`; see the package docstring.

        Raises:
          ValueError: images, labels or seeds of another shape or type.
        """
        problem = Problem(model_fn, images, labels, threat, seeds)
        return self.run(problem.checked(type(self).__name__), temperature)

    @abc.abstractmethod
    def run(self, problem: Problem, temperature: float) -> dict[str, tf.Tensor]:
        """The columns, each float32 `[batch]`."""
