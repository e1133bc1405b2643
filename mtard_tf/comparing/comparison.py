"""Stages of a run as the rows of one table: replicates together, each row against a baseline."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtard_tf import registry
from mtard_tf.auditing import accuracies
from mtard_tf.comparing.statistics import over_seeds, paired_difference, w_robust_by_example
from mtard_tf.models.model_files import file_digest
from mtard_tf.reporting import run_files
from mtard_tf.running.run_directory import student_path

WORST = "worst_case"


class ComparisonError(ValueError):
    """A run that cannot be compared so. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Audited:
    """What a finished and audited stage left.

    Attributes:
      stage: content of its `stage.json`.
      report: content of its `report.json`.
      outcomes: "clean" and each attack -> which examples stand, bool `[examples]`.
      seconds: of its fastest epoch that was validated, since whatever else the machine did can
        only add; of files that do not mark resumed epochs the median. None if none was timed whole.
    """

    stage: Mapping[str, Any]
    report: Mapping[str, Any]
    outcomes: Mapping[str, np.ndarray]
    seconds: float | None

    @property
    def name(self) -> str:
        """The stage's."""
        return self.stage["stage"]


def row_of(stage: str) -> str:
    """The row that a stage belongs to: its name without the `_s<number>` of a replicate."""
    return re.sub(r"_s\d+$", "", stage)


def sources(stages: Sequence[Mapping]) -> set[str]:
    """What these stages (contents of `stage.json`) learn or start from: other stages, or paths."""
    taught = {source for stage in stages for source in stage["teachers"].values()}
    return taught | {stage["initial"] for stage in stages if stage.get("initial")}


def check_row(names: Sequence[str], baseline: str) -> None:
    """Raises ComparisonError, with the nearest name, unless the stages have a row `baseline`."""
    known = list(dict.fromkeys(map(row_of, names)))
    if baseline not in known:
        raise ComparisonError(registry.unknown_name("row", baseline, known))


def check_audited(names: Iterable[str], baseline: str) -> None:
    """Raises ComparisonError unless one of these stages or rows, which have audits, is its."""
    if baseline not in map(row_of, names):
        raise ComparisonError(
            f"The baseline {baseline} has no audit and none is to come; train its stages with "
            "--config, audit them with --jobs=1 or more, and do not leave them out with --stage."
        )


