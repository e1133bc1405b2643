"""How an audit is divided into shares and processes, and that its report stays the same."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from mtard_tf.commands import audit_parts, eval, request_fields
from mtard_tf.commands.requests import Eval
from mtard_tf.models.small_cnn import small_cnn


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "0/0"])
def test_a_share_that_means_nothing(text) -> None:
    assert audit_parts.part("1/4") == (1, 4)
    with pytest.raises(ValueError) as caught:
        audit_parts.part(text)
    assert str(caught.value) == (
        f"--share is {text!r}; give I/N with I from 0 to N - 1, such as 0/4."
    )


def test_a_request_as_flags() -> None:
    asked = Eval(
        run_dir="runs/x", stages=["a", "b"], gate=False, examples=4, workers=["c:1", "d:2"], seed=0
    )
    assert request_fields.flags(asked) == [
        *("--run_dir=runs/x", "--stage=a", "--stage=b", "--examples=4", "--seed=0"),
        *("--workers=c:1,d:2", "--nogate"),
    ]
    assert request_fields.flags(Eval()) == []


def _commands(monkeypatch, request: Eval, names: list[str]) -> dict[str, list[str]]:
    """Job -> its flags, of the processes that would attack."""
    ran: list = []
    monkeypatch.setattr(
        audit_parts.side_by_side, "run_jobs", lambda _, todo, count: ran.extend(todo)
    )
    monkeypatch.setattr(audit_parts.jobs, "run", lambda todo, count, logs: ran.extend(todo))
    audit_parts.attack(request, names, pathlib.Path(request.run_dir or request.out))
    assert all(job.command[1:3] == ["-m", "mtard_tf.bin.eval"] for job in ran)
    return {job.name: job.command[3:] for job in ran}


def test_processes_of_an_audit(monkeypatch, tmp_path) -> None:
    run = Eval(run_dir="runs/x", suite="paper", require=["clean>=0.5"], junit="j.xml")
    told = ["--run_dir=runs/x", "--suite=paper", "--out=runs/x/evaluation", "--nogate"]

    def of_run(jobs: int) -> dict[str, set[str]]:
        asked = dataclasses.replace(run, jobs=jobs)
        return {k: set(v) for k, v in _commands(monkeypatch, asked, ["a", "b"]).items()}

    assert of_run(1) == {}
    whole = {"a.audit": {*told, "--stage=a"}, "b.audit": {*told, "--stage=b"}}
    assert of_run(2) == of_run(3) == whole
    assert of_run(4) == {
        f"{stage}.audit.{i}": {*told, f"--stage={stage}", f"--share={i}/2"}
        for stage in ("a", "b")
        for i in range(2)
    }
    out = str(tmp_path / "new")
    model = Eval(model="net.keras", dataset="set", epsilon="0.1", out=out, jobs=2)
    given = ["--model=net.keras", "--dataset=set", "--epsilon=0.1"]
    assert _commands(monkeypatch, model, ["net"]) == {
        f"net.audit.{i}": [*given, f"--share={i}/2", f"--out={out}", "--nogate"] for i in range(2)
    }


def test_a_run_is_checked_before_processes_start(monkeypatch, tiny_run) -> None:
    monkeypatch.setattr(audit_parts, "attack", lambda *_: pytest.fail("processes were started"))
    with pytest.raises(ValueError, match="^The run has no stage 'studnet'; its stages: clean_"):
        eval.run(Eval(run_dir=str(tiny_run), stages=["student", "studnet"], jobs=2))
    (tiny_run / "robust_teacher" / "student.keras").unlink()
    with pytest.raises(ValueError, match="robust_teacher") as caught:
        eval.run(Eval(run_dir=str(tiny_run), jobs=2))
    assert "\n" not in str(caught.value)


# Quick to train, with names as in a run of one's own.
TINY = (
    "Experiment.stages = ('clean_teacher', 'robust_teacher', @replicates())",
    "replicates.names = ('bmtard',)",
    "replicates.count = 1",
    "Stage.epochs = 1",
    "Stage.batch_size = 512",
    "Stage.validation_examples = 100",
    "models.small_cnn.widths = (2, 2, 4, 4)",
    "models.small_cnn.dense = 8",
)


@pytest.mark.slow
def test_processes_of_a_run_leave_nothing_to_attack(tmp_path) -> None:
    def command(of: str, *flags: str) -> str:
        asked = [sys.executable, "-m", f"mtard_tf.bin.{of}", *flags]
        done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    bindings = [f"--gin={line}" for line in TINY]
    command("train", "--config=runs/compare/quick.gin", "--run_dir=one", *bindings)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    flags = ["--stage=bmtard_s0", "--stage=robust_teacher", "--suite=paper", "--examples=50"]
    flags += ["--skip=autoattack", "--skip=square_100", "--batch_size=25"]
    for jobs, run in ((1, "one"), (2, "two")):
        said = command("eval", f"--run_dir={run}", f"--jobs={jobs}", *flags)
    kept = re.findall("^(.*): audited before on the same inputs", said, re.M)
    assert kept == ["bmtard_s0", "robust_teacher"]
    for stage in kept:
        one, two = (
            json.loads((tmp_path / run / "evaluation" / stage / "report.json").read_text())
            for run in ("one", "two")
        )
        assert two == one
        # Crafted on the robust teacher, which has none of its own.
        assert ("transfer_pgd_trades" in one["attacks"]) == (stage == "bmtard_s0")


def _audit(model: pathlib.Path, out: pathlib.Path, *flags: str) -> tuple[str, dict]:
    asked = [f"--model={model}", "--dataset=fashion_mini", "--epsilon=0.1", f"--out={out}"]
    command = [sys.executable, "-m", "mtard_tf.bin.eval", *asked, "--batch_size=10"]
    done = subprocess.run([*command, "--examples=40", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / "report.json").read_text())


@pytest.mark.slow
def test_two_processes_make_the_report_of_one(tmp_path) -> None:
    keras.utils.set_random_seed(0)
    small_cnn((28, 28, 1), 10).save(tmp_path / "net.keras")
    (printed, one), (printed_too, two) = (
        _audit(tmp_path / "net.keras", tmp_path / f"jobs_{jobs}", f"--jobs={jobs}")
        for jobs in (1, 2)
    )
    assert two == one
    assert re.sub("jobs_2", "jobs_1", printed_too) == printed
    of_one, of_two = (np.load(tmp_path / f"jobs_{jobs}" / "examples.npz") for jobs in (1, 2))
    for name in of_one:
        np.testing.assert_array_equal(of_one[name], of_two[name], err_msg=name)
    logs = {path.name for path in (tmp_path / "jobs_2" / "logs").iterdir()}
    assert logs == {"net.audit.0.log", "net.audit.1.log"}
    assert not list((tmp_path / "jobs_2").glob("progress*"))


@pytest.mark.slow
def test_a_process_that_fails_is_one_line_with_its_log(tmp_path) -> None:
    keras.utils.set_random_seed(0)
    small_cnn((28, 28, 1), 10).save(tmp_path / "net.keras")
    out = tmp_path / "out"
    out.mkdir()
    (out / "progress-1-of-2.jsonl").mkdir()  # nothing can be written there
    asked = Eval(
        model=str(tmp_path / "net.keras"),
        dataset="fashion_mini",
        epsilon="0.1",
        out=str(out),
        jobs=2,
    )
    command = [sys.executable, "-m", "mtard_tf.bin.eval", *request_fields.flags(asked)]
    done = subprocess.run([*command, "--examples=20"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "net.audit.1 failed (" in done.stderr.splitlines()[-1]
    assert f"see {out / 'logs'}/<name>.log" in done.stderr.splitlines()[-1]
