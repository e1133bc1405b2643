"""A whole run on tiny data: its directory, its second start, its refusals, its export."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

import mtard_tf
from mtard_tf import files
from mtard_tf.auditing.accuracies import w_robust
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.bin import paths
from mtard_tf.commands import compare, eval, requests, train
from mtard_tf.config import gin_files
from mtard_tf.exporting import export, model_card, proof
from mtard_tf.exporting.formats import ExportError
from mtard_tf.models import model_files
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.running import experiment_run, run_directory
from mtard_tf.threat import ThreatModel


@pytest.fixture
def finished(tiny_run):
    gin_files.parse([str(tiny_run / "config.gin")])
    return tiny_run, gin_files.experiment()


def test_a_whole_run(finished, capsys):
    run_dir, described = finished
    for stage in ("clean_teacher", "robust_teacher", "student"):
        folder = run_dir / stage
        assert files.read_json(folder / "stage.json")["steps"] == 6  # 2 epochs of 40 / 16 steps
        keras.models.load_model(folder / "student.keras")
        assert (folder / "checkpoints" / "last.keras").exists()
        assert list((folder / "tensorboard").iterdir())
    rows = [json.loads(x) for x in (run_dir / "student" / "metrics.jsonl").read_text().splitlines()]
    step = next(row for row in rows if row["kind"] == "step")
    for name in ("kl", "weight", "temperature", "entropy"):
        assert np.isfinite(step[f"{name}_robust"]) and np.isfinite(step[f"{name}_clean"])
    assert step["weight_robust"] + step["weight_clean"] == pytest.approx(1.0, abs=1e-6)
    assert step["loss"] == pytest.approx(
        sum(step[f"weight_{r}"] * step[f"kl_{r}"] for r in ("robust", "clean")), rel=1e-5
    )
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2]

    # The same command again: nothing is trained.
    before = (run_dir / "student" / "student.keras").read_bytes()
    experiment_run.run(described, run_dir, gin_files.text())
    assert "student: finished before, not run again." in capsys.readouterr().out
    assert (run_dir / "student" / "student.keras").read_bytes() == before
    twice = experiment_run.run(described, run_dir, gin_files.text(), only=["student", "student"])
    assert [result["stage"] for result in twice] == ["student"]

    # Another configuration: refused, with the difference.
    gin_files.parse([str(run_dir / "config.gin")], ["student/Stage.epochs = 3"])
    with pytest.raises(
        run_directory.RunError, match=r"(?ms)another configuration.*^\+student/Stage\.epochs = 3$"
    ):
        experiment_run.run(gin_files.experiment(), run_dir, gin_files.text())


def test_report_and_export(finished, monkeypatch):
    run_dir, described = finished
    monkeypatch.chdir(run_dir.parent)
    run_dir = pathlib.Path(run_dir.name)  # relative, as users type it
    eval.run(requests.Eval(run_dir=str(run_dir)))
    student = files.read_json(run_dir / "evaluation" / "student" / "report.json")
    assert student["stage"] == "student" and student["examples"] == 24
    outcomes = np.load(run_dir / "evaluation" / "student" / "examples.npz")
    for name, figures in student["attacks"].items():
        assert figures["robust_accuracy"] == pytest.approx(outcomes[name].mean())
        expected = (student["clean"] + figures["robust_accuracy"]) / 2
        assert figures["w_robust"] == pytest.approx(expected)
    text = (run_dir / "report" / "report.md").read_text()
    assert "| clean_teacher |" in text and "student_balance.png" in text
    page = (run_dir / "report" / "index.html").read_text()
    assert student["verdict"] in page.replace("&#39;", "'")
    for png in ("trade_off", "student_balance", "student_images"):
        assert (run_dir / "report" / f"{png}.png").read_bytes()[:4] == b"\x89PNG"

    # All audits stand, so a comparison has nothing to run; its table says what the audits say.
    lines = compare.run(requests.Compare(str(run_dir), baseline="robust_teacher"))
    # Student and robust teacher are at chance here, so neither may lead.
    assert lines.startswith("Best W-Robust in the worst case: clean_teacher, ")
    assert not list((run_dir / "logs").iterdir())
    rows = files.read_json(run_dir / "comparison" / "comparison.json")["rows"]
    assert [row["row"] for row in rows] == ["clean_teacher", "robust_teacher", "student"]
    assert rows[2]["clean"]["mean"] == pytest.approx(student["clean"])
    worst = student["worst_case"]["robust_accuracy"]
    assert rows[2]["robust"]["worst_case"]["mean"] == pytest.approx(worst)
    gin_files.of_run(run_dir)

    data = described.dataset()
    model = run_directory.load_student(run_dir, "student")
    noted, images = run_directory.noted_data(run_dir, "student")  # all that it needs of the data
    assert noted == {
        "name": "tiny",
        "label_names": ["red", "green", "blue"],
        "image_shape": [8, 8, 3],
    }
    np.testing.assert_array_equal(images, data.validation.images)
    metadata = model_card.metadata(run_dir, described, "student", noted, model)
    folder = run_dir / "export" / "student"
    first = export.export(model, noted["label_names"], folder, images[:5], metadata)
    assert first.name == "1"
    assert files.read_json(first / "assets.extra" / "metadata.json")["dataset"] == "tiny"
    card = (first / "README.md").read_text()
    assert "# student: small_cnn" in card and "trained with `BMTARD`" in card
    robust = model_files.file_digest(run_dir / "robust_teacher" / "student.keras")
    assert f"| robust | robust_teacher | {robust} |" in card
    assert f"Clean accuracy {student['clean']:.2%}, on 24 images of the test split of tiny" in card
    assert "PGD(num_steps=" in card
    import tensorflow as tf

    served = tf.saved_model.load(str(first)).signatures["serving_default"](
        images=tf.constant(data.test.images)
    )
    logits = np.asarray(model(data.test.images.astype(np.float32) / 255.0))
    np.testing.assert_allclose(served["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(served["probabilities"].numpy().sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(served["label"], logits.argmax(axis=1))
    names = [data.label_names[i].encode() for i in logits.argmax(axis=1)]
    assert served["label_name"].numpy().tolist() == names


def test_an_export_that_differs_leaves_nothing_behind(finished, monkeypatch):
    run_dir, described = finished
    data, model = described.dataset(), run_directory.load_student(run_dir, "student")
    images = data.test.images[:3]
    wrong = {"logits": np.asarray(model(images / np.float32(255))) + 0.25, "milliseconds": 1.0}
    monkeypatch.setattr(proof, "_asked", lambda *_: wrong)  # in place of the process
    folder = run_dir / "export" / "student"
    with pytest.raises(ExportError, match=r"exported logits .* differs from the student by 0\.25 "):
        export.export(model, data.label_names, folder, images)
    assert list(folder.iterdir()) == []


def test_missing_and_broken_teachers(tmp_path):
    with pytest.raises(
        run_directory.RunError,
        match="student.keras is missing; run the stage 'x' first, or name another teacher",
    ):
        run_directory.load_student(tmp_path, "x")
    (tmp_path / "broken.keras").write_text("not a model")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "student.keras").write_text("not a model")
    with pytest.raises(run_directory.RunError, match=f"Or remove {tmp_path}/x to train the stage"):
        run_directory.load_student(tmp_path, "x")
    with pytest.raises(model_files.ModelFileError, match="broken.keras cannot be read as a model"):
        run_directory.load_student(tmp_path, str(tmp_path / "broken.keras"))


def test_an_attack_that_leaves_the_ball_is_not_counted(finished):
    run_dir, described = finished
    evaluator = Evaluator(run_directory.load_student(run_dir, "student"), ThreatModel(epsilon=0.1))

    def cheat(model_fn, images, labels, *, threat, seeds, objective=None):
        return images + 0.2

    with pytest.raises(
        EvaluationError, match=r"left the threat model \(linf, epsilon 0.1, .*by up to 0\.1"
    ):
        evaluator.attacked(cheat, described.dataset().test)


def test_the_home_is_expanded_wherever_a_path_comes_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.Path().parse("~/runs/x") == f"{tmp_path}/runs/x"
    assert run_directory.student_path(pathlib.Path("run"), "~/t.keras") == tmp_path / "t.keras"
    assert run_directory.student_path(pathlib.Path("run"), "t") == pathlib.Path(
        "run/t/student.keras"
    )
    with pytest.raises(ValueError, match="it is empty; give a path"):
        paths.Path().parse(" ")


def test_w_robust():
    # (87.36 + 61.20) / 2 = 74.28: a row of the MTARD paper's table.
    assert w_robust(0.8736, 0.6120) == pytest.approx(0.7428)


BINARIES = ["train", "eval", "export", "data", "import_", "compare", "plan"]


@pytest.mark.parametrize("binary", BINARIES)
def test_help_is_quick_and_lists_every_flag(binary):
    root = pathlib.Path(__file__).parent.parent
    command = [sys.executable, "-X", "importtime", "-m", f"mtard_tf.bin.{binary}"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0
    assert f"mtard-{binary.rstrip('_')}" in done.stdout
    source = (root / "mtard_tf" / "bin" / f"{binary}.py").read_text()
    defined = re.findall(r'(?:DEFINE_\w+|define)\(\s*"(\w+)"', source)
    others = ["strategy", "devices", "workers", "index"] if binary == "train" else []
    for flag in [*defined, *others]:
        assert re.search(rf"^  --(\[no\])?{flag}[=:]", done.stdout, re.M), flag
    for line in ("--[no]debug: ", "--help: ", "--version: "):
        assert f"\n  {line}" in done.stdout
    for heavy in ("tensorflow", "keras", "numpy"):
        assert f" {heavy}\n" not in done.stderr


@pytest.mark.parametrize("binary", BINARIES)
def test_every_command_says_its_version(binary):
    done = subprocess.run(
        [sys.executable, "-m", f"mtard_tf.bin.{binary}", "--version"],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parent.parent,
    )
    said = f"mtard-{binary.rstrip('_')} {mtard_tf.__version__}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "quickstart.gin", "--run_dir=x"], "mtard-train: 'quickstart.gin' is not a flag; did you mean --config=quickstart.gin?"),
        (["eval", "student.keras"], "mtard-eval: 'student.keras' is not a flag; did you mean --model=student.keras?"),
        (["export", "--run_dir=x", "student"], "mtard-export: 'student' is not a flag; write --FLAG=VALUE"),
        (["train", "--config=quickstart.gin", "--run_dir="], "mtard-train: flag --run_dir=: it is empty; give a path, or check that the shell variable is set"),
        (["compare", "--run_dri=x", "--run_dir=x"], "mtard-compare: Unknown command line flag 'run_dri'. Did you mean: run_dir"),
        (["plan", "--throughput=fast"], "mtard-plan: flag --throughput=fast: "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_on_the_terminal(arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", f"mtard_tf.bin.{arguments[0]}", *arguments[1:]],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parent.parent,
    )
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], done.stderr


@pytest.mark.parametrize(
    ("run_dir", "config", "message"),
    [
        ("x", "quikstart.gin", "did you mean 'quickstart.gin'?"),
        (
            "/proc/x",
            "quickstart.gin",
            "/proc/x cannot be written (No such file or directory); choose another --run_dir.",
        ),
    ],
)
def test_a_mistake_that_a_command_finds_is_an_error_of_one_line(run_dir, config, message, tmp_path):
    """What the processes above print; each would import TensorFlow for it."""
    folder = tmp_path / run_dir  # an absolute one stays
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as caught:
        train.run(requests.Train(run_dir=str(folder), config=[config]))
    assert len(str(caught.value).splitlines()) == 1 and not folder.exists()
    with pytest.raises(ValueError) as caught:
        eval.run(requests.Eval(run_dir=str(folder)))
    line = f"{folder} holds no run (no config.gin); run mtard-train first."
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("divided", "expected"), [(True, ["cores", "devices"]), (False, ["devices"])]
)
def test_cores_are_divided_before_devices_are_made(monkeypatch, tmp_path, divided, expected):
    calls: list[str] = []
    described = types.SimpleNamespace(divide_cores=divided, strategy="one_device")
    monkeypatch.setattr(train.gin_files, "start_or_resume", lambda *_: described)
    monkeypatch.setattr(train.gin_files, "text", lambda: "")
    monkeypatch.setattr(train.sharding, "divide_cores", lambda: calls.append("cores"))
    monkeypatch.setattr(train.strategies, "create", lambda *_, **__: calls.append("devices"))
    monkeypatch.setattr(train.strategies, "is_chief", lambda _: False)
    monkeypatch.setattr(train.experiment_run, "run", lambda *_, **__: [])
    assert train.run(requests.Train(run_dir=str(tmp_path))) == ""
    assert calls == expected
