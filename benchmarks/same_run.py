"""Holds two finished runs against each other, to the bit: final weights, stages and audits.

    mtard-train --config=quickstart.gin --run_dir=before && mtard-eval --run_dir=before
    (change the code, and do the same with --run_dir=after)
    python benchmarks/same_run.py before after

For a change that must not change a number. A line for each file; exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any

import keras
import numpy as np

# What no two runs share, or what names the file and not what is in it.
IGNORED = ("date", "seconds", "version", "sources", "digest", "file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("after", type=pathlib.Path)
    given = parser.parse_args()
    differs = False
    for pattern in ("*/student.keras", "*/stage.json", "evaluation/*/report.json"):
        for path in sorted(given.before.glob(pattern)):
            name = path.relative_to(given.before)
            compare = weights_differ if path.suffix == ".keras" else json_differs
            found = compare(path, given.after / name)
            differs |= bool(found)
            print(f"{name}: {found or 'equal'}")
    sys.exit(1 if differs else 0)


def weights_differ(before: pathlib.Path, after: pathlib.Path) -> str:
    """What differs between two models' weights, in words; empty for nothing."""
    if not after.exists():
        return "missing"
    ours, theirs = (
        keras.models.load_model(p, compile=False).get_weights() for p in (before, after)
    )
    if [w.shape for w in ours] != [w.shape for w in theirs]:
        return "other shapes"
    equal = all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    worst = max(float(np.max(np.abs(a - b))) for a, b in zip(ours, theirs, strict=True))
    return "" if equal else f"weights differ by up to {worst:.3g}"


def json_differs(before: pathlib.Path, after: pathlib.Path) -> str:
    """The keys whose values differ between two JSON files; empty for none."""
    if not after.exists():
        return "missing"
    ours, theirs = (flat(json.loads(path.read_text(encoding="utf-8"))) for path in (before, after))
    keys = [k for k in ours | theirs if ours.get(k) != theirs.get(k) and ignored(k) is False]
    return (
        f"{len(keys)} of {len(ours)} values differ: {', '.join(sorted(keys)[:5])}" if keys else ""
    )


def ignored(key: str) -> bool:
    return any(part in IGNORED for part in key.split("/"))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict: path with '/' -> value."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = ((str(i), v) for i, v in enumerate(value))
    else:
        return {prefix: value}
    return {k: v for name, part in items for k, v in flat(part, f"{prefix}/{name}").items()}


if __name__ == "__main__":
    main()
