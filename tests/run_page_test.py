"""The page of a run while it trains: what is noted of its stages, and of one that ended early."""

from __future__ import annotations

import json
import shutil
import sys
import types

import fabricated_pages as fabricated
import pytest

from mtard_tf.config import gin_files
from mtard_tf.exporting import model_card
from mtard_tf.processes import jobs
from mtard_tf.processes.preemption import Preempted
from mtard_tf.reporting import run_page
from mtard_tf.running import experiment_run, recorder, report, side_by_side, stage_run
from mtard_tf.running.run_directory import note_stages
from mtard_tf.threat import ThreatModel


def _experiment(epochs: int = 6) -> types.SimpleNamespace:
    stage = types.SimpleNamespace(
        name="student", distiller=print, teachers={"clean": "a.keras"}, initial=None, epochs=epochs
    )
    threat = ThreatModel("linf", 0.1)
    return types.SimpleNamespace(norm="linf", threat=threat, seed=3, stages=[stage])


def test_a_run_keeps_the_name_that_it_began_with(tmp_path) -> None:
    run_dir = tmp_path / "began"
    run_dir.mkdir()
    note_stages(run_dir, _experiment())
    noted = json.loads((run_dir / "stages.json").read_text())
    assert noted == {
        "format": 1,
        "name": "began",
        "threat": {"norm": "linf", "epsilon": 0.1},
        "seed": 3,
        "stages": [
            {
                "name": "student",
                "distiller": "print",
                "teachers": {"clean": "a.keras"},
                "initial": None,
                "epochs": 6,
            }
        ],
    }
    moved = shutil.move(run_dir, tmp_path / "elsewhere")
    note_stages(moved, _experiment(epochs=7))
    again = json.loads((moved / "stages.json").read_text())
    assert again["name"] == "began" and again["stages"][0]["epochs"] == 7


def _unfinished(run_dir):
    fabricated.run(run_dir)
    shutil.rmtree(run_dir / "evaluation")
    (run_dir / "student" / "stage.json").unlink()
    return run_dir / "student", run_dir / "report" / "index.html"


def test_each_epoch_writes_the_page_outside_the_measured_time(
    tiny_run_file, tmp_path, monkeypatch, capsys
) -> None:
    """A clock that only the page moves: no epoch is to have taken any time.

    It is there, and announced, before the first epoch.
    """
    clock, seen = [0.0], []

    def refresh(run_dir) -> None:
        timing = run_dir / "clean_teacher" / "timing.jsonl"
        seen.append(len(timing.read_text().splitlines()) if timing.exists() else 0)
        clock[0] += 100

    monkeypatch.setattr(stage_run.run_page, "refresh", refresh)
    monkeypatch.setattr(recorder.time, "perf_counter", lambda: clock[0])
    gin_files.parse([str(tiny_run_file)], ["Experiment.stages = ('clean_teacher',)"])
    experiment_run.run(gin_files.experiment(), tmp_path / "run", gin_files.text())
    path = tmp_path / "run" / "clean_teacher" / "timing.jsonl"
    assert seen[:3] == [0, 1, 2]
    page = tmp_path / "run" / "report" / "index.html"
    assert f"Page, renewed after each epoch: {page}\n" in capsys.readouterr().err
    seconds = [json.loads(row)["seconds"] for row in path.read_text().splitlines()]
    assert seconds == pytest.approx([0, 0])


def test_a_damaged_plan_is_written_anew(tmp_path) -> None:
    for text in ("{", "[]", "\udcff"):
        (tmp_path / "stages.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        note_stages(tmp_path, _experiment())
        assert json.loads((tmp_path / "stages.json").read_text())["name"] == tmp_path.name


def test_an_audit_of_an_earlier_training_is_in_no_report(tmp_path) -> None:
    fabricated.run(tmp_path)
    (tmp_path / "student" / "student.keras").write_bytes(b"trained anew")
    stages = [types.SimpleNamespace(**vars(_experiment().stages[0]))]
    stages.append(types.SimpleNamespace(**{**vars(stages[0]), "name": "clean_teacher"}))
    experiment = types.SimpleNamespace(**{**vars(_experiment()), "stages": stages, "epsilon": 0.1})
    written = report.write_report(tmp_path, experiment).read_text()
    assert "* **clean_teacher**: " in written and "* **student**: " not in written
    net = types.SimpleNamespace(name="net", trainable_variables=[])
    data = {"name": "made_up", "label_names": ["a"], "image_shape": [8, 8, 3]}
    known = [
        model_card.metadata(tmp_path, experiment, name, data, net)["evaluation"]
        for name in ("clean_teacher", "student")
    ]
    assert known[0] is not None and known[1] is None


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("raise SystemExit('no memory is left')", "no memory is left"),
    ],
)
def test_a_stage_whose_process_died_is_noted_by_its_parent(tmp_path, code, line) -> None:
    folder, page = _unfinished(tmp_path)
    command = [sys.executable, "-S", "-c", code]
    todo = [jobs.Job("student", [*command, "mtard_tf.bin.train"]), jobs.Job("audit", command)]
    with pytest.raises(jobs.JobError):
        side_by_side.run_jobs(tmp_path, todo, 1)
    assert json.loads((folder / "problem.json").read_text())["kind"] == "failed"
    assert f"student failed ({line})" in page.read_text()
    assert not (tmp_path / "audit").exists()
    (folder / "problem.json").unlink()
    side_by_side.run_jobs(tmp_path, [jobs.Job("x", [sys.executable, "-S", "-c", ""])], 1)
    assert ">training</span>" in page.read_text()


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (Preempted(7), "stopped", "Preempted (SIGTERM): checkpointed at step 7."),
        (ValueError("the loss is nan\nat step 3"), "failed", "the loss is nan at step 3"),
        (MemoryError(), "failed", "MemoryError"),
    ],
)
def test_a_stage_that_ends_early_says_so_until_it_goes_on(tmp_path, error, kind, line) -> None:
    folder, page = _unfinished(tmp_path)
    with pytest.raises(type(error)), run_page.noting(folder):
        raise error
    text = page.read_text()
    assert f'<span class="badge {kind}">{kind}</span> <strong>student</strong>' in text
    assert line in text
    with run_page.noting(folder):
        assert ">training</span>" in page.read_text()
    assert not (folder / "problem.json").exists()
    assert ">training</span>" in page.read_text()


class UnavailableError(Exception):
    """Named as TensorFlow's."""


def test_what_the_same_command_resumes_is_no_failure(tmp_path, monkeypatch) -> None:
    folder, page = _unfinished(tmp_path)
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(UnavailableError), run_page.noting(folder):
        raise UnavailableError("Socket closed")
    assert ">stopped</span>" in page.read_text() and "Another worker has ended" in page.read_text()
    monkeypatch.setattr(run_page, "received", lambda: True)
    with pytest.raises(RuntimeError), run_page.noting(folder):
        raise RuntimeError("generator raised")
    assert "Preempted (SIGTERM): no file is incomplete." in page.read_text()


def test_a_full_disk_does_not_hide_the_error(tmp_path, monkeypatch) -> None:
    folder, _ = _unfinished(tmp_path)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(run_page.files, "write_json", full)
    with pytest.raises(ValueError, match="the loss is nan"), run_page.noting(folder):
        raise ValueError("the loss is nan")


def test_without_its_stages_a_run_has_no_page(tmp_path, capsys) -> None:
    run_page.refresh(tmp_path)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""
