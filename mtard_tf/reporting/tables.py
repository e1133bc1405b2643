"""Tables as Markdown and LaTeX; every table that the project writes is made here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Text in cells.

    Attributes:
      head: names of the columns.
      rows: cells, as many as the head.
      align: "l" or "r" for each column; default left for the first, right for the others.
      title: what the numbers are.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = ""
    title: str = ""

    @property
    def _align(self) -> str:
        return self.align or "l" + "r" * (len(self.head) - 1)

    def markdown(self) -> list[str]:
        """The lines of the table, without its title."""
        rule = "".join({"l": "---|", "r": "---:|"}[side] for side in self._align)
        lines = ([cell.replace("|", "\\|") for cell in row] for row in (self.head, *self.rows))
        head, *rows = (f"| {' | '.join(line)} |" for line in lines)
        return [head, f"|{rule}", *rows]

    def latex(self) -> list[str]:
        """The lines of a `tabular`, which needs no package, with the title as a comment."""
        head, *rows = (f"{' & '.join(map(escape, row))} \\\\" for row in (self.head, *self.rows))
        return [
            f"% {self.title}",
            f"\\begin{{tabular}}{{{self._align}}}",
            *("\\hline", head, "\\hline", *rows, "\\hline"),
            "\\end{tabular}",
        ]


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in text)
