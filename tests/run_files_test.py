"""Files of a run that are damaged or of another kind: one line that names the file, no crash."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from mtard_tf import __version__
from mtard_tf.reporting import run_files
from mtard_tf.reporting.run_files import RunFileError

STAGE = {
    "format": 1,
    "stage": "net",
    "teachers": {},
    "sources": {},
    "identity": {},
    "selected": "best",
    "temperature": 2.0,
    "best": {"epoch": 1, "validation_clean": 0.5},
}
REPORT = {
    "format": 1,
    "suite": {},
    "crafted_on": {},
    "attacks": {"pgd": {"robust_accuracy": 0.25, "w_robust": 0.5}},
    "worst_case": {"robust_accuracy": 0.25},
    "threat": {"norm": "linf", "epsilon": 0.1},
    "clean": 0.75,
    "examples": 4,
}


def _file(tmp_path: pathlib.Path, content: object) -> pathlib.Path:
    path = tmp_path / "file"
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(data)
    return path


def _says(read, path: pathlib.Path, reason: str) -> None:
    with pytest.raises(RunFileError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} is damaged ({reason}")
    assert str(caught.value).endswith("or remove it and run again what wrote it.")
    assert "\n" not in str(caught.value)


def test_what_is_whole_is_read_as_it_was_written(tmp_path):
    assert run_files.stage(_file(tmp_path, STAGE)) == STAGE
    assert run_files.report(_file(tmp_path, REPORT)) == REPORT


@pytest.mark.parametrize("read", [run_files.stage, run_files.report])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"stage": "net', "Unterminated string"),
        (b"\xff", "'utf-8' codec"),
        (b"[" * 100_000, "maximum recursion depth"),
        ([1], "it has '[1]' where names and values"),
        (3, "it has '3' where names and values"),
    ],
)
def test_what_is_no_mapping(read, content, reason, tmp_path):
    _says(read, _file(tmp_path, content), reason)


@pytest.mark.parametrize(
    ("read", "whole", "change", "reason"),
    [
        (run_files.stage, STAGE, {"format": None}, "format is 'None'"),
        (run_files.stage, STAGE, {"stage": None}, "stage is 'None'"),
        (run_files.stage, STAGE, {"teachers": [1]}, "teachers is '[1]'"),
        (run_files.stage, STAGE, {"selected": "first"}, "it has 'None'"),
        (run_files.stage, STAGE, {"sources": None}, "sources is 'None'"),
        (run_files.stage, STAGE, {"identity": {"data": 3}}, "'3' where names and"),
        (run_files.stage, STAGE, {"best": {"epoch": 1}}, "validation_clean is 'None'"),
        (run_files.stage, STAGE, {"temperature": "hot"}, "temperature is 'hot'"),
        (run_files.report, REPORT, {"attacks": ["pgd"]}, "attacks is"),
        (run_files.report, REPORT, {"attacks": {"pgd": 0.5}}, "it has '0.5'"),
        (run_files.report, REPORT, {"worst_case": {}}, "robust_accuracy is 'None'"),
        (run_files.report, REPORT, {"clean": "all"}, "clean is 'all'"),
    ],
)
def test_a_value_of_another_kind(read, whole, change, reason, tmp_path):
    _says(read, _file(tmp_path, whole | change), reason)


def test_another_format_is_refused_in_one_line(tmp_path):
    for read, whole in ((run_files.stage, STAGE), (run_files.report, REPORT)):
        path = _file(tmp_path, whole | {"format": 2})
        with pytest.raises(RunFileError) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path} has format 2, and mtard_tf {__version__} reads format 1; use the "
            "version that wrote it, or remove it and run again what wrote it."
        )


def test_a_damaged_report_counts_as_none(tmp_path):
    said: list[str] = []
    path = _file(tmp_path, b"{")
    assert run_files.sound_report(path, said.append) == {}
    assert said == [f"{path} is damaged; audited anew."]


def test_rows_and_the_one_that_is_being_written(tmp_path):
    path = _file(tmp_path, b'{"kind": "step"}\n{"kind": "epo')
    assert run_files.rows(path, {"kind": str}) == [{"kind": "step"}]
    assert run_files.rows(tmp_path / "absent", {"kind": str}) == []
    for content, reason in (
        (b"{'kind'}\n", "Expecting property name"),
        (b"[1]\n", "it has '[1]'"),
        (b'{"kind": 3}\n', "kind is '3'"),
    ):
        _says(lambda p: run_files.rows(p, {"kind": str}), _file(tmp_path, content), reason)


def test_which_examples_are_correct(tmp_path):
    path, stands = tmp_path / "examples.npz", np.array([True, False])

    def read(path):
        return run_files.correct(path, ["clean", "pgd"], 2)

    np.savez(path, clean=stands, pgd=~stands, more=np.ones(3))
    found = read(path)
    assert list(found) == ["clean", "pgd"]
    np.testing.assert_array_equal(list(found.values()), [[True, False], [False, True]])
    np.savez(path, clean=stands)
    _says(read, path, "'pgd is not a file in the archive'")
    np.savez(path, clean=stands, pgd=np.ones(2))
    _says(read, path, "pgd is float64 (2,), not 2 bool")
    np.savez(path, clean=stands, pgd=np.array([print, print]))
    _says(read, path, "Object arrays cannot be loaded")
    path.write_bytes(path.read_bytes()[:100])
    _says(read, path, "File is not a zip file")
