"""Colours that colour-blind readers can tell apart, each with its own mark and dash."""

from __future__ import annotations

# Okabe and Ito's set ("Color Universal Design", 2008), its yellow darkened to be read on white.
LIGHT = ("#0072b2", "#d55e00", "#008060", "#aa3f86", "#9a6700", "#2f7fb8", "#5b5b5b", "#7a3e00")
DARK = ("#56b4e9", "#ff9a4d", "#3dd6a8", "#e59bcb", "#f0c04a", "#9cd0f5", "#bdbdbd", "#d9a066")
# Of what went wrong, beside a mark.
WRONG = "#b3261e"
# As matplotlib names them; `svg.mark` draws the same.
MARKS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("", "6 3", "2 2", "8 3 2 3")


def colour(place: int) -> str:
    """The colour of the n-th series on white."""
    return LIGHT[place % len(LIGHT)]


def mark(place: int) -> str:
    """The mark of the n-th series: with the colour, no two of 56 series look the same."""
    return MARKS[place % len(MARKS)]


def dash(place: int) -> str:
    """SVG's `stroke-dasharray` of the n-th line."""
    return DASHES[place % len(DASHES)]
