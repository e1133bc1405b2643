"""What a page shows of one audit, from its `report.json` and `examples.npz`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from mtard_tf.reporting import advice, charts, notation, png, svg

# With more classes the tables show the worst ones, and the rest folded away or not at all.
SHOWN_CLASSES = 20
_PAIRS = 12

Arrays = Mapping[str, np.ndarray]


def view(report: Mapping, arrays: Arrays, timing: Mapping | None = None) -> dict[str, Any]:
    """Everything that the template `audit` prints.

    Args:
      report: content of a `report.json`.
      arrays: those of `examples.npz`; without images or predictions their sections are left out.
      timing: content of its `timing.json`; without it no time, device and date are shown.
    """
    severity = advice.severity(report)
    most = "≤ " if severity == "masked" else ""
    return {
        "report": report,
        "name": report["model"],
        "severity": severity,
        "badge": advice.WORDS[severity],
        "bound": severity == "masked",
        "worst": _accuracy("worst case", report["worst_case"], "robust_accuracy", most),
        "facts": _facts(report, timing or {}),
        "accuracies": _accuracies(report, most),
        "eight_bit": notation.eight_bit(report),
        "waterfall": _waterfall(report, arrays, (timing or {}).get("attacks", {})),
        "timed": timing is not None,
        "findings": [
            {**finding, "next": advice.next_step(finding)} for finding in report["findings"]
        ],
        "next": advice.next_of_all(report),
        "curve": _curve(report),
        "classes": _classes(report),
        "confusion": _confusion(report, arrays),
        "images": _images(report, arrays),
        "limits": advice.limits(report),
        "measures": [
            (name, entry) for name, entry in report.get("measures", {}).items() if "mean" in entry
        ],
        "settings": list(report.get("suite", {}).items()),
    }


def _facts(report: Mapping, timing: Mapping) -> list[tuple[str, str]]:
    """What the figures are of."""
    known = {
        "threat model": notation.threat(report["threat"]),
        "data set": f"{report['dataset']}, first {report['examples']:,} images of the "
        f"{report['split']} split",
        "parameters": f"{report['parameters']:,}",
        "seed of the attacks": str(report["seed"]),
        "fingerprint of the audit": report.get("fingerprint", ""),
        "fingerprint of the student's file": report.get("student", ""),
        "file": report.get("file", ""),
        "audited on": notation.date(timing.get("date", "")),
        "audited by": ", ".join(timing[key] for key in ("made_by", "device") if key in timing),
    }
    return [(name, words) for name, words in known.items() if words]


def _accuracy(name: str, entry: Mapping, key: str, most: str = "") -> dict[str, Any]:
    bounds = entry[f"{key}_interval"]
    return {
        "name": name,
        "value": entry[key],
        "words": f"{most}{notation.percent(entry[key])}",
        "interval": notation.interval(bounds),
        "bar": svg.bar(entry[key], bounds),
    }


def _accuracies(report: Mapping, most: str) -> list[dict[str, Any]]:
    """Clean, each attack and the worst cases; `most` precedes an upper bound."""
    rows = [{**_accuracy("clean", report, "clean"), "kind": "clean"}]
    worst = notation.worst_cases(report)
    for name, entry in {**report["attacks"], **worst}.items():
        row = _accuracy(name, entry, "robust_accuracy", most)
        row["kind"] = "worst" if name in worst else "attack"
        for key in ("w_robust", "nrr"):
            row[key] = entry[key]
            row[f"{key}_words"] = f"{most}{notation.percent(entry[key])}"
            row[f"{key}_interval"] = notation.interval(entry[f"{key}_interval"])
        rows.append(row)
    return rows


def _waterfall(report: Mapping, arrays: Arrays, costs: Mapping) -> list[dict[str, Any]]:
    """Attacks in the order in which they ran: what survives each after all before it."""
    if "clean" not in arrays:
        return []
    # An ensemble, the worst of some of them, is in "attacks" and not in "suite".
    names = [n for n in report["suite"] if n in report["attacks"] and n in arrays]
    outcomes = {name: np.asarray(arrays[name], bool) for name in ("clean", *names)}
    surviving, rows = outcomes["clean"], []
    for name in names:
        others = [outcomes[other] for other in ("clean", *names) if other != name]
        alone = np.logical_and.reduce(others) & ~outcomes[name]
        left = surviving & outcomes[name]
        lost = float(surviving.mean() - left.mean())
        cost, attacked = costs.get(name), int(outcomes["clean"].sum())
        rows.append(
            {
                "name": name,
                "left": notation.percent(float(left.mean())),
                "broken": int((surviving & ~left).sum()),
                "alone": int(alone.sum()),
                "bar": svg.bar(float(left.mean()), lost=lost),
                "time": notation.seconds(cost["seconds"]) if cost else "",
                "queries": f"{cost['passes'] / attacked:,.0f}" if cost and attacked else "",
            }
        )
        surviving = left
    return rows


def _curve(report: Mapping) -> Markup | None:
    points = report.get("epsilon_curve", ())
    threat = report["threat"]
    if len(points) < 2:
        return None
    series = [
        charts.Series(name, [(p["epsilon"], p[key]) for p in points], place)
        for place, (name, key) in enumerate(
            {"under the probe": "robust_accuracy", "worst case so far": "worst_case"}.items()
        )
    ]
    shown = [p["epsilon"] for p in points[:: -(-len(points) // 7)]]
    words, label = notation.radii(shown, threat["norm"])
    low, high = report["worst_case"]["robust_accuracy_interval"]
    return charts.lines(
        series,
        "Robust accuracy against epsilon",
        label,
        shares=True,
        x_ticks=dict(zip(shown, words, strict=True)),
        marked=(threat["epsilon"], "epsilon of the audit"),
        bounds=[(threat["epsilon"], low, high)],
    )


def _classes(report: Mapping) -> dict[str, Any]:
    columns = ["clean", *report["attacks"], "worst_case"]
    # Of those that no image survives first the ones that are weakest under the single attacks.
    order = ["worst_case", *report["attacks"], "clean"]
    rows = sorted(report["per_class"].items(), key=lambda item: [item[1][key] for key in order])
    table = [
        {
            "name": name,
            "examples": entry["examples"],
            "cells": [(notation.percent(entry[key]), entry[key]) for key in columns],
        }
        for name, entry in rows
    ]
    return {"columns": [*columns[:-1], "worst case"], "rows": table, "shown": SHOWN_CLASSES}


def heat(value: float) -> int:
    """The shade of a share of 1: 0 to 9."""
    return min(9, max(0, int(10 * value)))


def _confusion(report: Mapping, arrays: Arrays) -> dict[str, Any] | None:
    """From which class to which images went under the probe: a matrix, and the commonest pairs."""
    if "predictions/attacked" not in arrays:
        return None
    names = report["label_names"]
    attacked = arrays["predictions/attacked"]
    labels = arrays["predictions/labels"][: len(attacked)]
    size = max(len(names), int(attacked.max(initial=0)) + 1)
    counts = np.zeros((len(names), size), np.int64)
    np.add.at(counts, (labels, attacked), 1)
    columns = [notation.class_name(names, place) for place in range(size)]
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    wrong = counts.copy()
    wrong[np.arange(len(names)), np.arange(len(names))] = 0
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    places = [np.unravel_index(place, wrong.shape) for place in order.tolist()]
    pairs = [
        {
            "true": columns[i],
            "taken": columns[j],
            "count": int(wrong[i, j]),
            "share": notation.percent(float(shares[i, j])),
        }
        for i, j in places
        if wrong[i, j]
    ]
    rows = [
        {
            "name": columns[i],
            "cells": list(zip(counts[i].tolist(), shares[i].tolist(), strict=True)),
        }
        for i in range(len(names))
    ]
    small = size <= SHOWN_CLASSES
    return {
        "columns": columns,
        "rows": rows if small else [],
        "pairs": pairs,
        "examples": len(attacked),
    }


def _images(report: Mapping, arrays: Arrays) -> list[dict[str, Any]]:
    """Images that fell, then images that survived, each with what became of it."""
    if "images/clean" not in arrays:
        return []
    names, shown = report["label_names"], []
    for place, label in enumerate(arrays["images/labels"].tolist()):
        clean, attacked = (arrays[f"images/{name}"][place] for name in ("clean", "attacked"))
        change, gain = png.difference(clean, attacked)
        entry: dict[str, Any] = {
            "true": notation.class_name(names, label),
            "pictures": {
                "clean": png.data_uri(clean),
                "attacked": png.data_uri(attacked),
                "difference": png.data_uri(change),
            },
            "gain": gain,
            "scale": png.scale(clean),
        }
        for name in ("clean", "attacked"):
            found = int(arrays[f"images/{name}_class"][place])
            entry[name] = {
                "class": notation.class_name(names, found),
                "probability": notation.percent(float(arrays[f"images/{name}_probability"][place])),
                "right": found == label,
            }
        shown.append(entry)
    return sorted(shown, key=lambda entry: entry["attacked"]["right"])
