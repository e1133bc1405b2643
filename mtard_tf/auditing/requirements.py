"""Requirements on an audit, such as `worst_case>=0.45`: how they are written."""

from __future__ import annotations

import dataclasses
import decimal
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from mtard_tf.registry import unknown_name

ORDERS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"(?:([^:<>=!]+):)?\s*([^:<>=!]+?)\s*(>=|<=|==|!=|>|<)\s*([^<>=!]+?)\s*")
# Metrics that are exact numbers; all others but the verdict are shares of the images.
COUNTS = ("parameters", "examples")
BY_ATTACK = ("w_robust", "nrr", "worst_class")
WORST, ROUNDED, VERDICT = "worst_case", "eight_bit", "verdict"
VERDICTS = ("void", "masked", "note", "believable")  # worst first


class RequirementError(ValueError):
    """A requirement that cannot be judged. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Requirement:
    """One condition.

    Attributes:
      text: as it was written.
      stage: the stage it is of; "" for all that are judged.
      metric: `clean`, `worst_case`, `eight_bit`, the name of an attack, `w_robust`, `nrr` or
        `worst_class` (each of the worst case, or followed by "." and an attack), `parameters`,
        `examples`, `verdict`.
      order: how the figure has to lie to the bound.
      bound: a number, or a verdict.
    """

    text: str
    stage: str
    metric: str
    order: str
    bound: float | str


def parse(text: str) -> Requirement:
    """A requirement from `[STAGE:]METRIC ORDER BOUND`; a bound of an accuracy may be "45%".

    Raises:
      RequirementError: text of another form, or a bound that the metric cannot have.
    """
    match = _FORM.fullmatch(str(text).strip())
    if match is None:
        raise RequirementError(
            f"The requirement {text!r} is not METRIC>=NUMBER; write it such as 'worst_case>=0.45', "
            "in quotes, or 'verdict!=masked'."
        )
    stage, metric, order, given = match.groups()
    bound: float | str = given
    if metric == VERDICT:
        if order not in ("==", "!=") or given not in VERDICTS:
            raise RequirementError(
                f"The requirement {text!r}: a verdict is == or != one of {', '.join(VERDICTS)}."
            )
    else:
        bound = _number(given, text)
        if order not in ORDERS:
            raise RequirementError(f"The requirement {text!r}: use >=, <=, > or < with a number.")
        if metric not in COUNTS and not 0 <= bound <= 1:
            raise RequirementError(
                f"The requirement {text!r}: accuracies run from 0 to 1; write {bound:g} % as "
                f"{metric}{order}{bound / 100:g}."
            )
    return Requirement(str(text).strip(), (stage or "").strip(), metric, order, bound)


def check(
    requirements: Iterable[Requirement], attacks: Sequence[str], stages: Sequence[str]
) -> None:
    """Refuses, before an audit, what it will not have: unknown metrics and stages.

    Args:
      requirements: all of them.
      attacks: names of all attacks that the audit may have.
      stages: names of what is audited.

    Raises:
      RequirementError: with the nearest name.
    """
    columns = ["clean", *attacks, WORST]
    known = [*columns, ROUNDED, *BY_ATTACK, *COUNTS, VERDICT]
    known += [f"{metric}.{name}" for metric in BY_ATTACK for name in columns[1:]]
    known.append("worst_class.clean")
    for one in requirements:
        if one.metric not in known:
            shown = known if "." in one.metric else [name for name in known if "." not in name]
            raise RequirementError(unknown_name("metric", one.metric, shown))
        if one.stage and one.stage not in stages:
            raise RequirementError(unknown_name("stage of a requirement", one.stage, [*stages]))


def _number(given: str, text: str) -> float:
    try:  # in decimals: 28.3 / 100 in binary is above 0.283
        number = float(decimal.Decimal(given.removesuffix("%")) / (100 if "%" in given else 1))
    except (ArithmeticError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RequirementError(
            f"The requirement {text!r}: {given!r} is no number; give 0.45 or 45%."
        )
    return number
