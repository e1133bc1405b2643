"""What `mtard-eval` is asked for: models and data by name, suites from gin, and clear refusals."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.attacks.apgd import APGDTargeted
from mtard_tf.attacks.attack import kind_of
from mtard_tf.attacks.autoattack import AutoAttack
from mtard_tf.attacks.margin import CWInf
from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.square import Square
from mtard_tf.attacks.tempered import AtTemperature
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.auditing.gate import Unmet
from mtard_tf.commands import datasets, eval
from mtard_tf.commands.requests import Eval
from mtard_tf.config import gin_files
from mtard_tf.exporting import export, proof
from mtard_tf.measuring.distortion import CWDistortion
from mtard_tf.models import model_files
from mtard_tf.runtimes.artefact import Artefact
from mtard_tf.threat import ThreatModel, radius


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((28, 28, 1))
    pooled = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10)(pooled), name="pooled")
    path = tmp_path_factory.mktemp("model") / "pooled.keras"
    model.save(path)
    return path


def test_suites_are_the_tables_of_the_papers() -> None:
    quick = gin_files.suite("quick")
    assert list(quick.attacks) == ["fgsm", "pgd_sat", "pgd_trades"]
    assert quick.attacks["pgd_sat"] == PGD(num_steps=20, relative_step_size=0.25)
    trades = quick.attacks["pgd_trades"]
    assert (trades.num_steps, trades.start) == (20, "uniform")
    assert trades.relative_step_size * 8 / 255 == pytest.approx(0.003)
    paper = gin_files.suite("paper")
    assert list(paper.attacks) == [*quick.attacks, "cw_inf", "square_100", "autoattack"]
    assert paper.attacks["cw_inf"] == CWInf(num_steps=30, confidence=50.0)
    assert paper.attacks["square_100"] == Square(num_queries=100, rescale_schedule=True)
    assert paper.attacks["autoattack"] == AutoAttack()
    assert paper.transfer["transfer_pgd_trades"] == trades
    auto = gin_files.suite("autoattack")
    assert auto.attacks == AutoAttack().components
    assert auto.ensembles == {"autoattack": ("apgd_ce", "apgd_t", "fab_t", "square")}


def test_the_suite_for_distilled_nets_has_the_measures_and_what_does_not_need_the_softmax() -> None:
    suite = gin_files.suite("defensive").at_temperature(40.0)
    assert suite.attacks["pgd"] == suite.probe == PGD(num_steps=20, relative_step_size=0.25)
    assert suite.attacks["pgd_tempered"] == AtTemperature(suite.probe, 40.0)
    assert suite.measures["cw_l2_distortion"] == CWDistortion(
        examples=20, num_steps=150, search_steps=5, learning_rate=0.1, initial_constant=None
    )
    assert set(suite.measures) == set(registry.names("measures"))


def test_kinds_of_attacks() -> None:
    kinds = {name: kind_of(attack) for name, attack in gin_files.suite("paper").attacks.items()}
    assert kinds == {
        "fgsm": "single_step",
        "pgd_sat": "gradient",
        "pgd_trades": "gradient",
        "cw_inf": "gradient",
        "square_100": "black_box",
        "autoattack": "ensemble",
    }
    assert kind_of(APGDTargeted()) == "gradient"


def test_a_suite_of_one_s_own(tmp_path) -> None:
    path = tmp_path / "mine.gin"
    path.write_text("Suite.attacks = {'pgd': @attacks.pgd()}\nattacks.pgd.num_steps = 3\n")
    assert gin_files.suite(str(path)).attacks["pgd"].num_steps == 3


def test_an_unknown_suite_or_data_set_names_the_nearest(tmp_path) -> None:
    with pytest.raises(ValueError, match="^Unknown suite 'papr'; did you mean 'paper'\\? known: "):
        gin_files.suite("papr")
    message = "^Unknown dataset 'fashion_mnis'; did you mean 'fashion_mnist'\\? known: "
    with pytest.raises(ValueError, match=message):
        datasets.dataset("fashion_mnis", str(tmp_path))
    assert len(datasets.dataset("fashion_mini").test) == 1_000


@pytest.mark.parametrize(
    "text, value", [("0.1", 0.1), ("8/255", 8 / 255), ("25.5/255", 0.1), ("0", 0.0)]
)
def test_epsilon_as_text(text, value) -> None:
    assert radius(text, "--epsilon") == pytest.approx(value)


@pytest.mark.parametrize("text", ["-0.1", "eight", "1/0", "1/2/3", "1e400", "nan", ""])
def test_epsilon_that_means_nothing(text) -> None:
    with pytest.raises(ValueError, match=re.escape(f"--epsilon is {text!r}; give a number >= 0")):
        radius(text, "--epsilon")


def test_an_epsilon_in_255ths_is_named() -> None:
    with pytest.raises(ValueError) as caught:
        radius("8", "--epsilon")
    assert str(caught.value) == (
        "--epsilon is '8', but pixels run from 0 to 1: every image would be free to become any "
        "other; give '8/255' (0.0313725)."
    )
    found = [radius("8", "--epsilon", norm="l2"), radius("1"), ThreatModel("l2", 3).epsilon]
    np.testing.assert_array_equal(found, [8.0, 1.0, 3.0])


def _request(model_path, tmp_path, **changes) -> Eval:
    values = {
        "model": str(model_path),
        "dataset": "fashion_mini",
        "epsilon": "0.05",
        "out": str(tmp_path / "out"),
        "examples": 8,
    }
    return Eval(**(values | changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": None}, "Give --model=FILE"),
        ({"run_dir": "runs/x"}, "Give --model=FILE"),
        (
            {"run_dir": "runs/x", "model": None, "temperature": 2.0},
            "--temperature goes with --model; the stages of a run record theirs.",
        ),
        (
            {"run_dir": "runs/x", "model": None, "dataset": None, "data_dir": "sets"},
            "--data_dir goes with --dataset, and a run reads its own data; give --dataset as well,",
        ),
        ({"dataset": None, "out": None}, "--model needs --dataset and --out as well"),
        ({"model": "no.keras"}, "There is no model at no.keras; give a .keras file"),
        ({"suite": "quik"}, "Unknown suite 'quik'; did you mean 'quick'"),
        ({"norm": "l1"}, "ThreatModel.norm is 'l1'; use one of linf, l2."),
        ({"split": "tset"}, "The split is 'tset'; use one of test, validation, train."),
        ({"skip": ["pgd"]}, "There is no attack 'pgd' to leave out; the suite has fgsm"),
        ({"surrogate": "no.keras"}, "There is no model at no.keras"),
        ({"strategy": "tpu"}, "--strategy is 'tpu'; give one_device, mirrored or multi_worker."),
        (
            {"strategy": "multi_worker", "share": "0/2"},
            "--share is 0/2 and --strategy multi_worker, which gives each worker its share; leave",
        ),
        (
            {"strategy": "multi_worker", "max_rate": 5.0},
            "--max_requests and --max_rate are for one process and its server, not for --strategy",
        ),
        ({"strategy": "multi_worker"}, "multi_worker needs --workers=HOST:PORT,HOST:PORT and --in"),
        (
            {"strategy": "multi_worker", "model": None, "dataset": None, "run_dir": "no"},
            "no holds no run (no config.gin); run mtard-train first.",
        ),
        (
            {"jobs": 2, "share": "0/2", "max_rate": 1.0},
            "--jobs=2 does not go with --share and --max_rate, which one process has for",
        ),
        (
            {"jobs": 3, "strategy": "mirrored"},
            "--jobs=3 does not go with --strategy, which one process",
        ),
        ({"devices": 2}, "one_device has one device, not 2; use mirrored."),
        ({"workers": ["a:1"]}, "--workers and --index go with --strategy=multi_worker, not one_de"),
    ],
)
def test_flags_that_mean_nothing(model_path, tmp_path, monkeypatch, changes, message) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        eval.run(_request(model_path, tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_model(tmp_path) -> None:
    path = tmp_path / "broken.keras"
    path.write_text("not a model")
    with pytest.raises(ValueError, match="broken.keras cannot be read as a model") as error:
        model_files.load(path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="is a folder without saved_model.pb"):
        model_files.load(tmp_path)


def test_a_model_by_path(model_path, tmp_path) -> None:
    request = _request(model_path, tmp_path, skip=["pgd_sat", "pgd_trades"], examples=4)
    printed = eval.run(request)
    assert printed.splitlines()[1:] == [
        f"Report: {tmp_path / 'out' / 'report.md'}",
        f"Page: {tmp_path / 'out' / 'report.html'}",
    ]
    names = {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".lock"}
    assert names == {
        *(
            "report.json",
            "timing.json",
            "report.md",
            "report.html",
            "examples.npz",
            "epsilon_curve.png",
        )
    }
    judged = dataclasses.replace(
        request, require=["clean>=0", "examples>=5"], junit=str(tmp_path / "junit.xml")
    )
    with pytest.raises(Unmet) as unmet:  # audited before: nothing is attacked again
        eval.run(judged)
    name = pathlib.Path(request.model).stem
    assert str(unmet.value) == f"{printed}\n{name}: examples>=5 is not met: 4."
    assert 'failures="2"' in (tmp_path / "junit.xml").read_text()  # and one of chance
    with pytest.raises(ValueError, match="Unknown metric 'clan'; did you mean 'clean'"):
        eval.run(dataclasses.replace(request, require=["clan>=0.5"]))


def test_an_exported_student_gives_the_same_outcomes(model_path, tmp_path, monkeypatch) -> None:
    """Its `serving_default` takes uint8, which no gradient passes; `logits` is there for that."""
    monkeypatch.setattr(proof, "prove", lambda *_: {})  # what follows compares more
    model = keras.models.load_model(model_path, compile=False)
    data = datasets.dataset("fashion_mini")
    folder = export.export(model, data.label_names, tmp_path / "student", data.test.images[:2])
    saved = model_files.load(folder.parent)  # the parent of the versions serves as well
    assert saved.name == "student"
    assert saved.input_shape == (None, 28, 28, 1)
    assert saved.output_shape == (None, 10)
    assert model_files.parameters(saved) == 49 * 10 + 10
    model_files.check(saved, data.test, data.label_names)
    images, labels = data.test.images[:20] / np.float32(255), tf.constant(data.test.labels[:20])
    ours, theirs = (Evaluator(m, ThreatModel("linf", 0.05)) for m in (model, saved))
    np.testing.assert_allclose(ours.logits(images), theirs.logits(images), atol=1e-5)
    gradients = theirs.compiled.gradients(tf.constant(images), labels)
    np.testing.assert_allclose(
        ours.compiled.gradients(tf.constant(images), labels), gradients, rtol=1e-3
    )
    np.testing.assert_array_less(0, gradients)


def test_a_saved_model_without_gradients_is_refused(tmp_path) -> None:
    module = tf.Module()
    spec = tf.TensorSpec([None, 28, 28, 1], tf.uint8, name="images")
    serve = tf.function(
        lambda images: {"logits": tf.reduce_sum(tf.cast(images, tf.float32), axis=[2, 3])},
        input_signature=[spec],
    )
    tf.saved_model.save(module, str(tmp_path / "served"), signatures={"serving_default": serve})
    with pytest.raises(ValueError, match="no signature 'logits' or 'serving_default' that takes"):
        model_files.load(tmp_path / "served")


def test_keras_own_export_is_read(model_path, tmp_path) -> None:
    model = keras.models.load_model(model_path, compile=False)
    model.export(str(tmp_path / "plain"), verbose=False)
    saved = model_files.load(tmp_path / "plain")
    images = np.random.RandomState(0).uniform(size=(2, 28, 28, 1)).astype(np.float32)
    np.testing.assert_allclose(saved(images), model(images), atol=1e-5)


@pytest.mark.parametrize(
    "judging", [{"require": ["clean>=0.5"]}, {"junit": "junit.xml"}], ids=["require", "junit"]
)
def test_a_share_is_not_judged(judging) -> None:
    (flag,) = judging
    with pytest.raises(
        ValueError, match=f"^--{flag} cannot be checked on a part of the images; leave out"
    ):
        eval.run(Eval(model="net.keras", share="0/2", **judging))


class _File(Artefact):
    name, kind = "net", "a LiteRT file"
    input_shape, output_shape = (None, 28, 28, 1), (None, 10)

    def answer(self, images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 10), np.float32)


def test_what_no_device_computes_is_not_spread_over_devices(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(eval.loading, "load", lambda *_: _File())
    monkeypatch.setattr(eval.strategies, "local_devices", lambda _: ["CPU:0", "CPU:1"])
    with pytest.raises(ValueError) as caught:
        eval.run(_request("net.tflite", tmp_path))
    assert str(caught.value) == (
        "net is a LiteRT file, which TensorFlow does not run; leave out "
        "--strategy=mirrored and --devices, and give each process a --share."
    )


def test_a_share_prints_its_verdict_only(model_path, tmp_path) -> None:
    asked = _request(model_path, tmp_path, skip=["pgd_sat", "pgd_trades"], examples=4)
    assert eval.run(dataclasses.replace(asked, share="0/2")) == (
        "this share is done; once all are, run the same without --share."
    )
