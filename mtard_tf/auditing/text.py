"""An audit in words: the verdict, and the report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mtard_tf.auditing import measurements
from mtard_tf.auditing.diagnostics import MASKED, NOTE, VOID, Finding
from mtard_tf.reporting import notation
from mtard_tf.reporting.tables import Table

_VOID = {"constant_prediction": "One class for all", "at_chance": "No better than chance"}


def verdict(findings: Sequence[Finding], numbers: Mapping, epsilon: float, attacks: int) -> str:
    """One line: whether the numbers can be believed, and the one that counts.

    Args:
      findings: all checks.
      numbers: from `accuracies.summarise`.
      epsilon: of the threat model.
      attacks: how many were run, ensembles not counted.
    """
    low, high = numbers["worst_case"]["robust_accuracy_interval"]
    worst = (
        f"Worst case over {attacks} attack{'s' * (attacks != 1)}: "
        f"{numbers['worst_case']['robust_accuracy']:.1%} of {numbers['examples']:,} "
        f"(95 %: {low:.1%} to {high:.1%})"
    )
    void = [finding for finding in findings if finding.severity == VOID]
    if void:
        kind = _VOID[void[0].name]
        return f"{kind}: {void[0].evidence} {worst}, which says nothing about the model."
    bad = [finding for finding in findings if finding.severity == MASKED]
    if bad:
        return (
            f"Masked gradients ({', '.join(finding.name for finding in bad)}): the robust "
            f"accuracies mislead. {bad[0].evidence} {worst}, an upper bound."
        )
    if epsilon == 0:
        return "Epsilon is 0: nothing was attacked, robust accuracy is clean accuracy."
    noted = [finding for finding in findings if finding.severity == NOTE]
    if noted:
        names = ", ".join(finding.name for finding in noted)
        return (
            f"{worst}; none of {len(findings)} checks speaks against it, but note {names}: "
            f"{noted[0].evidence}"
        )
    return f"{worst}; none of {len(findings)} checks speaks against it."


def markdown(report: Mapping) -> str:
    """The report of one model as Markdown; opens with the verdict."""
    threat = report["threat"]
    lines = [
        f"# Audit of {report['model']}",
        "",
        f"**{report['verdict']}**",
        "",
        f"{report['dataset']}, first {report['examples']:,} images of the {report['split']} split; "
        f"{threat['norm']}, epsilon {threat['epsilon']:.5g} in [0, 1] pixel units; "
        f"{report['parameters']:,} parameters; seed {report['seed']}. In brackets: 95 % bootstrap "
        "intervals, paired over examples.",
        "",
        *_accuracies(report),
        "",
        "W-Robust is (clean + robust) / 2, NRR their harmonic mean. The worst case counts an image "
        "as robust only if it survives every attack.",
    ]
    if "eight_bit" in report:
        lines += ["", notation.eight_bit(report)]
    if report["left_out"]:
        lines += ["", f"Left out without a surrogate: {', '.join(report['left_out'])}."]
    if "changed" in report:
        lines += ["", f"Changed for this model: {'; '.join(report['changed'])}."]
    if "measures" in report:
        lines += measurements.markdown(report)
    columns = ("check", "severity", "evidence")
    found = [[f["name"], f["severity"], f["evidence"]] for f in report["findings"]]
    curve = [
        [f"{p['epsilon']:.4g}", f"{p['robust_accuracy']:.2%}", f"{p['worst_case']:.2%}"]
        for p in report["epsilon_curve"]
    ]
    lines += ["", "## Findings", "", *Table(columns, found, "lll").markdown()]
    lines += ["", "## Epsilon", "", "![accuracy by epsilon](epsilon_curve.png)", ""]
    lines += Table(("epsilon", "robust accuracy", "worst case"), curve, "rrr").markdown()
    lines += ["", "## Classes", "", *_classes(report)]
    return "\n".join(lines) + "\n"


def _accuracies(report: Mapping) -> list[str]:
    rows = [["(clean)", _with_interval(report, "clean"), "", ""]]
    last = {f"**{name}**": entry for name, entry in notation.worst_cases(report).items()}
    for name, entry in {**report["attacks"], **last}.items():
        cells = [_with_interval(entry, key) for key in ("robust_accuracy", "w_robust", "nrr")]
        rows.append([name, *cells])
    return Table(("attack", "robust accuracy", "W-Robust", "NRR"), rows).markdown()


def _classes(report: Mapping) -> list[str]:
    columns = ["clean", *report["attacks"], "worst_case"]
    rows = [
        [name, str(entry["examples"]), *(f"{entry[column]:.1%}" for column in columns)]
        for name, entry in report["per_class"].items()
    ]
    worst = [
        f"{report['worst_class'][column]['class']} {report['worst_class'][column]['accuracy']:.1%}"
        for column in columns
    ]
    rows.append(["**worst class**", "", *worst])
    return Table(("class", "images", *columns), rows).markdown()


def _with_interval(entry: Mapping, key: str) -> str:
    low, high = entry[f"{key}_interval"]
    return f"{entry[key]:.2%} ({low:.1%} to {high:.1%})"
