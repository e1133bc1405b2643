"""Runs, audits and comparisons whose figures are made up, as files, for the pages made of them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from mtard_tf import files
from mtard_tf.auditing import accuracies

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
HOSTILE = '<script>alert("x")</script>\'"&' + "n" * 270  # 300 characters
CHECKS = ("constant_prediction", "at_chance", "start_matters", "black_box_stronger")


def audit(
    folder: pathlib.Path,
    name: str = "student",
    *,
    severity: str = "none",
    classes: Sequence[str] = CLASSES,
    dataset: str = "made_up",
    attacks: Sequence[str] = ("fgsm", "pgd_sat", "cw_inf"),
    examples: int = 200,
    seed: int = 0,
) -> dict:
    """Writes `report.json` and `examples.npz`; returns the former's content."""
    random = np.random.RandomState(seed)
    labels = np.arange(examples) % len(classes)
    clean = random.rand(examples) < 0.85
    outcomes = {"clean": clean}
    for place, attack in enumerate(attacks):
        outcomes[attack] = clean & (random.rand(examples) < 0.8 - 0.1 * place - 0.05 * labels)
    numbers = accuracies.summarise(outcomes)
    findings = [
        {"name": check, "severity": severity if not place else "none", "evidence": "Seen 12.5%."}
        for place, check in enumerate(CHECKS)
    ]
    radii = (0.0, 0.05, 0.1, 0.15, 0.2)
    report = {
        "verdict": f"Worst case over {len(attacks)} attacks: 41.0% of {examples} (95 %: ...).",
        "model": name,
        "dataset": dataset,
        "split": "test",
        "label_names": list(classes),
        "parameters": 12_345,
        "threat": {"norm": "linf", "epsilon": 0.1},
        "seed": 0,
        "suite": {attack: f"PGD(num_steps={n})" for n, attack in enumerate(attacks, 10)},
        "left_out": [],
        "crafted_on": {},
        **numbers,
        "findings": findings,
        "epsilon_curve": [
            {"epsilon": e, "robust_accuracy": 0.8 - 3 * e, "worst_case": 0.79 - 3 * e}
            for e in radii
        ],
        **accuracies.by_class(outcomes, labels, classes),
        "fingerprint": "0123456789abcdef",
    }
    files.write_json(folder / "report.json", report)
    images = random.randint(0, 256, (12, 28, 28, 1)).astype(np.uint8)
    moved = np.clip(images + random.randint(-25, 26, images.shape), 0, 255).astype(np.uint8)
    shown = labels[np.arange(12) % examples]
    after = np.where(np.arange(12) < 6, (shown + 1) % len(classes), shown)
    np.savez_compressed(
        folder / "examples.npz",
        **outcomes,
        **{
            "predictions/labels": labels,
            "predictions/clean": labels,
            "predictions/attacked": (labels + random.randint(0, 3, examples)) % len(classes),
            "images/ids": np.arange(12),
            "images/labels": shown,
            "images/clean": images,
            "images/attacked": moved,
            "images/clean_class": shown,
            "images/attacked_class": after,
            "images/clean_probability": random.rand(12).astype("f4"),
            "images/attacked_probability": random.rand(12).astype("f4"),
        },
    )
    return report


def run(run_dir: pathlib.Path, student: str = "student", **more) -> pathlib.Path:
    """A run of two teachers and a student, finished and audited; returns its directory.

    Args:
      run_dir: where it goes.
      student: name of its stage.
      more: for `audit`, of the student.
    """
    teachers = {"clean": "clean_teacher", "robust": "robust_teacher"}
    planned = [
        {"name": name, "distiller": kind, "teachers": taught, "initial": None, "epochs": 6}
        for name, kind, taught in (
            ("clean_teacher", "natural", {}),
            ("robust_teacher", "trades", {}),
            (student, "bmtard", teachers),
        )
    ]
    noted = {"name": "made_up", "threat": {"norm": "linf", "epsilon": 0.1}, "seed": 0}
    files.write_json(run_dir / "stages.json", {**noted, "stages": planned})
    files.write_json(run_dir / "environment.json", {"mtard_tf": "0.1.0", "folder": str(run_dir)})
    files.write_text(run_dir / "config.gin", "Experiment.epsilon = 0.1\n")
    for place, stage in enumerate(planned):
        # A name may hold what no folder's does: then only the audit's page has it.
        folder = run_dir / stage["name"]
        _trained(folder, stage, epochs=6)
        audit(run_dir / "evaluation" / stage["name"], stage["name"], seed=place, **more)
    return run_dir


