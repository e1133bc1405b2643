"""The figures of a page as inline SVG: lines over epochs or epsilon, and the trade-off."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mtard_tf.reporting import labels, svg

WIDTH, HEIGHT = 440.0, 270.0
# Of more points the labels are numbers.
_NAMED = 12
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 24.0, 22.0, 38.0


@dataclasses.dataclass(frozen=True)
class Axes:
    """Where values lie in a figure.

    Attributes:
      x: least and greatest value from left to right.
      y: the same from the bottom up.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a pair of values; beyond the axes that of the nearest on them."""
        across, up = _share(x, self.x), _share(y, self.y)
        width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
        return _LEFT + across * width, HEIGHT - _BOTTOM - up * height

    def drawn(self, x_ticks: Mapping[float, str], y_ticks: Mapping[float, str]) -> list[str]:
        """Grid lines and the words at them."""
        bottom, parts = HEIGHT - _BOTTOM, []
        for value, words in y_ticks.items():
            _, y = self.at(self.x[0], value)
            parts.append(svg.line(_LEFT, y, WIDTH - _RIGHT, y, "grid"))
            parts.append(svg.text(_LEFT - 6, y + 4, words, "tick", "end"))
        for value, words in x_ticks.items():
            x, _ = self.at(value, self.y[0])
            parts.append(svg.line(x, bottom, x, bottom + 4, "axis"))
            parts.append(svg.text(x, bottom + 16, words, "tick", "middle"))
        parts.append(svg.line(_LEFT, bottom, WIDTH - _RIGHT, bottom, "axis"))
        return parts


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a figure.

    Attributes:
      name: in the legend.
      values: pairs of x and y.
      place: of its colour and mark.
    """

    name: str
    values: Sequence[tuple[float, float]]
    place: int


