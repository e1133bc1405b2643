"""A plan as Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtard_tf.planning.plan import PARTS, StagePlan
from mtard_tf.planning.rates import Check, Rates
from mtard_tf.reporting.tables import Table

_NOTES = """\
FLOPs are those of convolutions and matrix products, forward and backward, 2 per multiply-add.
Hours are those of training steps and validations, without data loading, compiling and mtard-eval.
Memory is a lower bound: weights, gradients, optimizer slots, activations that gradients read."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A stage of the table.

    Attributes:
      plan: its cost.
      rates: of the device.
      check: measured steps; None if they were not timed.
    """

    plan: StagePlan
    rates: Rates
    check: Check | None = None


def markdown(rows: Sequence[Row], device: str) -> str:
    """The table of the stages' costs, and that of measured steps.

    Args:
      rows: in the order of the run; at least one.
      device: one line.
    """
    header = ("stage", "parameters", *(f"{part}, GFLOP/image" for part in PARTS), "GFLOP/step")
    header += ("batch", "epochs", "steps", "s/step", "hours", "memory, MiB")
    cells = [_cells(row) for row in rows]
    hours = sum(row.rates.hours(row.plan) for row in rows)
    steps = sum(row.plan.steps for row in rows)
    memory = max(row.plan.memory_bytes for row in rows)
    total = ["total", *[""] * 7, f"{steps:,}", "", f"{hours:.3g}", f"{memory / 2**20:,.0f}"]
    lines = [*Table(header, [*cells, total]).markdown(), "", device]
    checks = [
        [row.plan.name, f"{row.check.seconds:.3g}", f"{row.check.ratio:.2f}"]
        for row in rows
        if row.check
    ]
    if checks:
        lines += [
            "",
            *Table(("stage", "s/step, measured", "predicted over measured"), checks).markdown(),
        ]
    return "\n".join([*lines, "", _NOTES])


def _cells(row: Row) -> list[str]:
    plan, rates = row.plan, row.rates
    return [
        plan.name,
        f"{plan.parameters:,}",
        *(_number(plan.flops_per_image(part) / 1e9) for part in PARTS),
        _number(sum(plan.step.flops.values()) / 1e9),
        str(plan.batch_size),
        str(plan.epochs),
        f"{plan.steps:,}",
        f"{rates.step_seconds(plan):.3g}",
        f"{rates.hours(plan):.3g}",
        f"{plan.memory_bytes / 2**20:,.0f}",
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
