"""A comparison as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mtard_tf.comparing.comparison import WORST
from mtard_tf.reporting.advice import DOUBTFUL, leading
from mtard_tf.reporting.tables import Table, escape

_STAR = (
    "* The interval excludes zero. It is a paired bootstrap: each draw takes the same examples for "
    "all nets, and draws the replicates of both rows anew; where one of the two has a single one, "
    "the interval is about that net, not about the method. Intervals are not widened for there "
    "being several."
)


def summary(compared: Mapping) -> list[str]:
    """Which row leads, how far it is from the baseline, and what is not in the table."""
    lines = [_leader(compared), *_above_curve(compared)]
    if compared["not_in_worst_case"]:
        lines.append(f"Not in the worst case: {'; '.join(compared['not_in_worst_case'].values())}.")
    if compared["missing"]:
        lines.append(f"Not in the table, as not audited: {', '.join(compared['missing'])}.")
    doubts = {"masked": "Masked, so that robust accuracies are upper bounds"}
    doubts["void"] = "Void, with a net that is no better than chance"
    for severity, words in doubts.items():
        if found := [row["row"] for row in compared["rows"] if row["severity"] == severity]:
            lines.append(f"{words}: {', '.join(found)}.")
    return lines


def _leader(compared: Mapping) -> str:
    best, baseline = leading(compared["rows"]), compared["baseline"]
    if best is None:
        return "No row can be believed: every one has a net whose audit is masked or void."
    w_robust = best["w_robust"][WORST]["mean"]
    line = f"Best W-Robust in the worst case: {best['row']}, {w_robust:.2%}"
    if baseline == best["row"]:
        line += "; it is the baseline itself"
    elif baseline is not None:
        found = best["against_baseline"][WORST]
        low, high = found["interval"]
        over = "95 %, one seed" if 1 in _replicates(compared, best["row"], baseline) else "95 %"
        line += (
            f", {100 * found['difference']:+.2f} points against {baseline} ({over}: "
            f"{100 * low:+.2f} to {100 * high:+.2f}, which {_zero(found)} zero)"
        )
    return f"{line}."


def _above_curve(compared: Mapping) -> list[str]:
    """Where the rows lie about the trade-off curve, if there is one."""
    if not (found := compared.get("curve")):
        return []
    heights = [f"{row} {_height(one)}" for row, one in found["heights"].items()]
    line = (
        f"Robust accuracy ({_column(found['attack'])}) above the curve through "
        f"{', '.join(found['curve'])} at equal clean accuracy, in points: "
        f"{'; '.join(heights) or 'no row is within its clean accuracies'}."
    )
    if found["outside"]:
        line += f" Beyond its ends: {', '.join(found['outside'])}."
    return [line]


def tables(compared: Mapping) -> list[Table]:
    """Accuracies, W-Robust, and, where there is a baseline, the differences from it."""
    columns = [*compared["attacks"], WORST]
    titles = [_column(column) for column in columns]
    rows = {_named(row): row for row in compared["rows"]}
    made = [
        Table(
            ["row", "n", "parameters", "clean", *titles, "s / epoch"],
            [
                [
                    name,
                    str(len(row["stages"])),
                    f"{row['parameters']:,}",
                    _percent(row["clean"]),
                    *(_percent(row["robust"].get(column)) for column in columns),
                    spread(row["seconds_per_epoch"], 1, 1),
                ]
                for name, row in rows.items()
            ],
            title="Accuracy, clean and under each attack, in %; seconds of the fastest epoch",
        ),
        Table(
            ["row", *titles],
            [
                [name, *(_percent(row["w_robust"].get(column)) for column in columns)]
                for name, row in rows.items()
            ],
            title="W-Robust, (clean + robust) / 2 by attack, in %",
        ),
    ]
    if compared["baseline"] is not None:
        against = [
            [name, *(_difference(row["against_baseline"].get(column)) for column in columns)]
            for name, row in rows.items()
            if "against_baseline" in row
        ]
        title = f"W-Robust against {compared['baseline']}, in points; 95 % intervals"
        made.append(Table(["row", *titles], against, title=title))
    return made


def markdown(compared: Mapping, figures: Sequence[str]) -> str:
    """The comparison as `table.md`.

    Args:
      compared: from `comparison.compare`.
      figures: files beside it to show.
    """
    lines = ["# Comparison", ""]
    for line in summary(compared):
        lines += [line, ""]
    lines.append(_conditions(compared))
    for table in tables(compared):
        lines += ["", f"## {table.title}", "", *table.markdown()]
    if compared["baseline"] is not None or compared.get("curve"):
        lines += ["", f"\\{_STAR}"]
    for figure in figures:
        lines += ["", f"![{figure.removesuffix('.png').replace('_', ' ')}]({figure})"]
    return "\n".join(lines) + "\n"


def latex(compared: Mapping) -> str:
    """The tables as `tabular`s, and what explains them as a paragraph."""
    lines = [line for table in tables(compared) for line in (*table.latex(), "")]
    starred = [_STAR] if compared["baseline"] is not None or compared.get("curve") else []
    notes = [_conditions(compared), *starred, *summary(compared)[1:]]
    lines += [f"\\noindent {escape(' '.join(notes))}", ""]
    return "\n".join(lines)


def table_csv(compared: Mapping) -> str:
    """One line per row, all numbers as fractions of 1 and to their last digit."""
    columns = [*compared["attacks"], WORST]
    lines = []
    for row in compared["rows"]:
        line: dict[str, Any] = {key: row[key] for key in ("row", "teacher", "parameters")}
        line["replicates"] = len(row["stages"])
        line |= _numbers("clean", row["clean"])
        for measure in ("robust", "w_robust"):
            for column in columns:
                line |= _numbers(f"{measure}_{column}", row[measure].get(column))
        line |= _numbers("seconds_per_epoch", row["seconds_per_epoch"])
        for column in columns if compared["baseline"] is not None else ():
            found = row.get("against_baseline", {}).get(column)
            low, high = found["interval"] if found else ("", "")
            line[f"difference_{column}"] = found["difference"] if found else ""
            line |= {f"difference_{column}_low": low, f"difference_{column}_high": high}
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def spread(found: Mapping | None, scale: float, digits: int) -> str:
    """Mean ± deviation, the mean alone where there is no deviation; empty for nothing."""
    if found is None:
        return ""
    mean, deviation = f"{scale * found['mean']:.{digits}f}", found["deviation"]
    return mean if deviation is None else f"{mean} ± {scale * deviation:.{digits}f}"


def _conditions(compared: Mapping) -> str:
    threat = compared["threat"]
    return (
        f"{compared['dataset']}, first {compared['examples']:,} images of the {compared['split']} "
        f"split; {threat['norm']}, epsilon {threat['epsilon']:.5g} in [0, 1] pixel units. n "
        "replicates of a row differ by their seed; mean ± sample standard deviation over them, "
        "none for a single replicate. The worst case counts an image as robust only if it survives "
        f"all of {', '.join(compared['worst_case_of'])}."
    )


def _replicates(compared: Mapping, *rows: str) -> list[int]:
    return [len(row["stages"]) for row in compared["rows"] if row["row"] in rows]


def _percent(found: Mapping | None) -> str:
    return spread(found, 100, 2)


def _difference(found: Mapping | None) -> str:
    if found is None:
        return ""
    return _with_interval(found["difference"], found)


def _height(found: Mapping) -> str:
    return _with_interval(found["height"], found)


def _with_interval(value: float, found: Mapping) -> str:
    low, high = (f"{100 * end:+.2f}" for end in found["interval"])
    star = " *" if found["excludes_zero"] else ""
    return f"{100 * value:+.2f} ({low} to {high}){star}"


def _numbers(name: str, found: Mapping | None) -> dict[str, Any]:
    values = found or {"mean": "", "deviation": ""}
    return {f"{name}_mean": values["mean"], f"{name}_deviation": values["deviation"]}


def _named(row: Mapping) -> str:
    notes = ["teacher"] if row["teacher"] else []
    notes += [row["severity"]] if row["severity"] in DOUBTFUL else []
    return f"{row['row']} ({', '.join(notes)})" if notes else row["row"]


def _column(name: str) -> str:
    return "worst case" if name == WORST else name


def _zero(found: Mapping) -> str:
    return "excludes" if found["excludes_zero"] else "does not exclude"
