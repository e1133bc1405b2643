"""Chains over temperatures: what accuracy, sensitivity and robustness do as both grow."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

from mtard_tf import files
from mtard_tf.comparing.comparison import WORST, Audited, row_of, sources
from mtard_tf.comparing.statistics import over_seeds
from mtard_tf.comparing.text import Table, markdown_table, spread
from mtard_tf.reporting import plots

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


def depths(stages: Sequence[Mapping]) -> dict[str, int | None]:
    """How many assistants stand between each stage and the first teacher of its chain.

    A student of the first teacher has 0, its own student 1, and so on; over several teachers the
    longest chain counts. None for a stage that learns from no other, such as the first teacher.

    Args:
      stages: contents of `stage.json`, those of teachers among them. A teacher that is not among
        them, such as a model file, is the first of its chain.
    """
    teachers = {stage["stage"]: tuple(stage["teachers"].values()) for stage in stages}

    def links(name: str) -> int:
        return max((1 + links(source) for source in teachers.get(name, ())), default=0)

    return {name: links(name) - 1 if teachers[name] else None for name in teachers}


def by_temperature(
    audited: Sequence[Audited], stages: Sequence[Mapping] | None = None
) -> list[dict]:
    """One point per temperature and depth; none if there is but one temperature, several rows at
    one point, or several distillers at one depth: these are methods to compare, not chains of one.

    Stages of the same point are its replicates. Where they are of several rows, those that teach
    others, such as the assistants of a longer chain, do not count beside those that do not.

    Args:
      audited: what makes points.
      stages: contents of `stage.json` of all stages, from which depth is known; default those of
        `audited`.

    Returns:
      Points with `temperature`, `depth`, `stages`, `measures` and which of these are `attacks`, by
      depth, then temperature. A measure that one of the stages lacks is left out.
    """
    stages = [one.stage for one in audited] if stages is None else stages
    found, taught_by = depths(stages), sources(stages)
    teaching = {row_of(one.name) for one in audited if one.name in taught_by}
    groups: dict[tuple[int, float], list[Audited]] = {}
    for one in audited:
        depth = found[one.name]
        if depth is not None:
            key = depth, float(one.stage.get("temperature", 1.0))
            groups.setdefault(key, []).append(one)
    if len({temperature for _, temperature in groups}) < 2:
        return []
    ends = {
        key: [one for one in group if row_of(one.name) not in teaching] or group
        for key, group in groups.items()
    }
    made_by: dict[int, set[str]] = {}
    for (depth, _), last in ends.items():
        named = {one.stage["distiller"] for one in last if "distiller" in one.stage}
        made_by.setdefault(depth, set()).update(named)
    if any(len(distillers) > 1 for distillers in made_by.values()):
        return []
    points = []
    for (depth, temperature), last in sorted(ends.items(), key=lambda item: item[0]):
        if len({row_of(one.name) for one in last}) > 1:
            return []  # several methods, no chains of one
        values = [_values(one) for one in last]
        points.append(
            {
                "temperature": temperature,
                "depth": depth,
                "stages": [one.name for one in last],
                "attacks": [*last[0].report["attacks"], WORST],
                "measures": {
                    name: over_seeds([value[name] for value in values])
                    for name in values[0]
                    if all(name in value for value in values)
                },
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
        lines += ["", f"## {title}", "", *markdown_table(_table(title, names, points))]
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
    """Title of a table -> its columns: what is measured, and what stands under attack."""
    names = list(dict.fromkeys(name for point in points for name in point["measures"]))
    attacked = [name for name in names if name in {n for p in points for n in p["attacks"]}]
    measured = [name for name in names if name not in attacked]
    return {"Measures": measured, "Under attack": attacked}


def _anywhere(points: Sequence[Mapping], name: str) -> bool:
    return any(name in point["measures"] for point in points)


def _table(title: str, names: Sequence[str], points: Sequence[Mapping]) -> Table:
    return Table(
        title,
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
