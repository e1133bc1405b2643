"""A model card: what a reader must know of an exported student, as Markdown."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping

import jinja2
import keras

from mtard_tf import __version__
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.exporting import front_matter
from mtard_tf.exporting.formats import FORMATS
from mtard_tf.models import model_files
from mtard_tf.reporting import calibrations, notation, run_files
from mtard_tf.reporting.tables import Table

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__, "."),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def metadata(
    run_dir: pathlib.Path,
    experiment: Experiment,
    name: str,
    data: Mapping,
    student: keras.Model,
) -> dict:
    """What goes with an exported student: where it comes from and what is known of it.

    Args:
      run_dir: of the run.
      experiment: that of the run.
      name: of the stage.
      data: what the stage noted of them, see `run_directory.noted_data`.
      student: the exported student.
    """
    stage = next(stage for stage in experiment.stages if stage.name == name)
    return {
        "version": __version__,
        "stage": run_files.stage(run_dir / name / "stage.json"),
        "distiller": getattr(stage.distiller, "__name__", repr(stage.distiller)),
        "net": {"name": student.name, "parameters": model_files.parameters(student)},
        "dataset": data["name"],
        "label_names": data["label_names"],
        "images": {"dtype": "uint8", "shape": data["image_shape"]},
        "threat": {"norm": experiment.norm, "epsilon": experiment.epsilon},
        "evaluation": run_files.current_report(run_dir, name),
    }


def text(metadata: Mapping) -> str:
    """The card.

    Args:
      metadata: see `metadata`, with the `formats` of `export`.
    """
    stage, report = metadata["stage"], metadata["evaluation"]
    found = metadata.get("calibration")
    norm, epsilon = metadata["threat"]["norm"], metadata["threat"]["epsilon"]
    levels = round(epsilon * 255, 3)
    exact = abs(levels - epsilon * 255) < 1e-6
    on_levels = norm != "linf" or (exact and levels.is_integer())
    return _TEMPLATES.get_template("model_card.md.jinja").render(
        **{**metadata, "calibration": found},
        front_matter=front_matter.text(metadata),
        teachers="\n".join(_teachers(stage).markdown()),
        files="\n".join(_files(metadata["formats"]).markdown()),
        compared=min(known["images"] for known in metadata["formats"].values()),
        figures="\n".join(_figures(report).markdown()) if report else "",
        eight_bit=notation.eight_bit(report) if report else "",
        calibrated="\n".join(calibrations.table(found)) if found else "",
        radius=f"{epsilon:.5g}" + (f" = {levels:.6g}/255" if exact else ""),
        whole_levels=None if on_levels else math.floor(epsilon * 255),
    )


def _teachers(stage: Mapping) -> Table:
    rows = [[role, name, stage["sources"][role]] for role, name in stage["teachers"].items()]
    return Table(("role", "stage or file", "fingerprint"), rows, "lll")


def _files(formats: Mapping) -> Table:
    rows = []
    for name, known in formats.items():
        calibrated = known.get("calibration")
        rows.append(
            [
                FORMATS[name].file or "this folder",
                name + (f", {calibrated['kind']}" if calibrated else ""),
                f"{known['bytes']:,}",
                f"{known['agreement']:.1%}",
                f"{known['difference']:.2g}",
                f"{known['milliseconds']:.3g}",
            ]
        )
    head = ("file", "format", "bytes", "same label", "largest difference of a logit", "ms")
    return Table(head, rows, "llrrrr")


def _figures(report: Mapping) -> Table:
    rows = []
    for name, numbers in {**report["attacks"], **notation.worst_cases(report)}.items():
        low, high = numbers["robust_accuracy_interval"]
        rows.append(
            [
                name,
                f"{numbers['robust_accuracy']:.2%}",
                f"{low:.2%} to {high:.2%}",
                f"{numbers['w_robust']:.2%}",
                report["suite"].get(name, ""),
            ]
        )
    head = ("attack", "robust accuracy", "95 % interval", "W-Robust", "settings")
    return Table(head, rows, "lrlrl")
