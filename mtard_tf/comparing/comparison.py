"""Stages of a run as the rows of one table: replicates together, each row against a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mtard_tf import registry
from mtard_tf.auditing import accuracies
from mtard_tf.comparing.audits import Audited, ComparisonError, check_alike, row_of
from mtard_tf.comparing.statistics import over_seeds, paired_difference, w_robust_by_example
from mtard_tf.reporting.advice import SEVERITIES, severity
from mtard_tf.reporting.run_files import sources

WORST = "worst_case"


def check_row(names: Sequence[str], baseline: str) -> None:
    """Raises ComparisonError, with the nearest name, unless the stages have a row `baseline`."""
    known = list(dict.fromkeys(map(row_of, names)))
    if baseline not in known:
        raise ComparisonError(registry.unknown_name("row", baseline, known))


def check_audited(names: Iterable[str], baseline: str) -> None:
    """Raises ComparisonError unless one of these stages or rows, which have audits, is its."""
    if baseline not in map(row_of, names):
        raise ComparisonError(
            f"The baseline {baseline} has no audit and none is planned; train its stages with "
            "--config, audit them with --jobs=1 or more, and do not leave them out with --stage."
        )


def compare(
    audited: Sequence[Audited], names: Sequence[str], baseline: str | None = None, seed: int = 0
) -> dict:
    """The whole comparison, as `comparison.json` holds it.

    Args:
      audited: from `load`; one `examples` and one threat model for all.
      names: all stages of the run, so that those without an audit are named.
      baseline: the row that all others are set against; None for none.
      seed: of the bootstrap.

    Raises:
      ComparisonError: nothing to compare, or audits or a baseline that cannot be compared.
    """
    check_alike(audited)
    rows: dict[str, list[Audited]] = {}
    for one in audited:
        rows.setdefault(row_of(one.name), []).append(one)
    attacks = list(dict.fromkeys(name for one in audited for name in one.report["attacks"]))
    unlike = _unlike(audited, attacks)
    shared = [name for name in attacks if name not in unlike]
    if not shared:
        raise ComparisonError(
            "No attack was run alike on all rows, so there is no worst case: "
            f"{'; '.join(unlike.values())}. Audit them with one suite."
        )
    taught_by = sources([one.stage for one in audited])
    entries = [_row(name, rows[name], taught_by, attacks, shared) for name in rows]
    if baseline is not None:
        check_row(names, baseline)
        check_audited(rows, baseline)
        for entry in (entry for entry in entries if entry["row"] != baseline):
            against = _against(rows[entry["row"]], rows[baseline], shared, seed)
            entry["against_baseline"] = against
    report = audited[0].report
    present = {one.name for one in audited}
    return {
        **{key: report[key] for key in ("dataset", "split", "examples", "threat")},
        "attacks": attacks,
        "worst_case_of": shared,
        "not_in_worst_case": unlike,
        "baseline": baseline,
        "missing": [name for name in names if name not in present],
        "rows": sorted(entries, key=lambda entry: not entry["teacher"]),
    }


def _unlike(audited: Sequence[Audited], attacks: Sequence[str]) -> dict[str, str]:
    """Attack that not all went through alike -> in what way, for people."""
    result = {}
    for attack in attacks:
        without = [one.name for one in audited if attack not in one.report["attacks"]]
        crafted = _crafted(audited, attack)
        if without:
            result[attack] = f"{attack} was not run on {', '.join(without)}"
        elif len(crafted) > 1:
            result[attack] = f"{attack} was crafted on {len(crafted)} different nets"
    return result


def _crafted(audited: Sequence[Audited], attack: str) -> set[str]:
    """The nets that an attack was crafted on, as far as reports name them."""
    return {one.report["crafted_on"].get(attack) for one in audited} - {None}


def _row(
    name: str,
    group: Sequence[Audited],
    taught_by: set[str],
    attacks: Sequence[str],
    shared: Sequence[str],
) -> dict:
    clean = [float(one.correct["clean"].mean()) for one in group]
    robust = {
        attack: [float(correct.mean()) for correct in survivors(group, attack, shared)]
        for attack in (*attacks, WORST)
        if have(group, attack)
    }
    seconds = [one.seconds for one in group if one.seconds is not None]
    return {
        "row": name,
        # One that has a teacher itself is an assistant, and a row like others.
        "teacher": all(one.name in taught_by and not one.stage["teachers"] for one in group),
        "severity": min((severity(one.report) for one in group), key=SEVERITIES.index),
        "stages": [one.name for one in group],
        "parameters": max(one.report["parameters"] for one in group),
        "clean": over_seeds(clean),
        "robust": {attack: over_seeds(values) for attack, values in robust.items()},
        "w_robust": {
            attack: over_seeds(
                [accuracies.w_robust(c, r) for c, r in zip(clean, values, strict=True)]
            )
            for attack, values in robust.items()
        },
        "seconds_per_epoch": over_seeds(seconds) if seconds else None,
    }


def _against(
    group: Sequence[Audited], baseline: Sequence[Audited], shared: Sequence[str], seed: int
) -> dict[str, dict]:
    """Attack -> how far W-Robust of the row lies above the baseline's, where both were attacked."""
    return {
        attack: paired_difference(
            _parts(group, attack, shared), _parts(baseline, attack, shared), seed
        )
        for attack in (*group[0].report["attacks"], WORST)
        if have(group, attack) and have(baseline, attack)
        if len(_crafted([*group, *baseline], attack)) < 2
    }


def have(group: Sequence[Audited], attack: str) -> bool:
    """Whether all replicates of a row were attacked so; the worst case all have."""
    return attack == WORST or all(attack in one.report["attacks"] for one in group)


def survivors(group: Sequence[Audited], attack: str, shared: Sequence[str]) -> list[np.ndarray]:
    """What survives the attack, bool `[examples]` per replicate.

    The worst case is over the attacks that all rows share.
    """
    if attack != WORST:
        return [one.correct[attack] for one in group]
    return [
        accuracies.worst_case({name: one.correct[name] for name in ("clean", *shared)})
        for one in group
    ]


def _parts(group: Sequence[Audited], attack: str, shared: Sequence[str]) -> np.ndarray:
    """W-Robust by example, float `[replicates, examples]`."""
    clean = np.stack([one.correct["clean"] for one in group])
    return w_robust_by_example(clean, np.stack(survivors(group, attack, shared)))
