"""The stages of a run as a small graph, from teachers on the left to students on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from mtard_tf.reporting import notation, svg

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _EDGE = 150.0, 44.0, 96.0, 22.0, 8.0
_NAME, _NOTE = 20, 22  # characters that fit into a box


def provenance(stages: Sequence[Mapping], notes: Mapping[str, str]) -> Markup:
    """Boxes for stages and for files they learn from, arrows labelled with the role.

    Args:
      stages: `name`, `teachers` (role -> stage or path) and `initial` (or None), teachers first.
      notes: name -> second line of its box.
    """
    columns = _columns(stages)
    rows: dict[int, int] = {}
    places: dict[str, tuple[float, float]] = {}
    for name, column in columns.items():
        row = rows.get(column, 0)
        rows[column] = row + 1
        x = _EDGE + column * (_WIDTH + _GAP_X)
        places[name] = (x, _EDGE + row * (_HEIGHT + _GAP_Y))
    tallest = max(rows.values())
    for name, column in columns.items():  # shorter columns are centred
        x, y = places[name]
        places[name] = (x, y + (tallest - rows[column]) * (_HEIGHT + _GAP_Y) / 2)
    parts = [
        part
        for stage in stages
        for source, role in _sources(stage)
        for part in _arrow(places[source], places[stage["name"]], role)
    ]
    for name, (x, y) in places.items():
        parts += _box(name, x, y, notes.get(name, "a file"))
    width = _EDGE * 2 + max(columns.values()) * (_WIDTH + _GAP_X) + _WIDTH
    height = _EDGE * 2 + tallest * (_HEIGHT + _GAP_Y) - _GAP_Y
    return svg.figure(width, height, parts, "Which stage learns from which")


def _columns(stages: Sequence[Mapping]) -> dict[str, int]:
    """Name -> column: one to the right of the furthest that it learns from; files in the first."""
    columns: dict[str, int] = {}
    for stage in stages:
        sources = [source for source, _ in _sources(stage)]
        for source in sources:
            columns.setdefault(source, 0)
        columns[stage["name"]] = max((columns[source] + 1 for source in sources), default=0)
    return columns


def _sources(stage: Mapping) -> list[tuple[str, str]]:
    """What a stage learns from -> in which roles."""
    roles: dict[str, list[str]] = {}
    for role, source in stage["teachers"].items():
        roles.setdefault(source, []).append(role)
    if stage.get("initial"):
        roles.setdefault(stage["initial"], []).append("initial")
    return [(source, ", ".join(names)) for source, names in roles.items()]


def _arrow(start: tuple[float, float], end: tuple[float, float], role: str) -> list[str]:
    x1, y1 = start[0] + _WIDTH, start[1] + _HEIGHT / 2
    x2, y2 = end[0] - 6, end[1] + _HEIGHT / 2
    words = notation.shortened(role, 13)
    where = x1 + 0.38 * (x2 - x1), y1 + 0.38 * (y2 - y1) + 4
    tip = " ".join(
        f"{svg.number(x)},{svg.number(y)}" for x, y in ((x2, y2 - 4), (x2 + 6, y2), (x2, y2 + 4))
    )
    return [
        svg.line(x1, y1, x2, y2, "axis"),
        f'<polygon points="{tip}" class="tip"/>',
        svg.text(*where, words, "over", "middle"),
    ]


def _box(name: str, x: float, y: float, note: str) -> list[str]:
    place = f'x="{svg.number(x)}" y="{svg.number(y)}"'
    middle = x + _WIDTH / 2
    return [
        f'<rect {place} width="{_WIDTH:g}" height="{_HEIGHT:g}" rx="6" class="box"/>',
        svg.text(middle, y + 18, notation.shortened(name, _NAME), "name", "middle"),
        svg.text(middle, y + 34, notation.shortened(note, _NOTE), "tick", "middle"),
    ]
