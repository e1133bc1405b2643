"""Audits the stages of a run and writes the report that shows what happened."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtard_tf import files
from mtard_tf.auditing.audit import Audit
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.models import model_files
from mtard_tf.models.model_files import file_digest
from mtard_tf.reporting import calibrations, plots, run_files, tensorboard_files
from mtard_tf.reporting.run_page import refresh
from mtard_tf.reporting.tables import Table
from mtard_tf.running.experiment_run import check_stage
from mtard_tf.running.run_directory import existing, load_student, note_stages, student_path

# What the trade-off figure shows, if all stages have it.
HEADLINE = "pgd_sat"


def evaluate_run(
    run_dir: pathlib.Path,
    experiment: Experiment,
    audit: Audit,
    stages: Sequence[str] = (),
    *,
    surrogate: str | None = None,
    out: pathlib.Path | None = None,
    first: Callable[[Sequence[str]], None] = lambda stages: None,
) -> list[dict]:
    """Audits students of a run; writes `evaluation/<stage>/` and the report over all stages.

    Args:
      stages: names; all of the experiment if empty.
      surrogate: model file for the transfer attacks; None takes the stage's robust teacher, or that
        of the last stage that has one.
      out: instead of `evaluation/`.
      first: is given the stages once all is checked, and may leave shares of their audits there.

    Returns:
      One `report.json` per stage.

    Raises:
      RunError: no such stage, or one that is not finished.
    """
    for stage in stages:
        check_stage(experiment, stage)
    known = [stage.name for stage in experiment.stages]
    chosen = list(dict.fromkeys(stages)) or known
    if out is None and audit.whole:
        _check_readable(run_dir, known, chosen)
    for stage in chosen:
        existing(run_dir, stage)
    first(chosen)
    reports = []
    for stage in chosen:
        given, folder = None, (out or run_dir / "evaluation") / stage
        with audit.strategy.scope():
            model = load_student(run_dir, stage)
            if audit.suite.transfer:
                given = _surrogate(run_dir, experiment, stage, surrogate)
        report = audit.at_temperature(_temperature(run_dir, stage))(
            model,
            stage,
            folder,
            given,
            {"stage": stage, "student": file_digest(student_path(run_dir, stage))},
        )
        reports.append(report)
        if audit.whole:
            _draw(run_dir, stage, folder, report)
    if out is None and audit.whole:
        write_report(run_dir, experiment)
    return reports


def _draw(run_dir: pathlib.Path, stage: str, folder: pathlib.Path, report: Mapping) -> None:
    """What shows an audit of a stage beside its report: a figure of images, and TensorBoard."""
    with np.load(folder / "examples.npz") as arrays:
        path = run_dir / "report" / f"{stage}_images.png"
        if not plots.adversarial_grid(arrays, report["label_names"], path):
            files.remove(path)  # that of another audit
    known = run_files.stage(run_dir / stage / "stage.json").get("identity", {})
    tensorboard_files.write_audit(folder, report, known.get("settings", {}))


def _check_readable(run_dir: pathlib.Path, known: Sequence[str], audited: Sequence[str]) -> None:
    """Reads, before hours of attacks, the other files of which the report is made."""
    for name in known:
        path = run_dir / "evaluation" / name / "report.json"
        if name not in audited and path.exists():
            run_files.report(path)
        if (run_dir / name / "stage.json").exists():
            run_files.stage(run_dir / name / "stage.json")
        _metrics(run_dir / name / "metrics.jsonl")


def surrogate_of(experiment: Experiment, stage: str) -> str | None:
    """The stage whose student crafts the transfer attacks on `stage`.

    Its robust teacher, or that of the last stage that has one; None for the surrogate itself.
    """
    robust = {s.name: s.teachers["robust"] for s in experiment.stages if "robust" in s.teachers}
    source = robust.get(stage) or next(reversed(robust.values()), None)
    return None if source == stage else source


def is_current(run_dir: pathlib.Path, experiment: Experiment, audit: Audit, stage: str) -> bool:
    """Whether the report is there, of this audit and of the current student."""
    if run_files.current_report(run_dir, stage) is None:
        return False
    model, surrogate = load_student(run_dir, stage), None
    if audit.suite.transfer:
        surrogate = _surrogate(run_dir, experiment, stage, None)
    tuned = audit.at_temperature(_temperature(run_dir, stage))
    return tuned.before(model, run_dir / "evaluation" / stage, surrogate) is not None


def write_report(run_dir: pathlib.Path, experiment: Experiment) -> pathlib.Path:
    """Writes `report/report.md` and its figures from what the stages and evaluations left."""
    folder = run_dir / "report"
    names = [stage.name for stage in experiment.stages]
    found = {name: run_files.current_report(run_dir, name) for name in names}
    reports = {name: report for name, report in found.items() if report is not None}
    headline = HEADLINE if all(HEADLINE in r["attacks"] for r in reports.values()) else "worst_case"
    plots.trade_off(_points(reports, headline), headline, folder / "trade_off.png")
    lines = [f"# {run_dir.resolve().name}", ""]
    lines += [f"* **{name}**: {report['verdict']}" for name, report in reports.items()]
    lines += [
        "",
        *_conditions(reports),
        "",
        *_table(reports),
        "",
        "W-Robust is (clean + robust) / 2 per attack; the worst case counts an image as robust "
        "only if it survives every attack.",
        "",
        "![clean against robust accuracy](trade_off.png)",
        "",
        *_stages(run_dir, names),
    ]
    for name in names:
        rows = _metrics(run_dir / name / "metrics.jsonl")
        if plots.balance(rows, folder / f"{name}_balance.png"):
            lines += ["", f"## Balance of {name}", "", f"![balance of {name}]({name}_balance.png)"]
    for name in reports:
        if (folder / f"{name}_images.png").exists():
            lines += ["", f"## {name} under attack", "", f"![images]({name}_images.png)"]
    lines += [line for name in names for line in calibrations.section(run_dir, name)]
    path = folder / "report.md"
    files.write_text(path, "\n".join(lines) + "\n")
    note_stages(run_dir, experiment)
    refresh(run_dir)
    return path


def _temperature(run_dir: pathlib.Path, stage: str) -> float:
    """At which the stage's student was trained."""
    return float(run_files.stage(run_dir / stage / "stage.json")["temperature"])


