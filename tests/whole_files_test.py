"""Files that are there whole or not at all, whoever else writes them and wherever a kill comes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from mtard_tf import files
from mtard_tf.auditing.batch_results import ResultsFile
from mtard_tf.exporting import export, proof, saved_model
from mtard_tf.running.recorder import Recorder


def test_a_block_that_fails_leaves_what_was_there(tmp_path) -> None:
    path = tmp_path / "report.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(OSError, match="disk full"), files.replacing(path) as partial:
        partial.write_text("{")
        raise OSError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert files.read_json(path) == {"format": 1, "a": 1}


def test_two_writers_of_one_file_do_not_see_each_other(tmp_path) -> None:
    path = tmp_path / "report.json"
    with files.replacing(path) as first, files.replacing(path) as second:
        assert first != second and first.suffix == second.suffix == ".json"
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # its block ended last
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = files._machine()
    names = {
        f".a.partial-{here}-{gone.pid}-0.json": False,
        f".a.partial-{here}-{os.getppid()}-0.json": True,  # a process that lives
        ".a.partial-00000000-1-0.json": True,  # of another machine, a moment old
        ".a.partial-00000000-1-1.json": False,  # a day old
        f".ab.partial-{here}-{gone.pid}-0.json": True,  # of another file
    }
    for name in names:
        (tmp_path / name).write_text("{")
    old = time.time() - 25 * 3600
    os.utime(tmp_path / ".a.partial-00000000-1-1.json", (old, old))
    files.write_json(tmp_path / "a.json", {})
    kept = {name for name, stays in names.items() if stays}
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", *kept}


def test_a_folder_left_by_a_killed_process_is_removed(tmp_path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".model.partial-{files._machine()}-{gone.pid}-3"
    (left / "variables").mkdir(parents=True)
    with files.replacing(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "saved_model.pb").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_two_exports_at_once_are_two_versions(tmp_path, monkeypatch) -> None:
    """The second begins and ends while the first is proven."""
    nested: list[pathlib.Path] = []
    monkeypatch.setattr(saved_model, "_write", lambda *_: None)
    images = np.zeros((1, 2, 2, 1), np.uint8)

    def prove(name, folder, *_):
        if not nested:
            nested.append(folder)
            nested.append(export.export(student, (), tmp_path, images))

    def student(images, training):
        return images[:, 0, 0]

    monkeypatch.setattr(proof, "prove", prove)
    assert export.export(student, (), tmp_path, images) == tmp_path / "2"
    assert nested[1] == tmp_path / "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_version_taken_between_the_look_and_the_rename(tmp_path, monkeypatch) -> None:
    partial = tmp_path / "partial"
    partial.mkdir()
    rename = pathlib.Path.rename

    def late(self, target):
        monkeypatch.setattr(pathlib.Path, "rename", rename)
        (target / "variables").mkdir(parents=True)  # another process was quicker
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", late)
    assert export._numbered(partial, tmp_path) == tmp_path / "2"
    assert (tmp_path / "1" / "variables").exists()


def _record(path: pathlib.Path, **inputs: str) -> tuple[ResultsFile, list[str]]:
    said: list[str] = []
    return ResultsFile(path, inputs or {"model": "m"}, said.append), said


def test_an_audit_that_resumes_never_takes_back_what_is_on_disk(tmp_path, monkeypatch) -> None:
    path = tmp_path / "progress.jsonl"
    record, _ = _record(path)
    for batch in range(3):
        record.put("clean", "s", batch, np.array([True]))
    record.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "clean", "sett')
    opened = []

    def spy(self, mode="r", *args, _open=pathlib.Path.open, **kwargs):
        opened.append(mode)
        return _open(self, mode, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "open", spy)
    record, said = _record(path)
    assert not [mode for mode in opened if "w" in mode]
    assert path.read_bytes() == whole  # at this moment a kill loses nothing
    record.put("clean", "s", 3, np.array([False]))
    record.close()
    assert path.read_bytes().startswith(whole)
    assert said == ["resumed; batches already done: clean 3."]
    record, said = _record(path)
    record.close()
    assert said == ["resumed; batches already done: clean 4."]


@pytest.mark.parametrize("tail", [b"\0\0\0\n", b"17\n", b'{"model": "m"}\n', b"\xff\xfe{}\n"])
def test_what_is_no_line_of_a_batch_is_cut_off(tmp_path, tail) -> None:
    path = tmp_path / "progress.jsonl"
    record, _ = _record(path)
    record.put("clean", "s", 0, np.array([True]))
    record.close()
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    record, said = _record(path)
    record.close()
    assert path.read_bytes() == whole and said[0].endswith("clean 1.")


def test_an_input_that_there_is_no_more_is_a_change(tmp_path) -> None:
    path = tmp_path / "progress.jsonl"
    record, _ = _record(path, model="m", temperature="20")
    record.put("clean", "s", 0, np.array([True]))
    record.close()
    record, said = _record(path, model="m")
    assert said == ["changed since the last run: temperature; its results are not used."]
    assert record.get("clean", "s", 0) is None
    record.close()
    assert path.read_text() == '{"model": "m"}\n'


def test_a_row_of_times_that_a_kill_cut_short_is_cut_off(tmp_path) -> None:
    (tmp_path / "timing.jsonl").write_text('{"epoch": 1}\n{"epo')
    Recorder(tmp_path).close()
    assert [json.loads(x) for x in (tmp_path / "timing.jsonl").read_text().splitlines()] == [
        {"epoch": 1}
    ]
