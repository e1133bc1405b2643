"""The page of a run while it trains: what is noted of its stages, and of one that ended early."""

from __future__ import annotations

import json
import shutil
import types

import fabricated_pages as fabricated
import pytest

from mtard_tf.processes.preemption import Preempted
from mtard_tf.reporting import run_page
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


def test_each_epoch_writes_the_page(tmp_path) -> None:
    _, page = _unfinished(tmp_path)
    run_page.refresh(tmp_path)
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
        pass
    assert not (folder / "problem.json").exists()
    assert ">training</span>" in page.read_text()


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
