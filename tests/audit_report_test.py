"""The audit of one model: its report, its checks, its verdict, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks.apgd import APGDDLR, APGDTargeted
from mtard_tf.attacks.autoattack import AutoAttack
from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.attacks.square import Square
from mtard_tf.auditing import diagnostics, evidence, text
from mtard_tf.auditing.audit import Audit
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.auditing.suite import Suite
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.models import model_files
from mtard_tf.models.cpu_kernels import never_empty
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.reporting import plots
from mtard_tf.threat import ThreatModel

CLASSES = 4
SUITE = Suite(
    {"fgsm": FGSM(), "pgd": PGD(num_steps=5)},
    probe=PGD(num_steps=5),
    probe_examples=40,
    factors=(0.5, 1.0, 2.0),
)
THREAT = ThreatModel("linf", 0.1)


def quadrants(count: int = 40, classes: int = CLASSES) -> ImageData:
    """8 x 8 images whose class is the quadrant that is brighter by a margin of its own."""
    random = np.random.RandomState(0)
    labels = (np.arange(count) % classes).astype(np.int32)
    images = random.uniform(0.3, 0.5, (count, 8, 8, 1))
    for image, label, strength in zip(images, labels, random.uniform(0, 0.5, count), strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += strength
    split = Split((images * 255).astype(np.uint8), labels)
    names = tuple(f"quadrant {i}" for i in range(classes))
    return ImageData("quadrants", names, split, split, split)


def linear(scale: float = 20.0, classes: int = CLASSES, activation: str | None = None):
    """The mean of each quadrant, times `scale`: what an honest model of `quadrants` does."""
    inputs = keras.Input((8, 8, 1))
    pooled = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(inputs))
    dense = keras.layers.Dense(classes, activation=activation)
    model = keras.Model(inputs, dense(pooled), name="quadrant_means")
    dense.set_weights([scale * np.eye(4, classes, dtype=np.float32), np.zeros(classes, np.float32)])
    return model


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """(report, folder) of an audit of the honest model."""
    out = tmp_path_factory.mktemp("honest")
    return Audit(quadrants(), SUITE, THREAT)(linear(), "honest", out), out


def _severities(report: dict) -> dict[str, str]:
    return {finding["name"]: finding["severity"] for finding in report["findings"]}


def test_report_holds_every_figure_with_its_interval(honest) -> None:
    report, out = honest
    assert json.loads((out / "report.json").read_text()) == report
    assert next(iter(report)) == "verdict"
    assert report["model"] == "honest"
    assert report["examples"] == 40
    assert report["parameters"] == 4 * 4 + 4
    assert report["threat"] == {"norm": "linf", "epsilon": pytest.approx(0.1)}
    assert list(report["attacks"]) == ["fgsm", "pgd"]
    entry = report["attacks"]["pgd"]
    assert entry["w_robust"] == pytest.approx((report["clean"] + entry["robust_accuracy"]) / 2)
    worst = report["worst_case"]["robust_accuracy"]
    assert worst <= min(e["robust_accuracy"] for e in report["attacks"].values())
    assert 0 < worst < report["clean"]
    assert set(report["per_class"]) == {f"quadrant {i}" for i in range(4)}
    assert set(report["worst_class"]) == {"clean", "fgsm", "pgd", "worst_case"}
    for finding in report["findings"]:
        assert set(finding) == {"name", "severity", "evidence", "values"}


def test_examples_hold_every_outcome(honest) -> None:
    report, out = honest
    outcomes = np.load(out / "examples.npz")
    kept = {name for name in outcomes.files if "/" not in name}  # the others are for the page
    assert kept == {"clean", "fgsm", "pgd"}
    for name in ("fgsm", "pgd"):
        assert report["attacks"][name]["robust_accuracy"] == pytest.approx(outcomes[name].mean())
        assert not (outcomes[name] & ~outcomes["clean"]).any()


def test_images_that_fell_and_that_survived_are_kept_for_the_page(honest) -> None:
    report, out = honest
    kept = np.load(out / "examples.npz")
    right = kept["images/attacked_class"] == kept["images/labels"]
    assert 0 < len(right) <= 12
    np.testing.assert_array_equal(right, np.sort(right))  # those that fell come first
    np.testing.assert_array_equal(kept["images/clean_class"], kept["images/labels"])
    change = kept["images/attacked"].astype(int) - kept["images/clean"]
    np.testing.assert_array_less(np.abs(change), round(255 * report["threat"]["epsilon"]) + 2)
    labels = quadrants().test.labels[: report["examples"]]
    np.testing.assert_array_equal(kept["predictions/labels"], labels)
    clean = kept["predictions/clean"] == labels
    np.testing.assert_array_equal(clean, kept["clean"])
    assert report["verdict"] in (out / "report.html").read_text()


def test_numbers_equal_the_closed_form(honest) -> None:
    """For quadrant means the best attack moves own and rival quadrant by epsilon each."""
    report, out = honest
    data = quadrants().test
    means = (data.images / 255.0).reshape(40, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(40, 4)
    own = np.take_along_axis(means, data.labels[:, None].astype(int), 1)[:, 0]
    rival = np.where(np.eye(4, dtype=bool)[data.labels], -1, means).max(axis=1)
    assert report["clean"] == pytest.approx(np.mean(own > rival))
    # All pixels lie between 0.3 and 1, so only the box above 0.9 could bind; PGD comes close.
    expected = np.mean(own - rival > 0.2)
    assert report["worst_case"]["robust_accuracy"] == pytest.approx(expected, abs=0.026)


def test_curve_has_its_worst_case_and_never_rises(honest) -> None:
    report, out = honest
    curve = report["epsilon_curve"]
    assert [point["epsilon"] for point in curve] == pytest.approx([0, 0.05, 0.1, 0.2])
    assert curve[0]["robust_accuracy"] == pytest.approx(report["clean"])
    worst = [point["worst_case"] for point in curve]
    np.testing.assert_array_equal(worst, sorted(worst, reverse=True))
    assert (out / "epsilon_curve.png").stat().st_size > 1_000


def test_an_honest_model_is_believed(honest) -> None:
    report, out = honest
    assert "masked" not in report["verdict"].lower()
    assert report["verdict"].startswith("Worst case over 2 attacks: ")
    assert "; none of 10 checks speaks against it" in report["verdict"]
    noted = dataclasses.replace(diagnostics.Finding(**report["findings"][0]), severity="note")
    said = text.verdict([noted], report, 0.1, attacks=2)
    assert said.endswith(
        f"none of 1 checks speaks against it, but note {noted.name}: {noted.evidence}"
    )
    assert set(_severities(report).values()) <= {"none", "note"}
    assert report["verdict"] in (out / "report.md").read_text().splitlines()[2]


def test_a_masked_model_is_not_believed(tmp_path) -> None:
    """Logits times 10,000: the same decisions, and no cross-entropy gradient in float32."""
    report = Audit(quadrants(), SUITE, THREAT)(linear(200_000.0), "masked", tmp_path)
    assert report["verdict"].startswith("Masked gradients (")
    severities = _severities(report)
    assert severities["vanishing_gradients"] == "masked"
    assert severities["tempered_logits_stronger"] == "masked"
    assert severities["stands_at_any_epsilon"] == "masked"
    evidence = {f["name"]: f["values"] for f in report["findings"]}
    assert evidence["vanishing_gradients"]["zero"] > 0.5 * evidence["vanishing_gradients"]["of"]
    assert evidence["tempered_logits_stronger"]["tempered"] < 0.7
    assert evidence["tempered_logits_stronger"]["logits"] > 0.8


def test_a_model_that_is_flat_on_black_is_found(tmp_path) -> None:
    """Black images; no unit sees less than 0.01, which noise of 0.001 never reaches."""
    split = Split(np.zeros((40, 8, 8, 1), np.uint8), np.zeros(40, np.int32))
    data = ImageData("black", ("black", "other"), split, split, split)
    inputs = keras.Input((8, 8, 1))
    seen = keras.layers.ReLU()(keras.layers.Rescaling(1.0, offset=-0.01)(inputs))
    dense = keras.layers.Dense(2)
    model = keras.Model(inputs, dense(keras.layers.GlobalAveragePooling2D()(seen)))
    dense.set_weights([np.array([[0.0, 50.0]]), np.array([0.5, 0.0])])
    suite = dataclasses.replace(SUITE, attacks={"pgd": PGD(num_steps=5)}, factors=(1.0,))
    report = Audit(data, suite, THREAT)(model, "flat", tmp_path)
    assert _severities(report)["start_matters"] == "note"
    [found] = [f for f in report["findings"] if f["name"] == "start_matters"]
    assert found["values"] == pytest.approx({"beside": 1, "ball": 0, "difference": 1})
    assert found["evidence"] == (
        "The iterated attack leaves 100.0% if it starts next to the image and 0.0% if it starts "
        "anywhere in the ball."
    )


class _Jitter(keras.layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x), stddev=0.1)


def test_randomised_outputs_are_found(tmp_path) -> None:
    inner = linear()
    model = keras.Model(inner.input, _Jitter()(inner.output), name="jitter")
    suite = dataclasses.replace(SUITE, attacks={"fgsm": FGSM()}, factors=(1.0,))
    report = Audit(quadrants(8), suite, THREAT)(model, "jitter", tmp_path)
    assert _severities(report)["randomised_outputs"] == "masked"
    assert "randomised_outputs" in report["verdict"]


def _predictions(clean, attacked=None, labels=None, classes=4):
    labels = np.arange(100) % 4 if labels is None else labels
    attacked = clean if attacked is None else attacked
    names = ("ant", "bee", "cat", "dog")
    return evidence.Predictions(np.asarray(clean), np.asarray(attacked), labels, names, classes)


def _evidence(**changes):
    bits = np.ones(100, bool)
    base = {
        "clean": bits,
        "gradients": np.ones(100),
        "single_step": bits,
        "iterated": bits,
        "gaussian_start": bits,
        "tempered": bits,
        "temperature": 1.0,
        "black_box": bits,
        "half_box": ~bits,
        "curve": {0.0: bits, 0.1: bits},
        "jitter": 0.0,
        "predictions": _predictions(np.arange(100) % 4),
    }
    return evidence.Evidence(**(base | changes))


@pytest.mark.parametrize(
    "name, changes",
    [
        ("vanishing_gradients", {"gradients": np.where(np.arange(100) < 6, 1e-13, 1.0)}),
        ("tempered_logits_stronger", {"tempered": np.arange(100) < 90}),
        ("single_step_stronger", {"single_step": np.arange(100) < 90}),
        ("black_box_stronger", {"black_box": np.arange(100) < 90}),
        ("stands_at_any_epsilon", {"half_box": np.arange(100) < 6}),
        ("randomised_outputs", {"jitter": 0.01}),
        (
            "non_monotone_curve",
            {"curve": {0.1: np.arange(100) < 80, 0.2: np.arange(100) < 90}},
        ),
    ],
)
def test_each_check_is_triggered_by_its_evidence_alone(name, changes) -> None:
    outcomes = {"clean": np.ones(100, bool)}
    found = diagnostics.findings(_evidence(**changes), outcomes, {})
    assert [finding.name for finding in found if finding.severity == "masked"] == [name]
    assert found[0].name == name  # the gravest comes first
    calm = diagnostics.findings(_evidence(), outcomes, {})
    assert {finding.severity for finding in calm} == {"none"}


def _first(predictions) -> tuple[str, str, str]:
    bits = np.ones(100, bool)
    looked = _evidence(predictions=predictions, half_box=bits)  # a constant survives anything
    found = diagnostics.findings(looked, {"clean": bits}, {})
    return found[0].name, found[0].severity, found[0].evidence


def test_one_class_for_all_is_no_masked_gradient() -> None:
    assert _first(_predictions(np.full(100, 2))) == (
        "constant_prediction",
        "void",
        "'cat' is 100.0% of the predictions and 25.0% of the 100 images, and accuracy is no more "
        "than that; under the iterated attack 'cat' is 100.0% of the predictions.",
    )
    found = diagnostics.findings(
        _evidence(predictions=_predictions(np.full(100, 2)), half_box=np.ones(100, bool)),
        {"clean": np.ones(100, bool)},
        {},
    )
    assert [f.name for f in found if f.severity == "void"] == ["constant_prediction", "at_chance"]
    assert "masked" not in {f.severity for f in found}


@pytest.mark.parametrize(
    "others, largest, severity",
    [(1, 97, "void"), (2, 97, "none"), (1, 99, "none"), (0, 99, "void"), (0, 100, "none")],
)
def test_nearly_one_class_is_measured_by_the_largest_class(others, largest, severity) -> None:
    """99 % and more than the largest class: a good model of rare classes says it 97 times too."""
    labels = np.where(np.arange(100) < largest, 0, 1)
    clean = np.where(np.arange(100) < 100 - others, 0, 1)
    found = diagnostics._constant(_predictions(clean, labels=labels))
    assert found.severity == severity
    assert found.values["largest_class"] == pytest.approx(largest / 100)


def test_one_class_under_attack_is_a_note() -> None:
    answers = np.arange(100) % 4
    found = diagnostics._constant(_predictions(answers, attacked=np.full(100, 4)))
    assert (found.severity, found.evidence) == (
        "note",
        "'ant' is 25.0% of the predictions and 25.0% of the 100 images; under the iterated attack "
        "the class of outliers is 100.0% of the predictions.",
    )
    alone = _predictions(np.zeros(100, int), labels=np.zeros(100, int), classes=1)
    assert diagnostics._constant(alone).severity == "void"


def test_chance_is_the_share_of_the_largest_class() -> None:
    answers = np.arange(100) % 4
    for labels, severity, said in (
        (answers, "none", "100.0%, above the 25.0% of always predicting 'ant'"),
        (np.roll(answers, 1), "void", "0.0%, not above the 25.0% of always predicting 'ant'"),
        (
            np.where(np.arange(100) < 40, 3, answers),
            "none",
            "70.0%, above the 55.0% of always predicting 'dog'",
        ),
        (np.full(100, 1), "note", "25.0%, not above the 100.0% of always predicting 'bee'"),
        (
            # sqrt(0.25 * 0.75 / 100) = 4.33 %, so that up to 33.66 % is chance.
            np.where(np.arange(100) < 32, answers, np.roll(answers, 1)),
            "void",
            "32.0%, within two standard errors of the 25.0% of always predicting 'ant'",
        ),
        (
            np.where(np.arange(100) < 36, answers, np.roll(answers, 1)),
            "none",
            "36.0%, above the 25.0% of always predicting 'ant'",
        ),
    ):
        found = diagnostics._at_chance(_predictions(answers, labels=labels))
        assert (found.severity, found.evidence) == (
            severity,
            f"Clean accuracy is {said}, the largest class of the audited images.",
        )


def test_a_constant_model_gets_a_verdict_of_its_own(tmp_path) -> None:
    model = linear(0.0)
    model.layers[-1].bias.assign([0.0, 3.0, 0.0, 0.0])
    report = Audit(quadrants(), SUITE, THREAT)(model, "constant", tmp_path)
    assert report["verdict"] == (
        "One class for all: 'quadrant 1' is 100.0% of the predictions and 25.0% of the 40 images, "
        "and accuracy is no more than that; under the iterated attack 'quadrant 1' is 100.0% of "
        "the predictions. Worst case over 2 attacks: 25.0% of 40 (95 %: 12.5% to 40.0%), which "
        "says nothing about the model."
    )
    assert "masked" not in _severities(report).values()
    turned = linear()
    turned.layers[-1].set_weights([np.roll(20 * np.eye(4), 1, axis=1), np.zeros(4)])
    report = Audit(quadrants(), SUITE, THREAT)(turned, "turned", tmp_path)
    assert report["verdict"].startswith(
        f"No better than chance: Clean accuracy is {report['clean']:.1%}, not above the 25.0% of "
        "always predicting 'quadrant 0', the largest class of the audited images. Worst case"
    )


def test_images_without_labels_are_not_audited() -> None:
    data = quadrants(8)
    labels = data.test.labels.copy()
    labels[3:] = -1
    data = dataclasses.replace(data, test=Split(data.test.images, labels))
    assert len(Audit(data, SUITE, THREAT, examples=3).chosen) == 3
    with pytest.raises(ValueError) as error:
        Audit(data, SUITE, THREAT)
    assert str(error.value) == (
        "quadrants: 5 of 8 test images have no label, so nothing can be counted on them; use "
        "another split (mtard-eval --split=validation) or another set."
    )
    assert len(Audit(data, SUITE, THREAT, split="validation").chosen) == 8


def test_a_start_is_noted_where_it_clearly_matters_and_was_moved() -> None:
    outcomes = {"clean": np.ones(100, bool)}
    for standing, beside, severity in ((90, 100, "note"), (96, 100, "none"), (90, None, "none")):
        bits = None if beside is None else np.arange(100) < beside
        moved = _evidence(iterated=np.arange(100) < standing, gaussian_start=bits)
        found = {f.name: f.severity for f in diagnostics.findings(moved, outcomes, {})}
        assert found["start_matters"] == severity


def test_a_small_difference_is_a_note() -> None:
    black_box = {"black_box": np.arange(100) < 98}
    found = diagnostics.findings(_evidence(**black_box), {"clean": np.ones(100, bool)}, {})
    assert (found[0].name, found[0].severity) == ("black_box_stronger", "note")
    assert found[0].evidence == (
        "Square (100 queries) leaves 98.0%, the iterated attack 100.0% (of 100)."
    )


def test_the_suite_s_own_attacks_count_as_evidence() -> None:
    outcomes = {
        "clean": np.ones(100, bool),
        "pgd": np.arange(100) < 80,
        "square": np.arange(100) < 60,
    }
    found = diagnostics.findings(_evidence(), outcomes, {"pgd": PGD(), "square": Square()})
    assert (found[0].name, found[0].severity) == ("black_box_stronger", "masked")
    assert found[0].values == pytest.approx({"square": 0.6, "pgd": 0.8})


def test_epsilon_0_is_clean_accuracy(tmp_path) -> None:
    report = Audit(quadrants(), SUITE, ThreatModel("linf", 0.0))(linear(), "model", tmp_path)
    assert report["verdict"] == (
        "Epsilon is 0: nothing was attacked, robust accuracy is clean accuracy."
    )
    assert report["worst_case"]["robust_accuracy"] == pytest.approx(report["clean"])


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_batching_changes_nothing(batch_size, honest, tmp_path) -> None:
    """Batches of one, a short last batch, and a batch that is larger than the set."""
    data = quadrants()
    evaluator = Evaluator(linear(), THREAT, batch_size=batch_size)
    expected = np.load(honest[1] / "examples.npz")["pgd"][:10]
    np.testing.assert_array_equal(evaluator.attacked(SUITE.attacks["pgd"], data.test, 10), expected)


def test_transfer_and_ensembles(tmp_path) -> None:
    suite = Suite(
        {"fgsm": FGSM(), "pgd": PGD(num_steps=2)},
        transfer={"transfer_pgd": PGD(num_steps=2)},
        ensembles={"both": ("fgsm", "pgd")},
        probe=PGD(num_steps=2),
        factors=(1.0,),
    )
    audit = Audit(quadrants(8), suite, THREAT)
    with_surrogate = audit(linear(), "model", tmp_path / "with", surrogate=linear(5.0))
    assert list(with_surrogate["attacks"]) == ["fgsm", "pgd", "transfer_pgd", "both"]
    assert with_surrogate["left_out"] == []
    crafted_on = {"transfer_pgd": model_files.fingerprint(linear(5.0))}
    assert with_surrogate["crafted_on"] == crafted_on
    outcomes = np.load(tmp_path / "with" / "examples.npz")
    np.testing.assert_array_equal(outcomes["both"], outcomes["fgsm"] & outcomes["pgd"])
    without = audit(linear(), "model", tmp_path / "without")
    assert without["left_out"] == ["transfer_pgd"] and without["crafted_on"] == {}
    text = (tmp_path / "without" / "report.md").read_text()
    assert "Left out without a surrogate: transfer_pgd" in text


def test_an_audit_cut_off_while_it_writes_leaves_no_report_of_other_outcomes(
    tmp_path, monkeypatch
) -> None:
    suite = Suite({"fgsm": FGSM()}, probe=PGD(num_steps=2), factors=(1.0,))
    first = Audit(quadrants(8), suite, THREAT)(linear(), "model", tmp_path)

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(plots, "epsilon_curve", full)
        with pytest.raises(OSError):
            Audit(quadrants(8), suite, THREAT, examples=4)(linear(), "model", tmp_path)
    assert not (tmp_path / "report.json").exists()
    assert Audit(quadrants(8), suite, THREAT)(linear(), "model", tmp_path) == first
    assert len(np.load(tmp_path / "examples.npz")["fgsm"]) == 8


def _refusal(tmp_path, model, data=None, suite=SUITE) -> str:
    with pytest.raises(ValueError) as error:
        Audit(data or quadrants(8), suite, THREAT)(model, model.name, tmp_path)
    message = str(error.value)
    assert "\n" not in message
    return message


def _nine() -> keras.Model:
    inputs = keras.Input((9, 9, 1))
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)), name="nine")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear(activation="softmax"), "returns probabilities.*remove the softmax"),
        (_nine, r"^nine takes images of \(9, 9, 1\) and the data set has \(8, 8, 1\); use the dat"),
        (lambda: linear(classes=5), "has 5 classes and the data set 4"),
        (lambda: linear(classes=3), "^The labels run from 0 to 3 and quadrant_means has 3 classes"),
        (lambda: linear(math.nan), "returned logits that are not finite on 8 of 8 images"),
    ],
)
def test_models_that_cannot_be_audited_are_refused(tmp_path, make, message) -> None:
    assert re.search(message, _refusal(tmp_path, make()))


@pytest.mark.parametrize(("classes", "taken"), [(3, "apgd_dlr"), (2, "apgd_margin")])
def test_few_classes_get_the_losses_they_have_under_their_names(tmp_path, classes, taken) -> None:
    suite = Suite(
        {
            "apgd_t": APGDTargeted(num_steps=2),
            "fgsm": FGSM(),
            "autoattack": AutoAttack(num_steps=1, num_queries=1),
        },
        ensembles={"both": ("apgd_t", "fgsm"), "fast": ("fgsm",)},
        probe=FGSM(),
        probe_examples=4,
        factors=(1.0,),
    )
    data = quadrants(6, classes)
    report = Audit(data, suite, THREAT)(linear(classes=classes), "few", tmp_path)
    named = f"autoattack_{classes}_classes"
    assert list(report["attacks"]) == [taken, "fgsm", named, f"both_{classes}_classes", "fast"]
    assert f"loss='{taken.removeprefix('apgd_')}'" in report["suite"][taken]
    text = (tmp_path / "report.md").read_text()
    assert (
        f"Changed for this model: apgd_t, whose loss needs more than {classes} classes, is "
        f"replaced by {taken}; autoattack runs apgd_ce, {taken}, fab_t, square in place "
        "of apgd_ce, apgd_t, fab_t, square." in text
    )
    again = Audit(data, suite, THREAT)(linear(classes=classes), "few", tmp_path)
    assert again == report


def test_a_replaced_attack_does_not_hide_one_of_the_suite() -> None:
    """With 3 classes `apgd_t` is run as APGD on the DLR, which the suite may have as well."""
    own = APGDDLR(num_steps=5)
    for attacks in (
        {"apgd_t": APGDTargeted(num_steps=2), "apgd_dlr": own},
        {"apgd_dlr": own, "apgd_t": APGDTargeted(num_steps=2)},
    ):
        suite, notes = Suite(attacks, ensembles={"both": tuple(attacks)}).fitted(3, blind=False)
        replaced = APGDDLR(num_steps=2)
        assert dict(suite.attacks) == {"apgd_dlr": own, "apgd_dlr_for_apgd_t": replaced}
        assert set(suite.ensembles["both_3_classes"]) == set(suite.attacks)
        assert notes == [
            "apgd_t, whose loss needs more than 3 classes, is replaced by apgd_dlr_for_apgd_t",
        ]
    equal = {"apgd_t": APGDTargeted(num_steps=5), "apgd_dlr": own}
    assert dict(Suite(equal).fitted(3, blind=False)[0].attacks) == {"apgd_dlr": own}
    two, _ = Suite({"apgd_dlr": own, "apgd_t": APGDTargeted(num_steps=2)}).fitted(2, blind=False)
    assert {name: attack.num_steps for name, attack in two.attacks.items()} == {
        "apgd_margin": 5,
        "apgd_margin_for_apgd_t": 2,
    }


def test_a_net_without_gradients_is_a_finding_and_is_attacked_without_them(tmp_path) -> None:
    inputs = keras.Input((8, 8, 1))
    honest = linear()
    model = keras.Model(inputs, honest(keras.ops.round(inputs * 255) / 255), name="rounds")
    suite = Suite({"fgsm": FGSM()}, probe=FGSM(), probe_examples=8, factors=(1.0,))
    report = Audit(quadrants(8), suite, THREAT)(model, "rounds", tmp_path)
    assert report["verdict"].startswith("Masked gradients (no_gradient")
    assert "No gradient of the logits reaches the images" in report["verdict"]
    left = {name: entry["robust_accuracy"] for name, entry in report["attacks"].items()}
    assert list(left) == ["fgsm", "square_added", "spsa_added"]
    assert [left["fgsm"], report["clean"]] == pytest.approx([1, 1])
    assert min(left["square_added"], left["spsa_added"]) < 0.8
    assert (
        "no gradient reaches the images: square_added, spsa_added were added"
        in (tmp_path / "report.md").read_text()
    )


def test_images_outside_the_box_are_refused() -> None:
    evaluator = Evaluator(linear(), THREAT)
    images = tf.fill([2, 8, 8, 1], 255.0)
    labels, ids = tf.constant([0, 1]), tf.constant([0, 1], tf.int64)
    with pytest.raises(EvaluationError, match=r"run from 255 to 255; give float32 in \[0, 1\]"):
        evaluator.perturb(FGSM(), images, labels, ids)


def test_an_attack_that_leaves_the_ball_is_not_counted(tmp_path) -> None:
    def too_far(model_fn, images, labels, *, threat, seeds, objective=None):
        return tf.clip_by_value(images + 2 * threat.epsilon, 0.0, 1.0)

    suite = dataclasses.replace(SUITE, attacks={"too_far": too_far})
    message = _refusal(tmp_path, linear(), suite=suite)
    assert "left the threat model (linf, epsilon 0.1" in message and "by up to 0.1;" in message


def test_logits_are_not_taken_for_probabilities() -> None:
    model_files.check_logits(np.array([[0.2, 0.3], [0.5, 0.5]]))
    model_files.check_logits(np.array([[1.5, -0.5], [0.5, 0.5]]))
    with pytest.raises(EvaluationError, match="probabilities"):
        model_files.check_logits(np.array([[0.2, 0.8], [0.5, 0.5]]))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"attacks": {}}, "Suite.attacks is empty"),
        ({"attacks": {"clean": FGSM()}}, "'clean' twice or it is reserved"),
        ({"attacks": {"pgd": PGD}}, "give an attack, such as @attacks.pgd\\(\\)"),
        (
            {"attacks": {"pgd": PGD()}, "ensembles": {"all": ("pdg",)}},
            "Suite.ensembles\\['all'\\] is \\('pdg',\\); name attacks of the suite: pgd.",
        ),
        ({"attacks": {"pgd": PGD()}, "probe_examples": 0}, "probe_examples is 0"),
    ],
)
def test_suites_that_mean_nothing(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        Suite(**arguments)


def test_leaving_attacks_out() -> None:
    suite = Suite({"a": FGSM(), "b": PGD()}, ensembles={"both": ("a", "b")})
    assert list(suite.without(["a"]).attacks) == ["b"]
    assert suite.without(["a"]).ensembles == {}
    with pytest.raises(ValueError, match="There is no attack 'c' to leave out; the suite has a, b"):
        suite.without(["c"])


def test_attacks_may_run_out_of_images_on_convolutions() -> None:
    """TensorFlow's fused convolution fails on an empty batch; Square has one when all stand."""
    inputs = x = keras.Input((8, 8, 1))
    for _ in range(2):
        x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    dense = keras.layers.Dense(4)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(x)))
    dense.bias.assign([1.0, 0.0, 0.0, 0.0])
    fell = tf.function(never_empty(model), input_signature=[tf.TensorSpec((None, 8, 8, 1))])
    assert fell(tf.zeros((0, 8, 8, 1))).shape == (0, 4)
    images = np.random.RandomState(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(fell(images), model(images), atol=1e-6)
    split = Split(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int32))
    # Most proposals leave one of two black images as it is, and so nothing to ask the model.
    evaluator = Evaluator(model, ThreatModel("linf", 1e-4))
    np.testing.assert_array_equal(evaluator.attacked(Square(num_queries=50), split), True)