def lines(
    series: Sequence[Series],
    title: str,
    x_label: str,
    *,
    shares: bool = False,
    from_zero: bool = False,
    x_range: tuple[float, float] | None = None,
    x_ticks: Mapping[float, str] | None = None,
    marked: tuple[float, str] | None = None,
    bounds: Sequence[tuple[float, float, float]] = (),
) -> Markup:
    """Lines over a common x.

    Args:
      series: none of them empty.
      title: says what y is.
      x_label: of the axis.
      shares: y runs from 0 to 100 %; otherwise it fits the values.
      from_zero: y begins at 0.
      x_range: from where to where x runs; by default over the values.
      x_ticks: value -> words; by default round numbers.
      marked: a value of x with a line through the figure, and its words.
      bounds: x, low and high of intervals.
    """
    xs = [x for one in series for x, _ in one.values]
    ys = [y for one in series for _, y in one.values]
    first, last = x_range or (min(xs), max(xs))
    ends = (first, last) if last > first else (first - 0.5, first + 0.5)
    y_ticks = (
        [0, 0.2, 0.4, 0.6, 0.8, 1.0]
        if shares
        else ticks(min(0, *ys) if from_zero else min(ys), max(ys))
    )
    axes = Axes(ends, (y_ticks[0], y_ticks[-1]))
    named = x_ticks or {x: f"{x:g}" for x in ticks(*ends) if first <= x <= last}
    parts = axes.drawn(named, {y: f"{y:.0%}" if shares else f"{y:g}" for y in y_ticks})
    parts.append(svg.text(WIDTH - _RIGHT, HEIGHT - 4, x_label, "label", "end"))
    if marked is not None:
        x, top = axes.at(marked[0], axes.y[1])
        parts.append(svg.line(x, top, x, HEIGHT - _BOTTOM, "marked"))
        half = len(marked[1]) * svg.LETTER / 2
        middle = min(max(x, half), WIDTH - half)
        parts.append(svg.text(middle, top - 7, marked[1], "label", "middle"))
    for x, low, high in bounds:
        parts.append(svg.line(*axes.at(x, low), *axes.at(x, high), "whisker"))
    # The first line, which has no dashes, lies below the others and its marks, smaller, above.
    parts += [svg.path([axes.at(*value) for value in one.values], one.place) for one in series]
    for depth, one in reversed(list(enumerate(series))):
        at = [axes.at(x, y) for x, y in one.values]
        step = -(-len(at) // 12)
        parts += [
            svg.mark(*point, one.place, 2.8 + 0.7 * min(depth, 3)) for point in at[::-1][::step]
        ]
    return svg.figure(WIDTH, HEIGHT, parts, title)


def trade_off(
    points: Sequence[Mapping[str, Any]],
    y_label: str,
    close_up: bool = False,
    curve: Sequence[str] = (),
) -> Markup:
    """Clean against robust accuracy; labels that found no free place are numbers.

    Args:
      points: `label`, `clean`, `robust`, their deviations `clean_deviation` and
        `robust_deviation` (or None), and `place` of the mark.
      y_label: of the axis.
      close_up: the axes fit the points; otherwise both run from 0 to 100 %.
      curve: labels of points that a line joins, in its order; those absent are passed over.
    """
    x_ticks = y_ticks = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    if close_up:
        x_ticks = ticks(*ends(points, "clean"))
        y_ticks = ticks(*ends(points, "robust"))
    axes = Axes((x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]))
    digits = 1 if close_up and min(x_ticks[1] - x_ticks[0], y_ticks[1] - y_ticks[0]) < 0.01 else 0
    parts = axes.drawn(*({v: f"{v:.{digits}%}" for v in t} for t in (x_ticks, y_ticks)))
    parts.append(svg.text(WIDTH - _RIGHT, HEIGHT - 4, "clean accuracy", "label", "end"))
    parts.append(svg.text(4, 12, y_label, "label"))
    at = [axes.at(point["clean"], point["robust"]) for point in points]
    box = (_LEFT, _TOP - 4, WIDTH - 2, HEIGHT - _BOTTOM)
    numbers = [str(point["place"] + 1) for point in points]
    named = [point["label"] for point in points] if len(points) <= _NAMED else numbers
    bars = [bar for point in points for bar in _bars(axes, point)]
    placed = labels.place(at, named, numbers, box, [_around(*bar) for bar in bars])
    found = dict(zip((point["label"] for point in points), at, strict=True))
    line = itertools.pairwise(found[label] for label in curve if label in found)
    parts += [svg.line(x1, y1, x2, y2, "whisker") for (x1, y1), (x2, y2) in line]
    parts += [
        svg.line(*label.leader[0], *label.leader[1], "leader") for label in placed if label.leader
    ]
    parts += [svg.line(*bar, "whisker") for bar in bars]
    for point, (x, y) in zip(points, at, strict=True):
        words = f"{point['label']}: clean {point['clean']:.1%}, robust {point['robust']:.1%}"
        parts.append(svg.mark(x, y, point["place"], title=words))
    parts += [svg.text(label.x, label.y, label.words, "over", label.anchor) for label in placed]
    return svg.figure(WIDTH, HEIGHT, parts, f"Clean accuracy against {y_label}")


def _bars(axes: Axes, point: Mapping[str, Any]) -> Iterator[tuple[float, float, float, float]]:
    """The ends of a point's bars of deviation, x and y of each."""
    clean, robust = point["clean"], point["robust"]
    if wide := point.get("clean_deviation"):
        yield (*axes.at(clean - wide, robust), *axes.at(clean + wide, robust))
    if high := point.get("robust_deviation"):
        yield (*axes.at(clean, robust - high), *axes.at(clean, robust + high))


def _around(x1: float, y1: float, x2: float, y2: float) -> labels.Box:
    """What a bar covers."""
    return (min(x1, x2) - 2, min(y1, y2) - 2, max(x1, x2) + 2, max(y1, y2) + 2)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that enclose both ends, about `count` of them."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value: in the middle
        half = abs(high) / 2 or 0.5
        low, high = low - half, high + half
    span = high - low
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 12 - math.floor(math.log10(step))
    return [round(place * step, digits) for place in range(first, max(last, first + 1) + 1)]


def ends(points: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float]:
    """From where to where `key` of the points runs, with its deviations."""
    spread = [(point[key], point.get(f"{key}_deviation") or 0.0) for point in points]
    return min(v - d for v, d in spread), max(v + d for v, d in spread)


def _share(value: float, ends: tuple[float, float]) -> float:
    return min(max((value - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0)