def _points(reports: dict[str, dict], attack: str) -> list[dict]:
    """What the trade-off figure shows of each stage."""
    return [
        {
            "label": f"{report['model']} ({report['parameters']:,})",
            "clean": report["clean"],
            "robust": {**report["attacks"], "worst_case": report["worst_case"]}[attack][
                "robust_accuracy"
            ],
        }
        for report in reports.values()
    ]


def _surrogate(
    run_dir: pathlib.Path, experiment: Experiment, stage: str, path: str | None
) -> Any | None:
    """The model on which transfer attacks are crafted; None for the surrogate itself."""
    if path is not None:
        return model_files.load(path)
    source = surrogate_of(experiment, stage)
    return None if source is None else load_student(run_dir, source)


def _conditions(reports: dict[str, dict]) -> list[str]:
    """What the numbers are of: one line, or one by stage where they differ."""
    lines = {
        name: f"{r['threat']['norm']}, epsilon {r['threat']['epsilon']:.5g} in [0, 1] pixel units; "
        f"the first {r['examples']:,} {r['split']} images."
        for name, r in reports.items()
    }
    if len(set(lines.values())) == 1:
        return [next(iter(lines.values()))]
    return [f"* {name}: {line}" for name, line in lines.items()]


def _table(reports: dict[str, dict]) -> list[str]:
    attacks = list(dict.fromkeys(name for r in reports.values() for name in r["attacks"]))
    columns = [*attacks, "worst_case"]
    head = ["stage", "parameters", "clean", *columns, *(f"W-Robust {name}" for name in columns)]
    rows = []
    for stage, report in reports.items():
        entries = {**report["attacks"], "worst_case": report["worst_case"]}
        cells = [stage, f"{report['parameters']:,}", f"{report['clean']:.2%}"]
        for measure in ("robust_accuracy", "w_robust"):
            cells += [f"{entries[n][measure]:.2%}" if n in entries else "" for n in columns]
        rows.append(cells)
    return Table(head, rows).markdown()


def _stages(run_dir: pathlib.Path, names: Sequence[str]) -> list[str]:
    head = ("stage", "teachers", "epochs", "chosen", "validation clean", "validation robust")
    rows = []
    for name in names:
        path = run_dir / name / "stage.json"
        if not path.exists():
            continue  # a later stage may still be training
        stage = run_files.stage(path)
        chosen = stage[stage["selected"]]
        teachers = ", ".join(f"{role}: {source}" for role, source in stage["teachers"].items())
        robust = f"{chosen['validation_robust']:.1%}" if "validation_robust" in chosen else ""
        weak = " (at chance)" if chosen.get("at_chance") else ""
        selected = f"{stage['selected']} (epoch {chosen['epoch']})"
        clean = f"{chosen['validation_clean']:.1%}{weak}"
        rows.append([name, teachers, str(stage["epochs"]), selected, clean, robust])
    return ["## Stages", "", *Table(head, rows, "llrlrr").markdown()]


def _metrics(path: pathlib.Path) -> list[dict]:
    """The rows of kind "step"; none if the stage has not begun."""
    return [row for row in run_files.rows(path, {"kind": str}) if row["kind"] == "step"]
