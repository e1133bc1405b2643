"""Pieces of inline SVG. Colours are classes of the page's style sheet, which has dark ones, too.

Every text is escaped here, and every number is written with at most two decimals, so that the same
figures are the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import markupsafe
from markupsafe import Markup

from mtard_tf.reporting import palette

# Of the style sheet's 12 pixel font, rather too wide; text is placed by it, never measured.
LETTER = 7.2

_UNIT = {  # within a circle of radius 1
    "s": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "^": ((0, -1.1), (1, 0.8), (-1, 0.8)),
    "v": ((0, 1.1), (1, -0.8), (-1, -0.8)),
    "D": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
    "P": (
        *((-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)),
        *((0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)),
    ),
    "X": (
        *((0, -0.5), (0.6, -1.1), (1.1, -0.6), (0.5, 0), (1.1, 0.6), (0.6, 1.1)),
        *((0, 0.5), (-0.6, 1.1), (-1.1, 0.6), (-0.5, 0), (-1.1, -0.6), (-0.6, -1.1)),
    ),
}


def figure(width: float, height: float, parts: Sequence[str], title: str) -> Markup:
    """A whole figure; `title` is what screen readers say of it."""
    return Markup(
        f'<svg class="figure" viewBox="0 0 {number(width)} {number(height)}" role="img">'
        f"<title>{markupsafe.escape(title)}</title>{''.join(parts)}</svg>"
    )


def number(value: float) -> str:
    """A coordinate."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """One line of text, its baseline at `y`."""
    return (
        f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}" class="{kind}">'
        f"{markupsafe.escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    first, last = (
        f'x{n}="{number(x)}" y{n}="{number(y)}"' for n, x, y in ((1, x1, y1), (2, x2, y2))
    )
    return f'<line {first} {last} class="{kind}"/>'


def path(points: Sequence[tuple[float, float]], place: int) -> str:
    """The line of the n-th series."""
    joined = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    dash = palette.dash(place)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{joined}" class="line s{place % len(palette.LIGHT)}"{dashed}/>'


def mark(x: float, y: float, place: int, size: float = 4.5, title: str = "") -> str:
    """The mark of the n-th series; `title` is shown under the pointer."""
    kind = palette.mark(place)
    named = f"<title>{markupsafe.escape(title)}</title>" if title else ""
    look = f'class="mark s{place % len(palette.LIGHT)}"'
    if kind == "o":
        return (
            f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(size)}" {look}>{named}</circle>'
        )
    corners = " ".join(f"{number(x + size * a)},{number(y + size * b)}" for a, b in _UNIT[kind])
    return f'<polygon points="{corners}" {look}>{named}</polygon>'


def bar(value: float, bounds: Sequence[float] | None = None, lost: float = 0.0) -> Markup:
    """A share of 1 as a bar from 0 to 100 %.

    Args:
      value: the share.
      bounds: of its interval, drawn as a whisker.
      lost: what was there before, beyond `value`: drawn behind it, in another colour.
    """
    parts = ['<rect x="0" y="0" width="100" height="12" class="track"/>']
    if lost > 0:
        parts.append(
            f'<rect x="{number(100 * value)}" y="0" width="{number(100 * lost)}" height="12" '
            'class="lost"/>'
        )
    parts.append(f'<rect x="0" y="0" width="{number(100 * value)}" height="12" class="share"/>')
    if bounds is not None:
        low, high = (100 * end for end in bounds)
        ends = [(low, 6, high, 6), (low, 2.5, low, 9.5), (high, 2.5, high, 9.5)]
        parts += [line(*place, kind) for kind in ("halo", "whisker") for place in ends]
    return Markup(
        '<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def swatch(place: int) -> Markup:
    """The mark of the n-th series, to stand in a legend or a row of a table."""
    drawn = mark(8, 8, place, 5)
    return Markup(f'<svg class="swatch" viewBox="0 0 16 16" aria-hidden="true">{drawn}</svg>')
