"""Accuracy, sensitivity and robustness over temperature and length of a chain."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

from mtard_tf import files
from mtard_tf.comparing.audits import Audited
from mtard_tf.comparing.comparison import WORST
from mtard_tf.comparing.statistics import over_seeds
from mtard_tf.comparing.text import spread
from mtard_tf.reporting import plots
from mtard_tf.reporting.tables import Table

STRONGEST = "autoattack"
# Figure -> what its panels show: measure -> label of the axis.
FIGURES = {
    "accuracy": {"clean": "clean accuracy"},
    "sensitivity": {
        "sum_of_logits_gradient": "mean |input gradient of the sum of logits|",
        "logit_jacobian": "Frobenius norm of the logit Jacobian",
    },
    "robustness": {
        "cw_l2_distortion": "mean C&W-L2 distortion",
        STRONGEST: "accuracy under AutoAttack",
        WORST: "accuracy in the worst case",
    },
}


def by_temperature(audited: Sequence[Audited]) -> list[dict]:
    """One point per temperature and depth of a `temperature_sweep()`; none of one temperature.

    Stages of the same point are its replicates.

    Args:
      audited: those of a sweep say so in their `stage.json`; others are left out.

    Returns:
      Points with `temperature`, `depth`, `stages`, `measures` and which of these are `attacks`, by
      depth, then temperature. A measure that one of the stages lacks is left out.
    """
    groups: dict[tuple[int, float], list[Audited]] = {}
    for one in audited:
        if sweep := one.stage.get("sweep"):
            groups.setdefault((sweep["depth"], sweep["temperature"]), []).append(one)
    if len({temperature for _, temperature in groups}) < 2:
        return []
    points = []
    for (depth, temperature), group in sorted(groups.items(), key=lambda item: item[0]):
        values = [_values(one) for one in group]
        shared = [name for name in values[0] if all(name in value for value in values)]
        points.append(
            {
                "temperature": temperature,
                "depth": depth,
                "stages": [one.name for one in group],
                "attacks": [*group[0].report["attacks"], WORST],
                "measures": {n: over_seeds([value[n] for value in values]) for n in shared},
            }
        )
    return points


def write(points: Sequence[Mapping], folder: pathlib.Path) -> list[str]:
    """Writes `temperatures.md` and `<measure>_by_temperature.png`; returns the figures' names."""
    figures = []
    for name, panels in FIGURES.items():
        drawn = {key: label for key, label in panels.items() if _anywhere(points, key)}
        if STRONGEST in drawn:
            drawn.pop(WORST, None)
        if drawn:
            figures.append(f"{name}_by_temperature.png")
            plots.by_temperature(points, drawn, folder / figures[-1])
    lines = [
        "# Over temperatures",
        "",
        "Depth: the number of assistants between the first teacher and the student. n stages of a "
        "point are its replicates; mean ± sample standard deviation over them. Accuracies as "
        "fractions of 1.",
    ]
    for title, names in _columns(points).items():
        lines += ["", f"## {title}", "", *_table(names, points).markdown()]
    for figure in figures:
        lines += ["", f"![{figure.removesuffix('.png').replace('_', ' ')}]({figure})"]
    files.write_text(folder / "temperatures.md", "\n".join(lines) + "\n")
    return figures


def _values(one: Audited) -> dict[str, float]:
    """Name -> number: all measures that have one, and all robust accuracies."""
    report = one.report
    measured = report.get("measures", {})
    return {
        "clean": report["clean"],
        **{name: entry["mean"] for name, entry in measured.items() if entry["mean"] is not None},
        **{name: entry["robust_accuracy"] for name, entry in report["attacks"].items()},
        WORST: report["worst_case"]["robust_accuracy"],
    }


def _columns(points: Sequence[Mapping]) -> dict[str, list[str]]:
    """Title of a table -> its columns: what is measured, and accuracies under attack."""
    names = list(dict.fromkeys(name for point in points for name in point["measures"]))
    attacked = [name for name in names if name in {n for p in points for n in p["attacks"]}]
    measured = [name for name in names if name not in attacked]
    return {"Measures": measured, "Under attack": attacked}


def _anywhere(points: Sequence[Mapping], name: str) -> bool:
    return any(name in point["measures"] for point in points)


def _table(names: Sequence[str], points: Sequence[Mapping]) -> Table:
    return Table(
        ["temperature", "depth", "n", *names],
        [
            [
                f"{point['temperature']:g}",
                str(point["depth"]),
                str(len(point["stages"])),
                *(spread(point["measures"].get(name), 1, 4) for name in names),
            ]
            for point in points
        ],
    )
