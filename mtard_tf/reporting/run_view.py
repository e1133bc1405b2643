"""What a page shows of a run: the state of its stages, their training curves, their teachers."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mtard_tf.reporting import calibrations, charts, graph, notation, run_files, svg

# What the trainer notes of the run as a whole, and of a stage that ended before its end.
STAGES, PROBLEM = "stages.json", "problem.json"

# Prefix of the terms in `metrics.jsonl` -> title of their figure.
_PANELS = {
    "weight_": "Weight of each loss",
    "temperature_": "Temperature of each teacher",
    "entropy_": "Entropy of each teacher's answers (nats)",
    "epsilon": "Epsilon of the training attack",
    "learning_rate": "Learning rate",
}
_SECONDS = "Seconds by epoch"
_PLANNED = ("name", "teachers", "initial", "epochs", "distiller")


def stage_names(run_dir: pathlib.Path) -> list[str]:
    """Names of all stages of a run, in their order."""
    return [stage["name"] for stage in _noted(run_dir)["stages"]]


def view(run_dir: pathlib.Path, audits: Mapping[str, Mapping]) -> dict[str, Any]:
    """Everything that the template `run` prints beside the audits.

    Args:
      run_dir: of the run.
      audits: stage -> what its page shows, of those that are audited.
    """
    noted = _noted(run_dir)
    stages = [_stage(run_dir / planned["name"], planned) for planned in noted["stages"]]
    taught = run_files.sources(noted["stages"])
    for stage in stages:
        stage["teaches"] = stage["name"] in taught
        stage["audit"] = audits.get(stage["name"])
        stage["calibration"] = calibrations.view(run_dir, stage["name"])
    shown = [stage for stage in stages if stage["audit"]]
    headline = next((s for s in reversed(shown) if not s["teaches"]), shown[-1] if shown else None)
    notes = {stage["name"]: _note(stage, audits) for stage in stages}
    return {
        "name": noted["name"],
        "noted": noted,
        "stages": stages,
        "headline": headline,
        "graph": graph.provenance(noted["stages"], notes),
        "trade_off": _trade_off(shown),
        "config": _config(run_dir / "config.gin"),
        "environment": _environment(run_dir / "environment.json"),
        "threat": notation.threat(noted["threat"]),
        "calibrated": [stage for stage in stages if stage["calibration"]],
        "problems": [stage for stage in stages if stage["problem"]],
    }


def _noted(run_dir: pathlib.Path) -> dict[str, Any]:
    path = run_dir / STAGES
    noted = run_files.mapping(path, {"name": str, "stages": list, "threat": dict})
    with run_files.reading(path):
        return {**noted, "stages": [{k: s[k] for k in _PLANNED} for s in noted["stages"]]}


def _stage(folder: pathlib.Path, planned: Mapping) -> dict[str, Any]:
    """What became of one stage."""
    done, problem, epochs = folder / "stage.json", folder / PROBLEM, _epochs(folder)
    finished = run_files.stage(done) if done.exists() else None
    line = None
    if problem.exists() and finished is None:
        line = run_files.mapping(problem, {"kind": str, "line": str})
    state = "finished" if finished else line["kind"] if line else "training" if epochs else "waits"
    timing = run_files.rows(folder / "timing.jsonl", {"seconds": (int, float)})
    chosen = finished[finished["selected"]] if finished else None
    return {
        **planned,
        "state": state,
        "problem": line,
        "epoch": epochs[-1]["epoch"] if epochs else 0,
        "finished": finished,
        "chosen": chosen and _chosen(finished or {}, chosen),
        "seconds": sum(row["seconds"] for row in timing),
        "time": notation.seconds(sum(row["seconds"] for row in timing)) if timing else "",
        "settings": list((finished or {}).get("identity", {}).get("settings", {}).items()),
        "sources": (finished or {}).get("sources", {}),
        "figures": _figures(epochs, timing, chosen),
    }


def _chosen(finished: Mapping, chosen: Mapping) -> dict[str, str]:
    """Which of its students a stage kept, and why."""
    robust = chosen.get("validation_robust")
    measure = "validation accuracy" if robust is None else "validation W-Robust"
    why = f"best {measure}" if finished["selected"] == "best" else "the last epoch"
    if stopped := finished.get("stopped_early"):
        cause = "catastrophic overfitting" if "overfitted_in" in finished else "patience"
        why += f"; stopped early of {stopped['planned_epochs']} epochs ({cause})"
    return {
        "why": f"epoch {chosen['epoch']}: {why}",
        "clean": notation.percent(chosen["validation_clean"]),
        "robust": "" if robust is None else notation.percent(robust),
        "chance": "at chance" if chosen.get("at_chance") else "",
    }


def _epochs(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The means of each epoch; steps, of which there may be very many, are not even parsed."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    with run_files.reading(path):
        lines = path.read_text("utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith('{"kind": "epoch"')]


def _figures(
    epochs: Sequence[Mapping], timing: Sequence[Mapping], chosen: Mapping | None
) -> list[tuple[str, list[tuple[str, Markup]], Markup]]:
    """Title, legend and lines of each figure of the training; none where nothing was recorded."""
    names = sorted({name for row in epochs for name, v in row.items() if isinstance(v, float)})
    losses = [n for n in names if n == "loss" or n.startswith(("kl_", "ce_", "loss_"))]
    validation = [n for n in ("validation_clean", "validation_robust") if n in names]
    panels = [("Loss", losses, ""), ("Accuracy on the validation split", validation, "validation_")]
    for prefix, title in _PANELS.items():
        panels.append((title, [n for n in names if n.startswith(prefix)], prefix))
    listed = {name for _, found, _ in panels for name in found}
    rest = [n for n in names if n not in listed and not n.startswith("validation_")]
    panels.append(("Other terms", rest, ""))
    marked = (chosen["epoch"], "chosen") if chosen else None
    ends = (epochs[0]["epoch"], epochs[-1]["epoch"]) if epochs else None
    found = []
    for title, shown, prefix in panels:
        series = [
            charts.Series(
                name[len(prefix) :] or name,
                [(row["epoch"], row[name]) for row in epochs if name in row],
                place,
            )
            for place, name in enumerate(shown)
        ]
        found.append((title, series, prefix == "validation_"))
    seconds = [(row["epoch"], row["seconds"]) for row in timing if "epoch" in row]
    if seconds:
        found.append((_SECONDS, [charts.Series("seconds", seconds, 0)], False))
    return [
        (
            title,
            [(one.name, svg.swatch(one.place)) for one in series],
            charts.lines(
                *(series, title, "epoch"),
                shares=shares,
                from_zero=title == _SECONDS,
                x_range=ends,
                marked=marked,
            ),
        )
        for title, series, shares in found
        if series
    ]


def _note(stage: Mapping, audits: Mapping[str, Mapping]) -> str:
    audit = audits.get(stage["name"])
    if audit:
        clean, worst = audit["accuracies"][0]["words"], audit["worst"]["words"]
        return f"{clean} / {worst}"
    return str(stage["state"])


def _trade_off(stages: Sequence[Mapping]) -> Markup | None:
    points = [
        {
            "label": stage["name"],
            "clean": stage["audit"]["report"]["clean"],
            "robust": stage["audit"]["report"]["worst_case"]["robust_accuracy"],
            "place": place,
        }
        for place, stage in enumerate(stages)
    ]
    return charts.trade_off(points, "worst case") if len(points) > 1 else None


def _config(path: pathlib.Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.exists() else ""


def _environment(path: pathlib.Path) -> list[tuple[str, str]]:
    """Where the run took place; the folder is left out, as the run may lie elsewhere by now."""
    if not path.exists():
        return []
    found = run_files.mapping(path, {})
    shown = {k: v for k, v in found.items() if k not in ("format", "folder", "process")}
    if "date" in shown:
        shown["date"] = notation.date(str(shown["date"]))
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in shown.items()
    ]
