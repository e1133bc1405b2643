"""Do the numbers mean what they seem to? Each check is a finding with its evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from mtard_tf.auditing import suite
from mtard_tf.auditing.chance import commonest, largest_share
from mtard_tf.auditing.probes import Predictions, Probes

VOID, MASKED, NOTE, NONE = "void", "masked", "note", "none"
# From this share on, predictions are of one class.
CONSTANT = 0.99
# Below it float32 holds nothing but rounding, and a sign step follows noise.
VANISHING = 1e-12
# A difference that chance and the choice of the attack do not explain: 5 points, 2 errors.
CLEAR = 0.05
CLEAR_ERRORS = 2.0
# Two calls of one model may differ by rounding on some devices.
REPEATABLE = 1e-4

Outcomes = Mapping[str, np.ndarray]


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


def findings(probes: Probes, outcomes: Outcomes, attacks: Mapping[str, Callable]) -> list[Finding]:
    """All checks, those of gravest severity first.

    Args:
      probes: from `probes.gather`.
      outcomes: "clean" and each attack of the suite -> bool `[examples]`.
      attacks: the same attacks, by name.
    """

    def of_kind(*kinds: str) -> dict[str, np.ndarray]:
        return {n: outcomes[n] for n, a in attacks.items() if suite.kind(a) in kinds}

    iterated = {"the iterated attack": probes.iterated}
    found = [
        _constant(probes.predictions),
        _at_chance(probes.predictions),
        *([_no_gradient(probes)] if probes.blind else []),
        _vanishing_gradients(probes),
        _tempered(probes),
        _beside(probes),
        _weaker_stronger(
            "single_step_stronger",
            ({"FGSM": probes.single_step}, iterated),
            (of_kind("single_step"), of_kind("gradient")),
        ),
        _weaker_stronger(
            "black_box_stronger",
            ({"Square (100 queries)": probes.black_box}, iterated),
            (of_kind("black_box"), of_kind("gradient", "ensemble")),
        ),
        _unbounded(probes),
        _randomised(probes),
        _monotone(probes),
    ]
    if found[0].severity == VOID:  # what says one thing stands anywhere, and has no slope
        found = [
            dataclasses.replace(finding, severity=NOTE) if finding.severity == MASKED else finding
            for finding in found
        ]
    return sorted(found, key=lambda finding: (VOID, MASKED, NOTE, NONE).index(finding.severity))


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
    accuracy = float(np.mean(predictions.clean == labels))
    # Images of one class say nothing of the model, good or bad.
    severity = NONE if accuracy > share else NOTE if share == 1 else VOID
    above = "above" if accuracy > share else "not above"
    return Finding(
        "at_chance",
        severity,
        f"Clean accuracy is {accuracy:.1%}, {above} the {share:.1%} of always saying "
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


def _no_gradient(probes: Probes) -> Finding:
    return Finding(
        "no_gradient",
        MASKED,
        "No gradient of the logits reaches the images (rounding, a cast to integers or "
        "stop_gradient in the net): attacks that follow one stand still, and only Square, SPSA and "
        "transfer (--surrogate=FILE) count.",
        {"examples": probes.examples},
    )


def _vanishing_gradients(probes: Probes) -> Finding:
    correct = probes.clean
    vanishing = correct & (probes.gradients < VANISHING)
    zero, small = int((correct & (probes.gradients == 0)).sum()), int(vanishing.sum())
    standing = int((vanishing & probes.iterated).sum())
    total = max(int(correct.sum()), 1)
    masked = standing / total >= CLEAR
    return Finding(
        "vanishing_gradients",
        MASKED if masked else NOTE if small else NONE,
        f"The cross-entropy's input gradient is exactly 0 on {zero} and below {VANISHING:g} on "
        f"{small} of {correct.sum()} rightly classified images; {standing} of these stand under "
        "the iterated attack.",
        {"zero": zero, "vanishing": small, "standing": standing, "of": int(correct.sum())},
    )


def _tempered(probes: Probes) -> Finding:
    difference, clear = _difference(probes.tempered, probes.iterated)
    plain, soft = float(probes.iterated.mean()), float(probes.tempered.mean())
    return Finding(
        "tempered_logits_stronger",
        _severity(difference, clear),
        f"The iterated attack leaves {plain:.1%} on the logits and {soft:.1%} on logits / "
        f"{probes.temperature:.3g}.",
        {"logits": plain, "tempered": soft, "temperature": probes.temperature},
    )


def _beside(probes: Probes) -> Finding:
    if probes.beside is None:
        return Finding("start_matters", NONE, "The suite's probe has no uniform start to move.", {})
    difference, clear = _difference(probes.iterated, probes.beside)
    ball, beside = float(probes.iterated.mean()), float(probes.beside.mean())
    # A start is a draw: a small difference says nothing. A clear one misleads only who begins
    # there, which the attacks of no suite do.
    return Finding(
        "start_matters",
        NOTE if clear else NONE,
        f"The iterated attack leaves {beside:.1%} begun beside the image and {ball:.1%} begun "
        "anywhere in the ball.",
        {"beside": beside, "ball": ball, "difference": difference},
    )


def _weaker_stronger(name: str, *pairs: tuple[Outcomes, Outcomes]) -> Finding:
    """Whether what should be the weaker attack is the stronger one, in any of the pairs."""
    cases = []
    for weaker, stronger in pairs:
        if weaker and stronger:
            weak, strong = _strongest(weaker), _strongest(stronger)
            difference, clear = _difference(weaker[weak], stronger[strong])
            left, other = float(weaker[weak].mean()), float(stronger[strong].mean())
            text = f"{weak} leaves {left:.1%}, {strong} {other:.1%} (of {len(weaker[weak])})."
            cases.append((clear, difference, text, {weak: left, strong: other}))
    clear, difference, text, values = max(cases, key=lambda case: case[:2])
    return Finding(name, _severity(difference, clear), text, values)


def _strongest(outcomes: Outcomes) -> str:
    return min(outcomes, key=lambda name: outcomes[name].mean())


def _unbounded(probes: Probes) -> Finding:
    left = float(probes.saturated.mean())
    return Finding(
        "stands_at_any_epsilon",
        MASKED if left > CLEAR else NOTE if left > 0 else NONE,
        f"At half the box, where every image can be made mid-grey, {left:.1%} still stand.",
        {"robust_accuracy": left},
    )


def _randomised(probes: Probes) -> Finding:
    random = probes.jitter > REPEATABLE
    return Finding(
        "randomised_outputs",
        MASKED if random else NONE,
        f"Two calls on the same images differ by {probes.jitter:.2g} of the largest logit"
        + ("; use AutoAttack's version 'rand'." if random else "."),
        {"difference": probes.jitter},
    )


def _monotone(probes: Probes) -> Finding:
    worst, clear, places = 0.0, False, (0.0, 0.0)
    radii = sorted(probes.curve)
    for low, high in zip(radii, radii[1:], strict=False):
        rise, is_clear = _difference(probes.curve[low], probes.curve[high])
        if (is_clear, rise) > (clear, worst):
            worst, clear, places = rise, is_clear, (low, high)
    text = "Robust accuracy never rises with epsilon."
    if worst > 0:
        low, high = places
        text = f"Robust accuracy rises by {worst:.1%} from epsilon {low:.4g} to {high:.4g}."
    return Finding("non_monotone_curve", _severity(worst, clear), text, {"rise": worst})
