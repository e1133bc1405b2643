"""A report as Python programs and notebooks hold it."""

from __future__ import annotations

import html


class Report(dict):
    """The content of `report.json`, with what is asked first as attributes."""

    @property
    def verdict(self) -> str:
        """What the audit found, in words."""
        return self["verdict"]

    @property
    def clean(self) -> float:
        """Accuracy on the images as they are, 0 to 1."""
        return self["clean"]

    @property
    def worst_case(self) -> float:
        """Accuracy on images that survive every attack, 0 to 1."""
        return self["worst_case"]["robust_accuracy"]

    def __repr__(self) -> str:
        return f"{self['model']}: {self.verdict}"

    def _repr_html_(self) -> str:
        """A table for notebooks: accuracy under each attack, with 95 % intervals."""
        rows = [("clean", self.clean, self["clean_interval"])]
        every = {**self["attacks"], "worst case": self["worst_case"]}
        for name, entry in every.items():
            rows.append((name, entry["robust_accuracy"], entry["robust_accuracy_interval"]))
        cells = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:.1%}</td>"
            f"<td>{low:.1%} to {high:.1%}</td></tr>"
            for name, value, (low, high) in rows
        )
        head = "<tr><th>attack</th><th>accuracy</th><th>95 % interval</th></tr>"
        return f"<p>{html.escape(repr(self))}</p><table>{head}{cells}</table>"