def load(run_dir: pathlib.Path, names: Sequence[str]) -> list[Audited]:
    """What is finished, and audited since it was last trained, of these stages, in their order."""
    return [found for name in names if (found := _load(run_dir, name)) is not None]


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
      ComparisonError: nothing to compare, audits of different images or threat models or without
        an attack in common, or a baseline that is no row or without an audit.
    """
    _check(audited)
    rows: dict[str, list[Audited]] = {}
    for one in audited:
        rows.setdefault(row_of(one.name), []).append(one)
    attacks = list(dict.fromkeys(name for one in audited for name in one.report["attacks"]))
    unlike = _unlike(audited, attacks)
    shared = [name for name in attacks if name not in unlike]
    if not shared:
        raise ComparisonError(
            "There is no attack that all were attacked with alike, and so no worst case: "
            f"{'; '.join(unlike.values())}. Audit them with one suite."
        )
    taught_by = sources([one.stage for one in audited])
    entries = [_row(name, rows[name], taught_by, attacks, shared) for name in rows]
    if baseline is not None:
        check_row(names, baseline)
        check_audited(rows, baseline)
        for entry in entries:
            if entry["row"] != baseline:
                entry["against_baseline"] = _against(
                    rows[entry["row"]], rows[baseline], shared, seed
                )
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


def leading(compared: Mapping) -> dict:
    """The row of the best mean W-Robust in the worst case; teachers only if there is nothing else.

    Args:
      compared: from `compare`.
    """
    students = [row for row in compared["rows"] if not row["teacher"]] or compared["rows"]
    return max(students, key=lambda row: row["w_robust"][WORST]["mean"])


def _load(run_dir: pathlib.Path, name: str) -> Audited | None:
    audit = run_dir / "evaluation" / name
    paths = run_dir / name / "stage.json", audit / "report.json", audit / "examples.npz"
    if not all(path.exists() for path in paths):
        return None
    stage, report = run_files.stage(paths[0]), run_files.report(paths[1])
    student = student_path(run_dir, name)
    # Of a table that is made where only the reports are, the students are not asked.
    if "student" in report and student.exists() and report["student"] != file_digest(student):
        return None
    names = ("clean", *report["attacks"])
    outcomes = run_files.outcomes(paths[2], names, report["examples"])
    return Audited(stage, report, outcomes, _seconds(run_dir / name / "timing.jsonl"))


def _seconds(path: pathlib.Path) -> float | None:
    rows = run_files.rows(path, {"seconds": (int, float)})
    if not rows:
        return None
    if not all("partial" in row for row in rows):  # a resumed epoch would pass for the fastest
        return float(np.median([row["seconds"] for row in rows]))
    whole = [row["seconds"] for row in rows if row["validated"] and not row["partial"]]
    return min(whole, default=None)


def _check(audited: Sequence[Audited]) -> None:
    if not audited:
        raise ComparisonError("No stage is both trained and audited; give --jobs=1 or more.")
    _check_settings(audited)
    for key in ("dataset", "split", "examples", "threat"):
        found = {one.name: one.report[key] for one in audited}
        first, value = next(iter(found.items()))
        for name, other in found.items():
            if other != value:
                raise ComparisonError(
                    f"The audits differ in {key}: {first} has {value}, {name} has {other}; audit "
                    "them alike, with mtard-compare --jobs=1 or more."
                )


def _check_settings(audited: Sequence[Audited]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for one in audited:
        for key, value in one.report.get("suite", {}).items():
            # The temperature of the training is each stage's own.
            value = re.sub(r"temperature=[\d.]+", "temperature", value)
            stage, other = seen.setdefault(key, (one.name, value))
            if other != value:
                raise ComparisonError(
                    f"{key} was {other} for {stage} and {value} for {one.name}; audit them alike, "
                    "with mtard-compare --jobs=1 or more."
                )


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
    return {one.report.get("crafted_on", {}).get(attack) for one in audited} - {None}


def _row(
    name: str,
    group: Sequence[Audited],
    taught_by: set[str],
    attacks: Sequence[str],
    shared: Sequence[str],
) -> dict:
    clean = [float(one.outcomes["clean"].mean()) for one in group]
    robust = {
        attack: [float(outcome.mean()) for outcome in _outcomes(group, attack, shared)]
        for attack in (*attacks, WORST)
        if _have(group, attack)
    }
    seconds = [one.seconds for one in group if one.seconds is not None]
    return {
        "row": name,
        # What learns itself is an assistant, and a row like others.
        "teacher": all(one.name in taught_by and not one.stage["teachers"] for one in group),
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
        if _have(group, attack) and _have(baseline, attack)
        if len(_crafted([*group, *baseline], attack)) < 2
    }


def _have(group: Sequence[Audited], attack: str) -> bool:
    return attack == WORST or all(attack in one.report["attacks"] for one in group)


def _outcomes(group: Sequence[Audited], attack: str, shared: Sequence[str]) -> list[np.ndarray]:
    """Who stands, bool `[examples]` per replicate; the worst case is over what all rows share."""
    if attack != WORST:
        return [one.outcomes[attack] for one in group]
    return [
        accuracies.worst_case({name: one.outcomes[name] for name in ("clean", *shared)})
        for one in group
    ]


def _parts(group: Sequence[Audited], attack: str, shared: Sequence[str]) -> np.ndarray:
    """W-Robust by example, float `[replicates, examples]`."""
    clean = np.stack([one.outcomes["clean"] for one in group])
    return w_robust_by_example(clean, np.stack(_outcomes(group, attack, shared)))
