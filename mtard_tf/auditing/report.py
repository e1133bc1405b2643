"""The report of an audit: accuracies, checks and conditions, in a folder and in a notebook."""

from __future__ import annotations

import dataclasses
import html
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtard_tf import files
from mtard_tf.auditing import accuracies, diagnostics
from mtard_tf.auditing.diagnostics import Finding
from mtard_tf.auditing.evidence import Evidence
from mtard_tf.auditing.text import markdown, verdict
from mtard_tf.reporting import notation, pages, plots
from mtard_tf.reporting.run_files import TIMING


def compose(
    about: Mapping[str, Any],
    correct: Mapping[str, np.ndarray],
    labels: np.ndarray,
    label_names: Sequence[str],
    evidence: Evidence,
    attacks: Mapping[str, Callable],
    further: Sequence[Finding] = (),
) -> dict:
    """The content of `report.json`, but for measures.

    Args:
      about: the model and how it was audited; with `threat` and `seed`.
      correct: "clean" and each attack and ensemble -> which images are classified correctly, bool
        `[images]`.
      labels: class ids, integer `[images]`.
      label_names: by class id.
      evidence: for the checks.
      attacks: those that were run, by name.
      further: findings before those of the checks.
    """
    found = diagnostics.findings(evidence, correct, attacks)
    grave = diagnostics.SEVERITIES.index
    checks = sorted([*further, *found], key=lambda check: grave(check.severity))
    numbers = accuracies.summarise(correct, about["seed"])
    return {
        "verdict": verdict(checks, numbers, about["threat"]["epsilon"], attacks=len(attacks)),
        "format": files.FORMAT,
        **about,
        **numbers,
        "findings": [dataclasses.asdict(check) for check in checks],
        "epsilon_curve": evidence.points(),
        **accuracies.by_class(correct, labels, label_names),
    }


def write(
    report: Mapping,
    per_image: Mapping[str, np.ndarray],
    curve_examples: int,
    timing: Mapping[str, Any],
    out: pathlib.Path,
) -> None:
    """Writes `examples.npz`, `timing.json`, the epsilon curve, `report.md`, `.json` and the page.

    Args:
      report: all of it.
      per_image: results and measures of each image, by name.
      curve_examples: how many images the epsilon curve has.
      timing: from `costs.content`.
      out: a folder.
    """
    # No report beside results that are not its own, wherever this is cut off.
    for name in ("report.json", "report.md", "report.html", TIMING):
        (out / name).unlink(missing_ok=True)
    with files.replacing(out / "examples.npz") as temporary:
        np.savez_compressed(temporary, **per_image)  # type: ignore[arg-type]
    plots.epsilon_curve(
        report["epsilon_curve"], report["threat"], curve_examples, out / "epsilon_curve.png"
    )
    files.write_json(out / TIMING, timing)
    files.write_text(out / "report.md", markdown(report))
    files.write_json(out / "report.json", report)  # it marks the audit as finished
    pages.refresh(out)


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
        every = {**self["attacks"], **notation.worst_cases(self)}
        for name, entry in every.items():
            rows.append((name, entry["robust_accuracy"], entry["robust_accuracy_interval"]))
        cells = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:.1%}</td>"
            f"<td>{low:.1%} to {high:.1%}</td></tr>"
            for name, value, (low, high) in rows
        )
        head = "<tr><th>attack</th><th>accuracy</th><th>95 % interval</th></tr>"
        return f"<p>{html.escape(repr(self))}</p><table>{head}{cells}</table>"
