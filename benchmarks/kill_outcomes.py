"""What two runs came to, and how far a run has come, for `kill_test.py`."""

from __future__ import annotations

import json
import pathlib

_DONE = 10**9
_TEXTS = (
    *("run/*/metrics.jsonl", "*/*/stage.json", "*/evaluation/*/report.json"),
    *("run/report/report.md", "compared/comparison/comparison.json"),
    "compared/comparison/table.csv",
)


def kept(root: pathlib.Path) -> dict[str, int]:
    """Stage or audit -> how far it has come; must never become less."""
    found: dict[str, int] = {}
    for state in root.glob("*/*/checkpoints/state-*.npz"):
        name = str(state.parent.parent.relative_to(root))
        found[name] = max(found.get(name, 0), int(state.stem.split("-")[1]))
    for progress in root.glob("*/evaluation/*/progress.jsonl"):
        found[str(progress.parent.relative_to(root))] = progress.read_bytes().count(b"\n")
    for done in (*root.glob("*/*/stage.json"), *root.glob("*/evaluation/*/report.json")):
        found[str(done.parent.relative_to(root))] = _DONE
    for version in root.glob("*/export/*/[0-9]*"):
        found[str(version.relative_to(root))] = _DONE
    return found


def differences(killed: pathlib.Path, whole: pathlib.Path) -> list[str]:
    """What is not the same in the two folders of runs, or was left half written in the first."""
    import keras
    import numpy as np

    found = []
    for path in sorted(whole.glob("*/*/student.keras")):
        name = path.relative_to(whole)
        ours, theirs = (
            keras.models.load_model(root / name, compile=False).get_weights()
            for root in (killed, whole)
        )
        if not all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)):
            found.append(f"{name}: weights")
    for path in sorted(file for pattern in _TEXTS for file in whole.glob(pattern)):
        name = path.relative_to(whole)
        if _text(killed / name) != _text(path):
            found.append(str(name))
    if (whole / "run" / "export").exists() and not _same_logits(killed, whole):
        found.append("logits of the export")
    return found


def _text(path: pathlib.Path) -> str:
    """Of a table without its seconds, which no two runs share."""
    text = path.read_text(encoding="utf-8")
    if path.name == "comparison.json":
        value = json.loads(text)
        for row in value["rows"]:
            row.pop("seconds_per_epoch", None)
        return json.dumps(value)
    if path.name == "table.csv":
        rows = [line.split(",") for line in text.splitlines()]
        drop = [i for i, name in enumerate(rows[0]) if "second" in name]
        return "\n".join(",".join(v for i, v in enumerate(r) if i not in drop) for r in rows)
    return text


def _same_logits(killed: pathlib.Path, whole: pathlib.Path) -> bool:
    import numpy as np
    import tensorflow as tf

    images = np.random.RandomState(1).randint(0, 256, (16, 8, 8, 3), np.uint8)
    newest = [
        max((r / "run/export/student").glob("[0-9]*"), key=lambda p: int(p.name))
        for r in (killed, whole)
    ]
    ours, theirs = (
        tf.saved_model.load(str(folder))
        .signatures["serving_default"](images=tf.constant(images))["logits"]
        .numpy()
        for folder in newest
    )
    return np.array_equal(ours, theirs)
