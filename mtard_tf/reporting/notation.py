"""Numbers as people write them: percentages to one decimal, epsilon in levels of 255."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

# Levels that differ by less are one number that went through float32.
_ROUNDING = 1e-4


def percent(value: float | None) -> str:
    """A fraction of 1 as a percentage with one decimal; "n/a" for None and NaN."""
    if value is None or math.isnan(value):
        return "n/a"
    return f"{value:.1%}"


def points(value: float) -> str:
    """A difference of two fractions in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def interval(bounds: Sequence[float]) -> str:
    """The ends of an interval of fractions."""
    return f"{percent(bounds[0])} to {percent(bounds[1])}"


def radius(epsilon: float, norm: str = "linf") -> str:
    """An epsilon in [0, 1] pixel units as papers write it.

    In linf that is in levels of 255, "25.5/255"; in l2, where papers write the number itself, only
    a radius that is a whole number of levels and no short decimal is written so.
    """
    levels = 255 * epsilon
    if norm == "linf":
        near = round(levels, 2)
        if near == 0:
            return "0"
        return f"{near:g}/255" if abs(levels - near) < _ROUNDING else f"{levels:.4g}/255"
    whole = round(levels)
    short = abs(epsilon - round(epsilon, 3)) < 1e-6
    return f"{whole}/255" if abs(levels - whole) < _ROUNDING and not short else f"{epsilon:.4g}"


def radii(epsilons: Sequence[float], norm: str) -> tuple[list[str], str]:
    """Words for the marks of an axis of epsilon, and its label."""
    words = [radius(epsilon, norm) for epsilon in epsilons]
    if norm != "linf":
        return words, f"epsilon ({norm})"
    return [word.removesuffix("/255") for word in words], f"epsilon ({norm}, in 1/255)"


def threat(found: Mapping) -> str:
    """A threat model (`norm`, `epsilon`) in a few words."""
    return f"{found['norm']}, epsilon {radius(found['epsilon'], found['norm'])}"


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class; beyond the names a model may have one of outliers."""
    return str(names[label]) if label < len(names) else "class of outliers"


def worst_cases(report: Mapping) -> dict[str, Mapping]:
    """The worst case of a report, and that of 8 bits where the report has it, by their names."""
    entries = {"worst case": report["worst_case"]}
    if "eight_bit" in report:
        entries["worst case, 8 bits"] = report["eight_bit"]
    return entries


def eight_bit(report: Mapping) -> str:
    """What the row of 8 bits is, and what it changes; "" for a report without it."""
    if "eight_bit" not in report:
        return ""
    entry, changes = report["eight_bit"], []
    reach = "in the same ball" if entry["levels"] is None else f"within {entry['levels']}/255"
    for key, one, several in (
        ("come_back", "that fell is right again", "that fell are right again"),
        ("fall_only_here", "falls only then", "fall only then"),
    ):
        changes.append(f"{entry[key]:,} {one if entry[key] == 1 else several}")
    return (
        f"8 bits: the attacks' images on whole levels {reach}, as the uint8 signature takes them; "
        f"{' and '.join(changes)}."
    )


def shortened(text: str, length: int) -> str:
    """Text of at most `length` characters; what is cut off is an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def date(written: str) -> str:
    """A date as files have it, ISO 8601, as people read it."""
    return written.replace("T", " ").replace("+00:00", " UTC")


def seconds(value: float) -> str:
    """A duration: "12.3 s", "4 min 5 s", "2 h 3 min"."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
