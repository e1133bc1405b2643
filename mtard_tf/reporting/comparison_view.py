"""What a page shows of a comparison, from its `comparison.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mtard_tf.reporting import advice, charts, notation, svg

_WORST = "worst_case"


def view(compared: Mapping) -> dict[str, Any]:
    """Everything that the template `comparison` prints.

    Args:
      compared: content of a `comparison.json`.
    """
    attacks = compared["attacks"]
    best = advice.leading(compared["rows"])
    rows = [_row(place, row, attacks) for place, row in enumerate(compared["rows"])]
    return {
        "summary": compared.get("summary", []),
        "dataset": compared["dataset"],
        "facts": [
            ("threat model", notation.threat(compared["threat"])),
            (
                "data set",
                f"{compared['dataset']}, first {compared['examples']:,} images of the "
                f"{compared['split']} split",
            ),
            ("worst case over", ", ".join(compared["worst_case_of"])),
            *([("baseline", compared["baseline"])] if compared["baseline"] else []),
        ],
        "attacks": attacks,
        "doubtful": [row["name"] for row in rows if row["severity"] in advice.DOUBTFUL],
        "baseline": compared["baseline"],
        "rows": rows,
        "best": best and best["row"],
        "figures": _figures(compared),
        "missing": compared["missing"],
        "seconds": any(row["seconds"] for row in rows),
    }


def _row(place: int, row: Mapping, attacks: Sequence[str]) -> dict[str, Any]:
    severity = row["severity"]
    return {
        "number": place + 1,
        "swatch": svg.swatch(place),
        "name": row["row"],
        "teacher": row["teacher"],
        "seeds": len(row["stages"]),
        "stages": ", ".join(row["stages"]),
        "parameters": row["parameters"],
        "severity": severity,
        "badge": advice.WORDS[severity],
        "clean": _spread(row["clean"]),
        "worst": _spread(row["robust"][_WORST]),
        "robust": [_spread(row["robust"].get(name)) for name in attacks],
        "w_robust": _spread(row["w_robust"].get(_WORST)),
        "against": _against(row.get("against_baseline", {}).get(_WORST)),
        "seconds": _spread(row["seconds_per_epoch"], percent=False),
    }


def _spread(found: Mapping | None, percent: bool = True) -> dict[str, Any] | None:
    """Mean and deviation over seeds as people write them, and the mean to sort by."""
    if found is None:
        return None
    mean, deviation = found["mean"], found["deviation"]
    scale = 100 if percent else 1
    words = f"{scale * mean:.1f}" + ("" if deviation is None else f" ± {scale * deviation:.1f}")
    return {"words": words, "value": mean}


def _against(found: Mapping | None) -> dict[str, Any] | None:
    """A difference from the baseline, with its interval and whether that excludes zero."""
    if found is None:
        return None
    low, high = found["interval"]
    return {
        "words": notation.points(found["difference"]),
        "interval": f"{notation.points(low)} to {notation.points(high)}",
        "excludes_zero": found["excludes_zero"],
        "value": found["difference"],
    }


def _figures(compared: Mapping) -> list[Markup]:
    """The whole, and a close-up of the rows of at least half the best robust accuracy."""
    curve = compared.get("curve", {}).get("curve", ())
    points = [
        {
            "label": row["row"],
            "clean": row["clean"]["mean"],
            "clean_deviation": row["clean"]["deviation"],
            "robust": row["robust"][_WORST]["mean"],
            "robust_deviation": row["robust"][_WORST]["deviation"],
            "place": place,
        }
        for place, row in enumerate(compared["rows"])
    ]
    best = max(point["robust"] for point in points)
    near = [point for point in points if point["robust"] >= best / 2]
    figures = [charts.trade_off(points, "worst case", curve=curve)]
    if len(near) > 1:
        figures.append(charts.trade_off(near, "worst case, close up", True, curve))
    return figures
