"""A model card: what a reader must know of an exported student, as Markdown."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence

import keras

from mtard_tf import __version__
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.models import model_files
from mtard_tf.reporting import run_files

_CAVEATS = (
    "Robust accuracy is measured with the attacks above; another attack may do better, and none of "
    "it says anything about perturbations of another norm, a larger epsilon, rotations, blur or "
    "other kinds of images.",
    "The probabilities are not calibrated, and the model has no class for what is none of its "
    "classes.",
    "Weights say nothing of the licence of the data and of the teachers: look there.",
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
      student: as it is exported.
    """
    report = run_dir / "evaluation" / name / "report.json"
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
        "evaluation": run_files.report(report) if report.exists() else None,
    }


def text(metadata: Mapping) -> str:
    """The card.

    Args:
      metadata: see `metadata`.
    """
    stage = metadata["stage"]
    height, width, channels = metadata["images"]["shape"]
    names = metadata["label_names"]
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    lines = [
        f"# {stage['stage']}: {metadata['net']['name']}",
        "",
        f"An image classifier, {metadata['net']['parameters']:,} parameters, trained with "
        f"`{metadata['distiller']}` by mtard_tf {metadata['version']} to resist adversarial "
        "perturbations.",
        "",
        "## Data",
        "",
        f"{metadata['dataset']}: images of {height}x{width}x{channels}, {len(names)} classes "
        f"({shown}).",
        "",
        "## Teachers",
        "",
        *_teachers(stage),
        "",
        "## Training",
        "",
        f"{stage['epochs']} epochs, {stage['steps']:,} steps, seed {stage['seed']}; the weights "
        f"are those of the {stage['selected']} validation. `assets.extra/metadata.json` has all "
        "that is known.",
        "",
        "## Threat model",
        "",
        _threat(metadata["threat"]),
        "",
        "## Figures",
        "",
        *_figures(metadata["evaluation"]),
        "",
        "## Caveats",
        "",
        *(f"* {caveat}" for caveat in _CAVEATS),
        "",
        *_loading((height, width, channels)),
    ]
    return "\n".join(lines) + "\n"


def _teachers(stage: Mapping) -> Sequence[str]:
    if not stage["teachers"]:
        return ["None: trained on labels alone."]
    sources = stage.get("sources", {})
    return [
        "| role | stage or file | fingerprint |",
        "|---|---|---|",
        *(
            f"| {role} | {source} | {sources.get(role, 'not noted')} |"
            for role, source in stage["teachers"].items()
        ),
    ]


def _threat(threat: Mapping) -> str:
    epsilon = threat["epsilon"]
    levels = round(epsilon * 255, 3)
    known = abs(levels - epsilon * 255) < 1e-6
    exact = f" = {levels:.6g}/255" if known else ""
    lines = [
        f"Perturbations of norm {threat['norm']} up to {epsilon:.5g}{exact} in [0, 1] pixel units, "
        "by an attacker who knows the weights; pixels stay in [0, 1]."
    ]
    if threat["norm"] == "linf" and not (known and levels.is_integer()):
        lines.append(f"Images of 8 bits come up to {math.floor(epsilon * 255)}/255 within it.")
    return " ".join(lines)


def _figures(report: Mapping | None) -> Sequence[str]:
    if report is None:
        return ["Not measured: `mtard-eval` had not been run when this was exported."]
    suite = report.get("suite", {})
    rows = [
        "| attack | robust accuracy | 95 % interval | W-Robust | settings |",
        "|---|---:|---|---:|---|",
    ]
    for name, numbers in {**report["attacks"], "worst case": report["worst_case"]}.items():
        low, high = numbers["robust_accuracy_interval"]
        rows.append(
            f"| {name} | {numbers['robust_accuracy']:.2%} | {low:.2%} to {high:.2%} | "
            f"{numbers['w_robust']:.2%} | {suite.get(name, '')} |"
        )
    return [
        f"Clean accuracy {report['clean']:.2%}, on {report['examples']:,} images of the "
        f"{report['split']} split of {report['dataset']}; {report['threat']['norm']}, epsilon "
        f"{report['threat']['epsilon']:.5g}.",
        "",
        *rows,
        "",
        f"{report['verdict']}",
    ]


def _loading(shape: tuple[int, int, int]) -> Sequence[str]:
    return [
        "## How to load it",
        "",
        "Only TensorFlow is needed; FOLDER is the folder of this file.",
        "",
        "```python",
        "import numpy as np, tensorflow as tf",
        "",
        'model = tf.saved_model.load("FOLDER")',
        f"images = np.zeros((1, {shape[0]}, {shape[1]}, {shape[2]}), np.uint8)  # 0 to 255",
        'answer = model.signatures["serving_default"](images=tf.constant(images))',
        'print(answer["label_name"], answer["probabilities"])',
        "```",
        "",
        "`encoded_images` takes PNG or JPEG bytes, and `logits` float32 images in [0, 1]; the "
        "latter has gradients: `mtard-eval --model=FOLDER` audits it, and a stage takes the folder "
        "as a teacher. TensorFlow Serving: `--model_base_path=` the folder above.",
    ]
