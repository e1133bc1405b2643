"""The head of a model card as Hugging Face's hub reads it: YAML, written as JSON within it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mtard_tf.reporting import notation

_TAGS = ("image-classification", "adversarial-robustness", "knowledge-distillation", "tensorflow")


def text(metadata: Mapping) -> str:
    """The block between two lines of dashes.

    Args:
      metadata: see `model_card.metadata`.
    """
    fields = {
        # Weights inherit from the data and the teachers, which the card says are to be looked up.
        "license": "other",
        "license_name": "that-of-data-and-teachers",
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "datasets": [metadata["dataset"]],
        "tags": list(_TAGS),
    }
    if metadata["evaluation"] is not None:
        fields["metrics"] = ["accuracy"]
        fields["model-index"] = [_index(metadata, metadata["evaluation"])]
    # JSON is YAML; one field a line.
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])


def _index(metadata: Mapping, report: Mapping) -> dict[str, Any]:
    threat = notation.threat(report["threat"])
    metrics = [_metric("accuracy", "clean accuracy", report["clean"], {})]
    for name, entry in {**report["attacks"], "worst case": report["worst_case"]}.items():
        settings = report.get("suite", {}).get(name, "")
        args = {"threat": threat, "examples": report["examples"]}
        args |= {"attack": settings} if settings else {}
        value = entry["robust_accuracy"]
        metrics.append(_metric("accuracy", f"robust accuracy, {name} ({threat})", value, args))
    dataset = {"type": report["dataset"], "name": report["dataset"], "split": report["split"]}
    task = {"type": "image-classification", "name": "Image Classification"}
    name = f"{metadata['stage']['stage']}: {metadata['net']['name']}"
    return {"name": name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}


def _metric(kind: str, name: str, value: float, args: Mapping[str, Any]) -> dict[str, Any]:
    metric = {"type": kind, "name": name, "value": round(value, 4)}
    return {**metric, "args": dict(args)} if args else metric