def _trained(folder: pathlib.Path, stage: dict, epochs: int) -> None:
    chosen = {"epoch": epochs, "validation_clean": 0.82, "validation_robust": 0.52}
    done = {
        "stage": stage["name"],
        "teachers": stage["teachers"],
        "sources": dict.fromkeys(stage["teachers"], "8cec45f459c70770"),
        "identity": {"settings": {"Stage.epochs": str(epochs)}},
        "epochs": epochs,
        "selected": "best",
        "temperature": 1.0,
        "best": chosen,
    }
    files.write_json(folder / "stage.json", done)
    rows, timing = [{"kind": "step", "step": 1, "loss": 2.0}], []
    for epoch in range(1, epochs + 1):
        row = {"kind": "epoch", "step": 43 * epoch, "epoch": epoch, "loss": 1 / epoch}
        for role in stage["teachers"]:
            row |= {f"weight_{role}": 0.5, f"temperature_{role}": 1 + 0.1 * epoch}
            row |= {f"entropy_{role}": 1.0 / epoch, f"kl_{role}": 0.2 / epoch}
        row |= {"validation_clean": 0.1 * epoch, "validation_robust": 0.08 * epoch}
        rows.append(row)
        timing.append({"epoch": epoch, "seconds": 5.0 + epoch})
    for name, lines in (("metrics", rows), ("timing", timing)):
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        files.write_text(folder / f"{name}.jsonl", text)


def comparison(folder: pathlib.Path, rows: int = 9, name: str = "method") -> pathlib.Path:
    """A comparison of so many rows, three seeds each, against the second; returns its folder."""
    random = np.random.RandomState(0)
    attacks = ["fgsm", "pgd_sat", "cw_inf"]

    def spread(mean: float) -> dict:
        values = [mean - 0.01, mean, mean + 0.01]
        return {"mean": mean, "deviation": 0.01, "values": values}

    entries = []
    for place in range(rows):
        clean = 0.6 + 0.3 * random.rand()
        robust = {a: 0.2 + 0.3 * random.rand() for a in attacks}
        robust["worst_case"] = min(robust.values()) if place else 0.01
        entry = {
            "row": f"{name}_{place}",
            "teacher": place == 0,
            "stages": [f"{name}_{place}_s{seed}" for seed in range(3)],
            "parameters": 10_000 * (place + 1),
            "severity": ("none", "note", "masked")[place % 3 if place % 7 else 0],
            "clean": spread(clean),
            "robust": {a: spread(v) for a, v in robust.items()},
            "w_robust": {a: spread((clean + v) / 2) for a, v in robust.items()},
            "seconds_per_epoch": spread(4.0 + place),
        }
        if place != 1:
            bounds = [-0.02 + 0.01 * place, 0.03 + 0.01 * place]
            found = {"difference": sum(bounds) / 2, "interval": bounds}
            entry["against_baseline"] = {
                a: {**found, "excludes_zero": bounds[0] > 0} for a in robust
            }
        entries.append(entry)
    compared = {
        "dataset": "made_up",
        "split": "test",
        "examples": 1000,
        "threat": {"norm": "linf", "epsilon": 8 / 255},
        "attacks": attacks,
        "worst_case_of": attacks,
        "not_in_worst_case": {},
        "baseline": f"{name}_1",
        "missing": [f"{name}_late_s0"],
        "rows": entries,
        "summary": ["Best W-Robust in the worst case: made up."],
    }
    files.write_json(folder / "comparison.json", compared)
    return folder
