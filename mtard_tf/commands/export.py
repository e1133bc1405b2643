"""`mtard-export`: writes a stage's student as files, with its model card."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from mtard_tf.commands import requests
from mtard_tf.config import gin_files
from mtard_tf.exporting import export, hub_folder, model_card, saved_model
from mtard_tf.exporting.formats import FORMATS, SAVED_MODEL, Wanted
from mtard_tf.reporting import run_page
from mtard_tf.running import experiment_run, report, run_directory


def run(request: requests.Export) -> str:
    """Exports a student; returns the lines to print.

    Raises:
      ValueError: there is no such stage, it is not finished, or it cannot be exported; one line.
    """
    wanted = Wanted(
        tuple(request.formats),
        request.calibration,
        request.calibration_images,
        request.min_agreement,
        request.max_robust_drop,
        request.robust_examples,
        request.calibrate,
        request.coverage,
    )
    run_dir = pathlib.Path(request.run_dir)
    hub = pathlib.Path(request.hub_folder) if request.hub_folder else None
    if hub:
        hub_folder.check(hub)
    described = gin_files.of_run(run_dir)
    stage = request.stage or described.stages[-1].name
    experiment_run.check_stage(described, stage)
    noted, probe_images = run_directory.noted_data(run_dir, stage)
    student = run_directory.load_student(run_dir, stage)
    data = described.dataset() if wanted.needs_data else None
    if data is not None:
        probe_images = data.validation.images[: wanted.probes]
    metadata = model_card.metadata(run_dir, described, stage, noted, student)
    folder = export.export(
        student,
        noted["label_names"],
        run_dir / "export" / stage,
        probe_images,
        metadata,
        wanted,
        data,
        described.threat,
    )
    if wanted.calibrate and (run_dir / "report" / "report.md").exists():
        report.write_report(run_dir, described)
    else:
        run_page.refresh(run_dir)
    lines = _lines(folder, wanted)
    if hub:
        audit = run_dir / "evaluation" / stage if metadata["evaluation"] else None
        hub_folder.lay_out(folder, student, audit, hub)
        lines.append(f"For the hub: {hub}")
    return "\n".join(lines)


def _lines(folder: pathlib.Path, wanted: Wanted) -> list[str]:
    known_all = export.known(folder)
    formats, lines = known_all["formats"], []
    for name, known in formats.items():
        what = (
            "logits equal" if FORMATS[name].exact else f"{known['agreement']:.1%} of labels equal"
        )
        path = folder / FORMATS[name].file
        if robust := known.get("robust"):
            what += f", worst case {robust['float']:.1%} -> {robust['file']:.1%}"
        lines.append(f"{name}: {path} ({known['bytes']:,} bytes; run by a fresh process, {what})")
    if calibration := known_all.get("calibration"):
        lines.append(_calibrated(calibration))
    lines.append(f"Model card: {folder / 'README.md'}")
    if SAVED_MODEL in formats:
        lines.append(saved_model.describe(folder))
    return lines


def _calibrated(known: Mapping[str, Any]) -> str:
    clean, attacked = (known[kind] for kind in ("clean", "attacked"))
    moved = [f"{x['before']['ece']:.1%} -> {x['after']['ece']:.1%}" for x in (clean, attacked)]
    return (
        f"calibrated: temperature {known['temperature']:.4g}; ECE {moved[0]}, attacked {moved[1]}, "
        f"on {known['images']:,} {known['split']} images; a confidence of {known['threshold']:.3f} "
        f"is reached by {clean['covered']:.1%} of them"
    )
