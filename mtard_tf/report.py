"""Evaluates the stages of a run and writes the report that shows what happened."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mtard_tf import files, plots
from mtard_tf.data.batches import to_float
from mtard_tf.data.image_data import ImageData
from mtard_tf.evaluation import Evaluator, audit, paper_attacks, summarise
from mtard_tf.experiment import Experiment, load_student

HEADLINE = "pgd_sat"


def evaluate_run(
    run_dir: pathlib.Path,
    experiment: Experiment,
    stages: Sequence[str] = (),
    examples: int | None = None,
) -> list[dict]:
    """Audits students of a run on the test split; writes `evaluation/<stage>/` and the report.

    Args:
      run_dir: of finished stages.
      experiment: as it was run.
      stages: their names; all of the experiment if empty.
      examples: first so many test images; None for all.

    Returns:
      One `report.json` per stage.
    """
    data = experiment.dataset()
    reports = []
    for stage in stages or [stage.name for stage in experiment.stages]:
        model = load_student(run_dir, stage)
        evaluator = Evaluator(model, experiment.threat, seed=experiment.seed)
        outcomes = audit(evaluator, data.test, paper_attacks(), examples, _progress(stage))
        folder = run_dir / "evaluation" / stage
        with files.replacing(folder / "examples.npz") as temporary:
            np.savez_compressed(temporary, **outcomes)
        report = summarise(stage, model, outcomes)
        report["threat"] = {"norm": experiment.norm, "epsilon": experiment.epsilon}
        files.write_json(folder / "report.json", report)
        draw_examples(evaluator, data, run_dir / "report" / f"{stage}_images.png")
        reports.append(report)
    write_report(run_dir, experiment)
    return reports


def draw_examples(evaluator: Evaluator, data: ImageData, path: pathlib.Path, count: int = 8) -> None:
    """The grid of the first `count` test images, clean and under the headline attack."""
    images, labels = to_float(data.test.images[:count]), data.test.labels[:count]
    perturbed = evaluator.perturb(
        paper_attacks()[HEADLINE], images, tf.constant(labels), tf.range(len(labels), dtype=tf.int64)
    )
    predicted = [evaluator.logits(batch).argmax(axis=1) for batch in (images, perturbed)]
    captions = [
        (data.label_names[clean], data.label_names[attacked])
        for clean, attacked in zip(*predicted, strict=True)
    ]
    plots.adversarial_grid(images.numpy(), perturbed.numpy(), captions, path)


def write_report(run_dir: pathlib.Path, experiment: Experiment) -> pathlib.Path:
    """Writes `report/report.md` and its figures from what the stages and evaluations left."""
    folder = run_dir / "report"
    names = [stage.name for stage in experiment.stages]
    stages = {n: files.read_json(run_dir / n / "stage.json") for n in names}
    reports = [
        files.read_json(path)
        for n in names
        if (path := run_dir / "evaluation" / n / "report.json").exists()
    ]
    plots.trade_off(reports, HEADLINE, folder / "trade_off.png")
    lines = [
        f"# {run_dir.name}",
        "",
        f"{experiment.norm}, epsilon {experiment.epsilon:.5g} in [0, 1] pixel units; the first "
        f"{reports[0]['examples']:,} test images. W-Robust is (clean + robust) / 2 per attack. "
        "These attacks are not the strongest there are: read the figures as upper bounds.",
        "",
        *_table(reports),
        "",
        "![clean against robust accuracy](trade_off.png)",
        "",
        "## Stages",
        "",
        "| stage | teachers | epochs | chosen | validation clean | validation robust | seconds |",
        "|---|---|---:|---|---:|---:|---:|",
    ]
    for name, stage in stages.items():
        chosen = stage[stage["selected"]]
        teachers = ", ".join(f"{role}: {source}" for role, source in stage["teachers"].items())
        robust = f"{chosen['validation_robust']:.1%}" if "validation_robust" in chosen else ""
        lines.append(
            f"| {name} | {teachers} | {stage['epochs']} | {stage['selected']} (epoch "
            f"{chosen['epoch']}) | {chosen['validation_clean']:.1%} | {robust} | {stage['seconds']} |"
        )
    for name in names:
        rows = [r for r in _metrics(run_dir / name / "metrics.jsonl") if r["kind"] == "step"]
        if plots.balance(rows, folder / f"{name}_balance.png"):
            lines += ["", f"## Balance of {name}", "", f"![balance of {name}]({name}_balance.png)"]
    for name in names:
        if (folder / f"{name}_images.png").exists():
            lines += ["", f"## {name} under {HEADLINE}", "", f"![images]({name}_images.png)"]
    path = folder / "report.md"
    files.write_text(path, "\n".join(lines) + "\n")
    return path


def _table(reports: Sequence[dict]) -> list[str]:
    attacks = list(reports[0]["attacks"])
    head = ["stage", "parameters", "clean", *attacks, *(f"W-Robust {attack}" for attack in attacks)]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for report in reports:
        cells = [report["stage"], f"{report['parameters']:,}", f"{report['clean']:.2%}"]
        for measure in ("robust_accuracy", "w_robust"):
            cells += [f"{report['attacks'][attack][measure]:.2%}" for attack in attacks]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _metrics(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _progress(stage: str):
    def show(name: str, accuracy: float) -> None:
        print(f"{stage}  {name:<12} {accuracy:6.2%}", file=sys.stderr, flush=True)

    return show
