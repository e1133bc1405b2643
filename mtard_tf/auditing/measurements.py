"""The measures of an audit: run batch by batch, summed up, and laid out as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from mtard_tf.auditing.batch_results import BatchRunner
from mtard_tf.auditing.compiled import last_line
from mtard_tf.files import digest
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.reporting.tables import Table

Measured = Mapping[str, np.ndarray]


def gather(
    runner: BatchRunner, measures: Mapping[str, Callable], temperature: float
) -> dict[str, np.ndarray]:
    """Runs every measure on its first images.

    Args:
      runner: of the audit.
      measures: name -> measure, see `mtard_tf.measuring`.
      temperature: at which the model was trained.

    Returns:
      float32 `[images]` for each column: "name" for the column "value", else "name.column".

    Raises:
      EvaluationError: a measure failed, or did not return its columns; the message names it.
    """
    found: dict[str, np.ndarray] = {}
    for name, measure in measures.items():
        columns = list(_columns(measure))
        values = runner.run(
            name,
            digest(repr(measure), temperature),
            _compute(runner, name, measure, temperature),
            getattr(measure, "examples", None),
            shape=(len(columns),),
        )
        # float32 also where they were stored as text.
        for column, row in zip(columns, values.astype(np.float32).T, strict=True):
            found[_key(name, column)] = row
    return found


def entries(
    measured: Measured,
    correct: Mapping[str, np.ndarray],
    measures: Mapping[str, Callable],
    temperature: float,
) -> dict:
    """What measures add to `report.json`; nothing, if there are none.

    Args:
      measured: from `gather`.
      correct: "clean" and each attack -> which images are classified correctly, bool `[examples]`.
      measures: as for `gather`.
      temperature: as for `gather`.
    """
    if not measures:
        return {}
    return {
        "temperature": float(temperature),
        "measures": summarise(measured, measures),
        "success_rates": success_rates(correct),
    }


def summarise(measured: Measured, measures: Mapping[str, Callable]) -> dict[str, dict]:
    """What a report says of each column: its definition, and the moments of its finite values.

    Of a log10 also `mean_of_values`, the mean of 10 to its power, in float64. Where no image has a
    value, the numbers are None.
    """
    entries = {}
    for name, measure in measures.items():
        for column, definition in _columns(measure).items():
            values = measured[_key(name, column)].astype(np.float64)
            finite = values[np.isfinite(values)]
            entry = {"definition": definition, "examples": len(values), "defined": len(finite)}
            statistics: dict[str, Callable] = {
                "mean": np.mean,
                "standard_deviation": np.std,
                "median": np.median,
                "minimum": np.min,
                "maximum": np.max,
            }
            if column in getattr(measure, "logarithmic", ()):
                statistics["mean_of_values"] = lambda logs: np.mean(10**logs)
            for key, statistic in statistics.items():
                entry[key] = float(statistic(finite)) if len(finite) else None
            entries[_key(name, column)] = entry
    return entries


def success_rates(correct: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Attack -> share of the images that it breaks, of those correct when clean; None of none."""
    clean = correct["clean"]
    return {
        name: float(np.mean(~after[clean])) if clean.any() else None
        for name, after in correct.items()
        if name != "clean"
    }


def markdown(report: Mapping) -> list[str]:
    """The sections of a report that has measures."""
    lines = [
        "",
        "## Measures",
        "",
        f"Training temperature {report['temperature']:g}. Mean, standard deviation and median are "
        "over the images that have a number, of those that were measured.",
        "",
    ]
    head = ("measure", "mean", "standard deviation", "median", "images", "what it is")
    rows = [
        [
            name,
            *(_number(entry[key]) for key in ("mean", "standard_deviation", "median")),
            f"{entry['defined']:,} of {entry['examples']:,}",
            entry["definition"],
        ]
        for name, entry in report["measures"].items()
    ]
    lines += [*Table(head, rows, "lrrrrl").markdown(), ""]
    rates = report["success_rates"].items()
    rows = [[name, "" if rate is None else f"{rate:.2%}"] for name, rate in rates]
    return [*lines, *Table(("attack", "success rate, of images right when clean"), rows).markdown()]


def _columns(measure: Callable) -> Mapping[str, str]:
    """Column -> definition; of a measure without `columns`, its one value and its docstring."""
    text = (type(measure).__doc__ or type(measure).__name__).strip().splitlines()[0]
    return getattr(measure, "columns", {"value": text})


def _key(name: str, column: str) -> str:
    return name if column == "value" else f"{name}.{column}"


def _compute(runner: BatchRunner, name: str, measure: Callable, temperature: float) -> Callable:
    """`(images, labels, ids) -> [batch, columns]`, compiled at the first batch."""
    compiled = runner.evaluator.compiled
    columns = list(_columns(measure))

    def run(
        model_fn: Callable, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor
    ) -> tf.Tensor:
        values = measure(
            model_fn, images, labels, threat=compiled.threat, seeds=seeds, temperature=temperature
        )
        values = values if isinstance(values, Mapping) else {"value": values}
        if set(values) != set(columns):
            raise ValueError(f"it returned {', '.join(values)}; its columns are {columns}.")
        rows = [tf.cast(values[column], tf.float32) for column in columns]
        return tf.stack([tf.ensure_shape(row, [None]) for row in rows], axis=1)

    def compute(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> np.ndarray:
        try:
            return compiled.run((measure, temperature), run, images, labels, ids).numpy()
        except (ValueError, tf.errors.OpError) as error:
            raise EvaluationError(
                f"The measure {name} failed: {last_line(error)} Leave it out with --skip={name}."
            ) from error

    return compute


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
