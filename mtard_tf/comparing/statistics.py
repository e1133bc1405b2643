"""Statistics over replicates: mean, deviation, and the paired difference of two rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtard_tf.auditing import accuracies


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation (n - 1 in the denominator) of one value per replicate.

    Returns:
      `mean`, `deviation` (None for a single value, which has none) and the `values`.
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "values": list(values)}


def w_robust_by_example(clean: np.ndarray, robust: np.ndarray) -> np.ndarray:
    """W-Robust by example: 1 if it survives the attack, 0.5 if it is correct only clean, else 0.

    Args:
      clean: which examples are classified correctly, bool `[...]`.
      robust: which of them survive the attack, bool `[...]`.

    Returns:
      float64 `[...]`; its mean is W-Robust.
    """
    return accuracies.w_robust(clean.astype(np.float64), robust.astype(np.float64))


def paired_difference(
    row: np.ndarray, baseline: np.ndarray, seed: int = 0, draws: int = accuracies.DRAWS
) -> dict[str, Any]:
    """How far a row's mean lies above the baseline's, with a paired, hierarchical bootstrap.

    Each draw resamples, with replacement, the examples: the same ones for every replicate of both
    rows, so that what is easy or hard for both cancels. Then it resamples the row's replicates and,
    independently, the baseline's, which are nets of different seeds and in no way pairs. A row of
    one replicate has no spread over seeds to resample: the interval then is of that one net.

    Args:
      row: a value per replicate and example, float `[replicates, examples]`.
      baseline: the same of the baseline, float `[other replicates, examples]`.
      seed: of the draws.
      draws: how many.

    Returns:
      `difference` of the means over replicates and examples; its 95 % percentile `interval`; and
      whether it `excludes_zero`.
    """
    # RandomState, not default_rng: only its stream is promised never to change with NumPy.
    random = np.random.RandomState(seed)
    # Drawing examples is drawing how often each distinct column comes up, and there are few.
    columns, counts = np.unique(np.concatenate([row, baseline]), axis=1, return_counts=True)
    examples = counts.sum()
    times = random.multinomial(examples, counts / examples, draws)
    means = times @ columns.T / examples  # [draws, replicates of both]
    above = _resampled(means[:, : len(row)], random) - _resampled(means[:, len(row) :], random)
    return {"difference": float(row.mean() - baseline.mean()), **bounds_of(above)}


def bounds_of(drawn: np.ndarray) -> dict[str, Any]:
    """The 95 % percentile `interval` of a bootstrap's draws, and whether it `excludes_zero`."""
    interval = accuracies.interval(drawn)
    return {"interval": interval, "excludes_zero": bool(interval[0] > 0 or interval[1] < 0)}


def _resampled(means: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Mean over replicates drawn anew in every draw, `[draws]` of `[draws, replicates]`."""
    chosen = random.randint(means.shape[1], size=means.shape)
    return np.take_along_axis(means, chosen, axis=1).mean(axis=1)
