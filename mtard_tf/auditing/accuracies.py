"""What an audit's outcomes amount to: accuracies, their trade-offs, their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 2_000
_TAIL = 2.5  # percent on either side of a 95 % interval

Outcomes = Mapping[str, np.ndarray]


def w_robust(clean: Any, robust: Any) -> Any:
    """Weighted robust accuracy of the MTARD papers, (clean + robust) / 2, per attack."""
    return (clean + robust) / 2


def nrr(clean: Any, robust: Any) -> Any:
    """Natural-robustness ratio, 2 clean robust / (clean + robust): their harmonic mean; 0 for 0."""
    total = clean + robust
    return 2 * clean * robust / np.where(total > 0, total, 1)


def worst_case(outcomes: Outcomes) -> np.ndarray:
    """Which examples stand under every attack, bool `[examples]`; those right when clean if none.

    Args:
      outcomes: "clean" and each attack -> which examples are classified rightly, bool
        `[examples]`.
    """
    return np.logical_and.reduce(list(outcomes.values()))


def summarise(outcomes: Outcomes, seed: int = 0) -> dict:
    """The numbers of a report: `clean`, one entry by attack, and the worst case over them.

    Each accuracy, W-Robust and NRR has a 95 % bootstrap interval, paired over examples: every
    draw takes the same examples for all attacks, so that W-Robust's interval is right.

    Args:
      outcomes: "clean" and each attack -> bool `[examples]`.
      seed: of the draws.
    """
    outcomes = {**outcomes, "worst_case": worst_case(outcomes)}
    draws = _bootstrap(outcomes, seed)
    clean = float(outcomes["clean"].mean())
    entries = {}
    for name, outcome in outcomes.items():
        if name == "clean":
            continue
        robust = float(outcome.mean())
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
        "examples": len(outcomes["clean"]),
        "clean": clean,
        "clean_interval": interval(draws["clean"]),
        "attacks": entries,
        "worst_case": worst,
    }


def by_class(outcomes: Outcomes, labels: np.ndarray, label_names: Sequence[str]) -> dict:
    """`per_class` accuracies, of the classes that have examples, and the `worst_class` by column.

    Args:
      outcomes: "clean" and each attack -> bool `[examples]`.
      labels: class ids, integer `[examples]`.
      label_names: by class id.
    """
    outcomes = {**outcomes, "worst_case": worst_case(outcomes)}
    per_class: dict[str, dict] = {}
    for label, name in enumerate(label_names):
        chosen = labels == label
        if chosen.any():
            accuracies = {key: float(outcome[chosen].mean()) for key, outcome in outcomes.items()}
            per_class[str(name)] = {"examples": int(chosen.sum()), **accuracies}
    worst = {}
    for key in outcomes:
        lowest = min(per_class, key=lambda name: per_class[name][key])
        worst[key] = {"class": lowest, "accuracy": per_class[lowest][key]}
    return {"per_class": per_class, "worst_class": worst}


def interval(draws: np.ndarray) -> list[float]:
    """The middle 95 % of the draws: [low, high]."""
    return [float(value) for value in np.percentile(draws, (_TAIL, 100 - _TAIL))]


def _bootstrap(outcomes: Outcomes, seed: int) -> dict[str, np.ndarray]:
    """Means of resampled examples, `[DRAWS]` for each column.

    Drawing examples with replacement is drawing how often each distinct row of outcomes comes up,
    and there are few distinct rows.
    """
    table = np.stack(list(outcomes.values()), axis=1)
    rows, counts = np.unique(table, axis=0, return_counts=True)
    # RandomState, not default_rng: only its stream is promised never to change with NumPy.
    drawn = np.random.RandomState(seed).multinomial(len(table), counts / len(table), DRAWS)
    return dict(zip(outcomes, (drawn @ rows / len(table)).T, strict=True))
