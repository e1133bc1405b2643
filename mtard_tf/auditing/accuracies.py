"""Accuracies from per-image results: their trade-offs, their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 2_000
_TAIL = 2.5  # percent on either side of a 95 % interval

# "clean" and each attack -> which images are classified correctly, bool `[images]`.
Correct = Mapping[str, np.ndarray]


def w_robust(clean: Any, robust: Any) -> Any:
    """Weighted robust accuracy of the MTARD papers, (clean + robust) / 2, per attack."""
    return (clean + robust) / 2


def nrr(clean: Any, robust: Any) -> Any:
    """Natural-robustness ratio, 2 clean robust / (clean + robust): their harmonic mean; 0 for 0."""
    total = clean + robust
    return 2 * clean * robust / np.where(total > 0, total, 1)


def worst_case(correct: Correct) -> np.ndarray:
    """Which images are correct when clean and survive every attack, bool `[images]`.

    Args:
      correct: "clean" and each attack -> which images are classified correctly, bool `[images]`.
    """
    return np.logical_and.reduce(list(correct.values()))


def summarise(correct: Correct, seed: int = 0) -> dict:
    """The numbers of a report: `clean`, one entry by attack, and the worst case over them.

    Each accuracy, W-Robust and NRR has a 95 % bootstrap interval, paired over images: every
    draw takes the same images for all attacks, so that W-Robust's interval is right.

    Args:
      correct: "clean" and each attack -> which images are classified correctly, bool `[images]`.
      seed: of the draws.
    """
    correct = {**correct, "worst_case": worst_case(correct)}
    draws = _bootstrap(correct, seed)
    clean = float(correct["clean"].mean())
    entries = {}
    for name, survived in correct.items():
        if name == "clean":
            continue
        robust = float(survived.mean())
        entries[name] = {
            "robust_accuracy": robust,
            "robust_accuracy_interval": interval(draws[name]),
            "w_robust": w_robust(clean, robust),
            "w_robust_interval": interval(w_robust(draws["clean"], draws[name])),
            "nrr": float(nrr(clean, robust)),
            "nrr_interval": interval(nrr(draws["clean"], draws[name])),
        }
    worst = entries.pop("worst_case")
    return {
        "examples": len(correct["clean"]),
        "clean": clean,
        "clean_interval": interval(draws["clean"]),
        "attacks": entries,
        "worst_case": worst,
    }


def by_class(correct: Correct, labels: np.ndarray, label_names: Sequence[str]) -> dict:
    """`per_class` accuracies, of the classes that have images, and the `worst_class` by column.

    Args:
      correct: "clean" and each attack -> which images are classified correctly, bool `[images]`.
      labels: class ids, integer `[images]`.
      label_names: by class id.
    """
    correct = {**correct, "worst_case": worst_case(correct)}
    per_class: dict[str, dict] = {}
    for label, name in enumerate(label_names):
        chosen = labels == label
        if chosen.any():
            accuracies = {key: float(right[chosen].mean()) for key, right in correct.items()}
            per_class[str(name)] = {"examples": int(chosen.sum()), **accuracies}
    worst = {}
    for key in correct:
        lowest = min(per_class, key=lambda name: per_class[name][key])
        worst[key] = {"class": lowest, "accuracy": per_class[lowest][key]}
    return {"per_class": per_class, "worst_class": worst}


def interval(draws: np.ndarray) -> list[float]:
    """The middle 95 % of the draws: [low, high]."""
    return [float(value) for value in np.percentile(draws, (_TAIL, 100 - _TAIL))]


def _bootstrap(correct: Correct, seed: int) -> dict[str, np.ndarray]:
    """Means of resampled images, `[DRAWS]` for each column.

    Drawing images with replacement is drawing how often each distinct row of results comes up,
    and there are few distinct rows.
    """
    table = np.stack(list(correct.values()), axis=1)
    rows, counts = np.unique(table, axis=0, return_counts=True)
    # RandomState, not default_rng: only its stream is promised never to change with NumPy.
    drawn = np.random.RandomState(seed).multinomial(len(table), counts / len(table), DRAWS)
    return dict(zip(correct, (drawn @ rows / len(table)).T, strict=True))
