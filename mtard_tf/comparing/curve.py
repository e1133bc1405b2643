"""How far rows lie above a trade-off curve: of rows that differ by one setting, as fixed weights.

W-Robust also rewards a point that is merely further along the curve. Height above it does not: it
compares robust accuracy at equal clean accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtard_tf.auditing import accuracies
from mtard_tf.comparing.audits import Audited, ComparisonError, row_of
from mtard_tf.comparing.comparison import check_row, have, survivors
from mtard_tf.comparing.statistics import bounds_of


def check(names: Sequence[str], curve: Sequence[str]) -> None:
    """Raises ComparisonError unless a curve goes through two or more rows of the stages."""
    for row in curve:
        check_row(names, row)
    if len(set(curve)) == 1:
        raise ComparisonError(
            f"A curve through {curve[0]} alone is a point; give --curve for two or more rows."
        )


def height(curve: np.ndarray, point: np.ndarray) -> float:
    """Robust accuracy of a point minus that of the curve at the point's clean accuracy.

    Args:
      curve: clean and robust accuracy of each of its points, float `[points, 2]`, in any order. It
        is straight between neighbours in clean accuracy, and flat beyond its ends.
      point: clean and robust accuracy, float `[2]`.
    """
    clean, robust = curve[np.lexsort((curve[:, 1], curve[:, 0]))].T
    return float(point[1] - np.interp(point[0], clean, robust))


def above(
    audited: Sequence[Audited],
    curve: Sequence[str],
    attack: str,
    shared: Sequence[str],
    seed: int = 0,
    draws: int = accuracies.DRAWS,
) -> dict[str, Any]:
    """Height above a curve of all other rows, with the bootstrap of `paired_difference`.

    Args:
      audited: of all rows.
      curve: rows that it goes through, checked by `check`.
      attack: whose robust accuracy it is, or "worst_case".
      shared: attacks of the worst case.
      seed: of the draws.
      draws: how many.

    Returns:
      `curve`, its rows by clean accuracy; `attack`; `heights`, row -> `height`, its 95 % percentile
      `interval` and whether it `excludes_zero`; and `outside`, rows whose clean accuracy the curve
      does not reach.

    Raises:
      ComparisonError: a row of the curve has no audit, or not with this attack.
    """
    groups: dict[str, list[Audited]] = {}
    for one in audited:
        groups.setdefault(row_of(one.name), []).append(one)
    groups = {row: group for row, group in groups.items() if have(group, attack)}
    if absent := [row for row in curve if row not in groups]:
        raise ComparisonError(
            f"The curve goes through {absent[0]}, which has no audit with {attack}; audit it, or "
            "leave it out of --curve."
        )
    means, drawn = _accuracies(groups, attack, shared, seed, draws)
    on = sorted(dict.fromkeys(curve), key=lambda row: means[row][0])
    line, lines = (np.stack([of[row] for row in on], axis=-2) for of in (means, drawn))
    heights, outside = {}, []
    for row, point in means.items():
        if row in on:
            continue
        if not line[0, 0] <= point[0] <= line[-1, 0]:
            outside.append(row)
            continue
        in_draws = np.array(list(map(height, lines, drawn[row])))
        heights[row] = {"height": height(line, point), **bounds_of(in_draws)}
    return {"curve": on, "attack": attack, "heights": heights, "outside": outside}


def _accuracies(
    groups: dict[str, list[Audited]], attack: str, shared: Sequence[str], seed: int, draws: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Row -> clean and robust accuracy, `[2]`, and those of each draw, `[draws, 2]`."""
    correct = {
        row: np.stack([[one.correct["clean"] for one in group], survivors(group, attack, shared)])
        for row, group in groups.items()
    }  # [2, replicates, examples]
    random = np.random.RandomState(seed)
    examples = next(iter(correct.values())).shape[-1]
    # The same examples for all rows in a draw.
    times = random.multinomial(examples, np.full(examples, 1 / examples), draws)
    means, drawn = {}, {}
    for row, bits in correct.items():
        means[row] = bits.mean(axis=(1, 2))
        by_net = times @ bits.reshape(-1, examples).T.astype(np.float64) / examples
        by_net = by_net.reshape(draws, 2, -1)
        chosen = random.randint(by_net.shape[2], size=(draws, 1, by_net.shape[2]))
        drawn[row] = np.take_along_axis(by_net, chosen, axis=2).mean(axis=2)
    return means, drawn
