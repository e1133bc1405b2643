"""What to do next: one sentence for each check of an audit that puts its figures in doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Gravest first. A report's verdict is that of its gravest finding.
SEVERITIES = ("void", "masked", "note", "none")
# Of these the robust accuracies are upper bounds, or say nothing.
DOUBTFUL = ("masked", "void")
WORDS = {"void": "says nothing", "masked": "masked", "note": "note", "none": "believable"}

_NEXT = {
    "constant_prediction": "Look at the training curves for a collapse: a smaller learning rate, "
    "an epsilon warm-up (schedules.Warmup) or another seed; then train and audit again.",
    "at_chance": "Train longer or with a larger net, and check that images are scaled to [0, 1] "
    "and that the labels belong to them; then audit again.",
    "no_gradient": "Audit with --suite=autoattack and --surrogate=FILE, and count only Square, "
    "SPSA and the transfer attacks; better, remove the rounding from the net.",
    "vanishing_gradients": "Audit with --suite=defensive, whose attacks do not need the softmax, "
    "or with attacks.tempered; do not report the other robust accuracies.",
    "tempered_logits_stronger": "Add attacks.tempered or a margin loss (apgd_t, cw_inf) to the "
    "suite, and report the worst case with them.",
    "start_matters": "Keep the uniform start for every figure that is compared; a start beside "
    "the image is good for training only.",
    "single_step_stronger": "Give the iterated attack more steps or a smaller step size, or use "
    "APGD, which chooses its own: --suite=autoattack.",
    "black_box_stronger": "The gradient misleads the attack: audit with --suite=autoattack and "
    "report its worst case.",
    "stands_at_any_epsilon": "The attack does not work: look at the loss of the attack by step, "
    "and at rounding, saturation or randomness in the net.",
    "randomised_outputs": "Fix the randomness (training=False in every layer), or attack the "
    "expectation: attacks.autoattack with version='rand'.",
    "indirect_gradients": "Audit the float model, too, whose gradients are exact, and this "
    "file with more images and with it as --surrogate=FILE; report the lower figure.",
    "mixture": "Report the lower of both; audit with --suite=autoattack and more images.",
    "non_monotone_curve": "Give the probe more steps (Suite.probe): a larger ball holds the "
    "smaller one, so the attack stops short of its optimum.",
}
_BELIEVABLE = "Nothing."
_CHECK_AGAIN = "Audit with more images and a stronger suite (--suite=autoattack) before reporting."


def next_step(finding: Mapping) -> str:
    """What to do about a finding (`name`, `severity`), or "Nothing."."""
    if finding["severity"] == "none":
        return _BELIEVABLE
    return _NEXT.get(finding["name"], _CHECK_AGAIN)


def next_of_all(report: Mapping) -> str:
    """What to do where no check puts the figures in doubt."""
    stronger = "autoattack" in report["attacks"] or "artefact" in report
    if stronger:
        return "the worst classes, below; then more images, and another norm (--norm)."
    return "the worst classes, below; then a stronger suite (--suite=autoattack) and more images."


def severity(report: Mapping) -> str:
    """The gravest severity of a report's findings; "none" where there are none."""
    found = {finding["severity"] for finding in report.get("findings", ())}
    return next((kind for kind in SEVERITIES if kind in found), "none")


def leading(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of the best mean W-Robust in the worst case; None if none can be believed.

    Teachers count only if no student can be believed.

    Args:
      rows: those of a comparison.
    """
    believable = [row for row in rows if row["severity"] not in DOUBTFUL]
    students = [row for row in believable if not row["teacher"]] or believable
    return max(students, key=lambda row: row["w_robust"]["worst_case"]["mean"], default=None)


def limits(report: Mapping) -> list[str]:
    """What an audit did not test, one sentence each."""
    threat = report["threat"]
    other = "l2" if threat["norm"] == "linf" else "linf"
    sentences = [
        f"Only perturbations of norm {threat['norm']} up to the epsilon above were tried: not "
        f"{other}, no larger epsilon, no patches, rotations, blur, noise or other corruptions.",
        f"The figures are of the first {report['examples']:,} images of the {report['split']} "
        "split; another attack may break more of them, never fewer.",
    ]
    if report.get("left_out"):
        names = ", ".join(report["left_out"])
        sentences.append(
            f"Transfer attacks need a surrogate (--surrogate=FILE) and were not run: {names}."
        )
    if report.get("changed"):
        sentences.append(f"Not as the suite has it: {'; '.join(report['changed'])}.")
    return sentences
