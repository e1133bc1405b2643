"""Checks whether robust accuracies can be trusted. Each check is a finding with its evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from mtard_tf.attacks.attack import kind_of
from mtard_tf.auditing.chance import at_chance, commonest, largest_share
from mtard_tf.auditing.evidence import Evidence, Predictions

SEVERITIES = VOID, MASKED, NOTE, NONE = "void", "masked", "note", "none"
# From this share on, predictions are of one class.
CONSTANT = 0.99
# Below it float32 holds nothing but rounding, and a sign step follows noise.
VANISHING = 1e-12
# A difference that chance and the choice of the attack do not explain: 5 points, 2 errors.
CLEAR = 0.05
CLEAR_ERRORS = 2.0
# Two calls of one model may differ by rounding on some devices.
REPEATABLE = 1e-4

Correct = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
      name: of the check.
      severity: "void" (no accuracy says anything of the model), "masked" (the robust accuracies
        mislead), "note" (worth knowing), "none".
      evidence: one sentence with the numbers.
      values: the numbers.
    """

    name: str
    severity: str
    evidence: str
    values: Mapping[str, float]


def findings(
    evidence: Evidence, correct: Correct, attacks: Mapping[str, Callable]
) -> list[Finding]:
    """All checks, those of gravest severity first.

    Args:
      evidence: from `evidence.gather`.
      correct: "clean" and each attack of the suite -> which images are classified correctly, bool
        `[images]`.
      attacks: the same attacks, by name.
    """

    def of_kind(*kinds: str) -> dict[str, np.ndarray]:
        return {n: correct[n] for n, a in attacks.items() if kind_of(a) in kinds}

    iterated = {"the iterated attack": evidence.iterated}
    found = [
        _constant(evidence.predictions),
        _at_chance(evidence.predictions),
        *([_no_gradient(evidence)] if evidence.blind else []),
        *([] if evidence.gradients is None else [_vanishing(evidence, evidence.gradients)]),
        _tempered(evidence),
        _start_matters(evidence),
        _weaker_stronger(
            "single_step_stronger",
            ({"FGSM": evidence.single_step}, iterated),
            (of_kind("single_step"), of_kind("gradient")),
        ),
        _weaker_stronger(
            "black_box_stronger",
            ({"Square (100 queries)": evidence.black_box}, iterated),
            (of_kind("black_box"), of_kind("gradient", "ensemble")),
        ),
        _unbounded(evidence),
        _randomised(evidence),
        _monotone(evidence),
    ]
    if found[0].severity == VOID:  # a constant answer survives any attack and has no gradient
        found = [
            dataclasses.replace(finding, severity=NOTE) if finding.severity == MASKED else finding
            for finding in found
        ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _name(label: int, predictions: Predictions) -> str:
    """A class as reports call it; a model may have one of outliers besides those of the data."""
    names = predictions.names
    return repr(names[label]) if label < len(names) else "the class of outliers"


def _constant(predictions: Predictions) -> Finding:
    labels, attacked = predictions.labels, predictions.attacked
    answer, share = commonest(predictions.clean)
    under, under_share = commonest(attacked)
    largest = largest_share(labels)
    void = predictions.classes == 1 or share >= CONSTANT and share > largest
    falls = under_share >= CONSTANT and under_share > largest_share(labels[: len(attacked)])
    return Finding(
        "constant_prediction",
        VOID if void else NOTE if falls else NONE,
        f"{_name(answer, predictions)} is {share:.1%} of the predictions and "
        f"{np.mean(labels == answer):.1%} of the {len(labels):,} images"
        + (", and accuracy is no more than that" if void else "")
        + f"; under the iterated attack {_name(under, predictions)} is {under_share:.1%} of the "
        "predictions.",
        {"clean": share, "attacked": under_share, "largest_class": largest},
    )


def _at_chance(predictions: Predictions) -> Finding:
    labels = predictions.labels
    largest, share = commonest(labels)
    right = int(np.sum(predictions.clean == labels))
    accuracy, severity, than = right / len(labels), NONE, "above"
    if at_chance(right, len(labels), share):
        # Images of one class say nothing of the model, good or bad.
        severity = NOTE if share == 1 else VOID
        than = "within two standard errors of" if accuracy > share else "not above"
    return Finding(
        "at_chance",
        severity,
        f"Clean accuracy is {accuracy:.1%}, {than} the {share:.1%} of always predicting "
        f"{_name(largest, predictions)}, the largest class of the audited images.",
        {"clean": accuracy, "largest_class": share},
    )


def _difference(strong: np.ndarray, weak: np.ndarray) -> tuple[float, bool]:
    """By how much `strong` leaves less than `weak`, and whether that is clear (paired)."""
    only_strong, only_weak = (weak & ~strong).sum(), (strong & ~weak).sum()
    discordant = max(int(only_strong + only_weak), 1)
    difference = float(weak.mean() - strong.mean())
    errors = (int(only_strong) - int(only_weak)) / np.sqrt(discordant)
    return difference, difference > CLEAR and errors > CLEAR_ERRORS


def _severity(difference: float, clear: bool) -> str:
    return MASKED if clear else NOTE if difference > 0 else NONE


def _no_gradient(evidence: Evidence) -> Finding:
    return Finding(
        "no_gradient",
        MASKED,
        "No gradient of the logits reaches the images (rounding, a cast to integers or "
        "stop_gradient in the net): gradient attacks cannot move them, and only Square, SPSA and "
        "transfer (--surrogate=FILE) count.",
        {"examples": evidence.examples},
    )


def _vanishing(evidence: Evidence, gradients: np.ndarray) -> Finding:
    correct = evidence.clean
    vanishing = correct & (gradients < VANISHING)
    zero, small = int((correct & (gradients == 0)).sum()), int(vanishing.sum())
    survive = int((vanishing & evidence.iterated).sum())
    total = max(int(correct.sum()), 1)
    masked = survive / total >= CLEAR
    return Finding(
        "vanishing_gradients",
        MASKED if masked else NOTE if small else NONE,
        f"The cross-entropy's input gradient is exactly 0 on {zero} and below {VANISHING:g} on "
        f"{small} of {correct.sum()} correctly classified images; {survive} of these survive "
        "the iterated attack.",
        {"zero": zero, "vanishing": small, "standing": survive, "of": int(correct.sum())},
    )


def _tempered(evidence: Evidence) -> Finding:
    difference, clear = _difference(evidence.tempered, evidence.iterated)
    plain, soft = float(evidence.iterated.mean()), float(evidence.tempered.mean())
    return Finding(
        "tempered_logits_stronger",
        _severity(difference, clear),
        f"The iterated attack leaves {plain:.1%} on the logits and {soft:.1%} on logits / "
        f"{evidence.temperature:.3g}.",
        {"logits": plain, "tempered": soft, "temperature": evidence.temperature},
    )


def _start_matters(evidence: Evidence) -> Finding:
    if evidence.gaussian_start is None:
        return Finding("start_matters", NONE, "The suite's probe has no uniform start to move.", {})
    difference, clear = _difference(evidence.iterated, evidence.gaussian_start)
    ball, beside = float(evidence.iterated.mean()), float(evidence.gaussian_start.mean())
    # A start is a draw: a small difference says nothing. A clear one misleads only who begins
    # there, which the attacks of no suite do.
    return Finding(
        "start_matters",
        NOTE if clear else NONE,
        f"The iterated attack leaves {beside:.1%} if it starts next to the image and {ball:.1%} if "
        "it starts anywhere in the ball.",
        {"beside": beside, "ball": ball, "difference": difference},
    )


def _weaker_stronger(name: str, *pairs: tuple[Correct, Correct]) -> Finding:
    """Whether what should be the weaker attack is the stronger one, in any of the pairs."""
    cases = []
    for weaker, stronger in pairs:
        if weaker and stronger:
            weak, strong = (min(g, key=lambda n: g[n].mean()) for g in (weaker, stronger))
            difference, clear = _difference(weaker[weak], stronger[strong])
            left, other = float(weaker[weak].mean()), float(stronger[strong].mean())
            text = f"{weak} leaves {left:.1%}, {strong} {other:.1%} (of {len(weaker[weak])})."
            cases.append((clear, difference, text, {weak: left, strong: other}))
    clear, difference, text, values = max(cases, key=lambda case: case[:2])
    return Finding(name, _severity(difference, clear), text, values)


def _unbounded(evidence: Evidence) -> Finding:
    left = float(evidence.half_box.mean())
    return Finding(
        "stands_at_any_epsilon",
        MASKED if left > CLEAR else NOTE if left > 0 else NONE,
        f"At half the box, where every image can be made mid-grey, {left:.1%} survive.",
        {"robust_accuracy": left},
    )


def _randomised(evidence: Evidence) -> Finding:
    random = evidence.jitter > REPEATABLE
    return Finding(
        "randomised_outputs",
        MASKED if random else NONE,
        f"Two calls on the same images differ by {evidence.jitter:.2g} of the largest logit"
        + ("; use AutoAttack's version 'rand'." if random else "."),
        {"difference": evidence.jitter},
    )


def _monotone(evidence: Evidence) -> Finding:
    worst, clear, places = 0.0, False, (0.0, 0.0)
    radii = sorted(evidence.curve)
    for low, high in zip(radii, radii[1:], strict=False):
        rise, is_clear = _difference(evidence.curve[low], evidence.curve[high])
        if (is_clear, rise) > (clear, worst):
            worst, clear, places = rise, is_clear, (low, high)
    text = "Robust accuracy never rises with epsilon."
    if worst > 0:
        between = f"from epsilon {places[0]:.4g} to {places[1]:.4g}"
        text = f"Robust accuracy rises by {worst:.1%} {between}."
    return Finding("non_monotone_curve", _severity(worst, clear), text, {"rise": worst})
