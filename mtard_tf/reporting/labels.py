"""Places for the labels of points in a figure, so that none covers another or a mark."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from mtard_tf.reporting import notation, svg

Box = tuple[float, float, float, float]  # left, top, right, bottom

_HEIGHT, _MARK, _LONGEST = 13.0, 6.0, 22
# Distances of a label from its point; beyond the first, a line leads to it.
_DISTANCES = (9.0, 20.0, 34.0, 50.0)


@dataclasses.dataclass(frozen=True)
class Label:
    """A label in its place.

    Attributes:
      words: what it says.
      x: where they begin, or end.
      y: of their baseline.
      anchor: which of both `x` is: SVG's "start", "middle" or "end".
      leader: the ends of a line to the point; empty where it lies beside it.
    """

    words: str
    x: float
    y: float
    anchor: str = "start"
    leader: tuple[tuple[float, float], ...] = ()


def place(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    numbers: Sequence[str],
    inside: Box,
    bars: Sequence[Box] = (),
) -> list[Label]:
    """A label for each point: its name, or its number where that finds no free place, or none.

    Points in a crowd choose first.

    Args:
      points: x and y of each, y downwards.
      names: of the same.
      numbers: of the same.
      inside: what no label leaves.
      bars: of errors, which a label covers only where no other place is left.
    """
    taken: list[Box] = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in points]
    found: dict[int, Label] = {}
    for index in sorted(range(len(points)), key=lambda i: (-_crowd(points, i), i)):
        name, number, free = (
            notation.shortened(names[index], _LONGEST),
            numbers[index],
            [*taken, *bars],
        )
        for words, avoided in ((name, free), (number, free), (number, taken)):
            label = _free(points[index], words, avoided, inside)
            if label is not None:
                found[index] = label
                taken.append(box(label))
                break
    return [found[index] for index in sorted(found)]


def _crowd(points: Sequence[tuple[float, float]], index: int) -> int:
    x, y = points[index]
    return sum(abs(a - x) < 80 and abs(b - y) < 40 for a, b in points)


def _free(
    point: tuple[float, float], words: str, taken: Sequence[Box], inside: Box
) -> Label | None:
    for label in _candidates(point, words):
        left, top, right, bottom = found = box(label)
        within = inside[0] <= left and inside[1] <= top and right <= inside[2]
        if within and bottom <= inside[3] and all(apart(found, other) for other in taken):
            return label
    return None


def _candidates(point: tuple[float, float], words: str) -> Iterator[Label]:
    x, y = point
    for distance in _DISTANCES:
        near = distance == _DISTANCES[0]
        for across, down in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
            anchor = {1: "start", 0: "middle", -1: "end"}[across]
            end = (x + across * distance, y + down * distance)
            yield Label(words, end[0], end[1] + 4, anchor, () if near else (point, end))


def box(label: Label) -> Box:
    """What a label covers."""
    width = len(label.words) * svg.LETTER
    left = label.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[label.anchor] * width
    return (left - 1, label.y - _HEIGHT + 2, left + width + 1, label.y + 3)


def apart(one: Box, other: Box) -> bool:
    """Whether two boxes share no point but of their edges."""
    beside = one[2] <= other[0] or other[2] <= one[0]
    return beside or one[3] <= other[1] or other[3] <= one[1]
