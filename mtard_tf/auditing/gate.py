"""The gate: whether audits meet their requirements, judged from `report.json` alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mtard_tf.auditing.requirements import (
    BY_ATTACK,
    COUNTS,
    ORDERS,
    ROUNDED,
    VERDICT,
    VERDICTS,
    WORST,
    Requirement,
)
from mtard_tf.reporting import advice, notation

EXIT_CODE = 3
_Z = 1.959964  # of a 95 % interval


class Unmet(Exception):
    """The audit ended well and does not meet its requirements.

    Attributes:
      code: with which the process exits.
    """

    code = EXIT_CODE


@dataclasses.dataclass(frozen=True)
class Judged:
    """What became of a requirement.

    Attributes:
      name: of the stage or model.
      requirement: that was judged.
      met: whether it holds.
      found: the figure with its interval in words, or why there is none.
    """

    name: str
    requirement: Requirement
    met: bool
    found: str

    @property
    def line(self) -> str:
        """For people."""
        word = "met" if self.met else "not met"
        return f"{self.name}: {self.requirement.text} is {word}: {self.found}."


def judge(requirement: Requirement, report: Mapping, confident: bool = False) -> Judged:
    """Whether an audit meets a requirement; a figure that is missing or NaN does not.

    Args:
      requirement: of any stage.
      report: content of a `report.json`.
      confident: whether the end of the 95 % interval that is nearer to the bound must hold, too.
    """
    name = str(report["model"])
    if requirement.metric == VERDICT:
        return _judged_verdict(requirement, report, name)
    value, bounds = _figure(requirement.metric, report)
    if value is None or math.isnan(value):
        why = "is not a number" if value is not None else "is not in the audit"
        return Judged(name, requirement, False, f"{requirement.metric} {why}")
    holds, bound = ORDERS[requirement.order], float(requirement.bound)
    words = f"{value:,}" if requirement.metric in COUNTS else notation.percent(value)
    if requirement.metric not in COUNTS:
        words += f" (95 %: {notation.interval(bounds)})" if bounds else " (without an interval)"
    met = holds(value, bound)
    if confident and requirement.metric not in COUNTS:
        end = (bounds or [math.nan] * 2)[requirement.order in ("<=", "<")]
        if met and not holds(end, bound):
            words += ", whose nearer end does not meet it"
        met = met and holds(end, bound)
    if advice.severity(report) in ("masked", "void") and requirement.metric not in COUNTS:
        words += f"; the audit is {advice.severity(report)}"
    return Judged(name, requirement, met, words)


def judge_all(
    requirements: Sequence[Requirement],
    reports: Mapping[str, Mapping | None],
    default: Sequence[str],
    confident: bool = False,
) -> list[Judged]:
    """Every requirement on its stage, or on those of `default`.

    Args:
      requirements: from `parse`.
      reports: stage -> `report.json`; None for one that has no audit.
      default: stages that requirements without a stage are of.
      confident: see `judge`.
    """
    judged = []
    for one in requirements:
        for name in [one.stage] if one.stage else default:
            report = reports.get(name)
            if report is None:
                judged.append(Judged(name, one, False, "there is no audit of it"))
            else:
                judged.append(judge(one, {**report, "model": name}, confident))
    return judged


def closing(text: str, judged: Sequence[Judged]) -> str:
    """What a command prints at its end.

    Raises:
      Unmet: a requirement is not met; the message is all that is to be printed.
    """
    unmet = [one.line for one in judged if not one.met]
    if unmet:
        raise Unmet("\n".join([text, *unmet]))
    return f"{text}\nAll {len(judged)} requirements are met." if judged else text


def _judged_verdict(requirement: Requirement, report: Mapping, name: str) -> Judged:
    if "findings" not in report:
        return Judged(name, requirement, False, "verdict is not in the audit")
    found = "believable" if (kind := advice.severity(report)) == "none" else kind
    place, bound = VERDICTS.index(found), VERDICTS.index(str(requirement.bound))
    # What is worse than the verdict that is refused is refused as well.
    met = place == bound if requirement.order == "==" else place > bound
    if requirement.order == "!=" and requirement.bound == VERDICTS[-1]:
        met = place != bound
    return Judged(name, requirement, met, f"the verdict is {found}")


def _figure(metric: str, report: Mapping) -> tuple[float | None, Sequence[float] | None]:
    """A metric's value and 95 % interval; None where the report has none."""
    if metric in COUNTS:
        return report.get(metric), None
    if metric == "clean":
        return report.get("clean"), report.get("clean_interval")
    kind, _, name = metric.partition(".")
    name = name or (WORST if kind in BY_ATTACK else kind)
    if kind == "worst_class":
        return _worst_class(report, name)
    key = kind if kind in BY_ATTACK else "robust_accuracy"
    own = name in (WORST, ROUNDED)
    entry = report.get(name) if own else report["attacks"].get(name)
    return (entry or {}).get(key), (entry or {}).get(f"{key}_interval")


def _worst_class(report: Mapping, column: str) -> tuple[float | None, Sequence[float] | None]:
    """The worst class's accuracy with Wilson's interval over its images."""
    found: dict[str, Any] = report.get("worst_class", {}).get(column, {})
    if "accuracy" not in found:
        return None, None
    value = float(found["accuracy"])
    count = report["per_class"].get(found["class"], {}).get("examples", 0)
    if not count or math.isnan(value):
        return value, None
    spread = _Z**2 / count
    middle = (value + spread / 2) / (1 + spread)
    half = math.sqrt(value * (1 - value) * spread + spread**2 / 4) / (1 + spread)
    return value, (max(0.0, middle - half), min(1.0, middle + half))
