"""The table of `mtard-compare`, from runs whose numbers are made up, and one real run."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from mtard_tf import files
from mtard_tf.attacks.apgd import APGDCrossEntropy, APGDTargeted
from mtard_tf.attacks.pgd import PGD
from mtard_tf.auditing.suite import Suite
from mtard_tf.commands import compare, requests
from mtard_tf.comparing import audits, comparison, temperatures, text
from mtard_tf.comparing.audits import ComparisonError
from mtard_tf.comparing.statistics import over_seeds, paired_difference, w_robust_by_example
from mtard_tf.models.model_files import file_digest
from mtard_tf.processes.jobs import JobError
from mtard_tf.reporting import tables

ROOT = pathlib.Path(__file__).parents[1]


def _bits(text: str) -> np.ndarray:
    return np.array([character == "1" for character in text])


# Stage -> which of eight images are right clean, under fgsm, under pgd.
OUTCOMES = {
    "teacher": ("11111110", "11111100", "11111000"),
    "a_b_s0": ("11110000", "11000000", "10000000"),
    "a_b_s1": ("11111100", "11110000", "10000001"),
    "c": ("11111111", "00000000", "11000000"),
}
STAGES = [*OUTCOMES, "a_b_s2"]


def _fabricate(run_dir: pathlib.Path, name: str, outcomes, teachers=(), **more) -> None:
    """A finished, audited stage: three epochs of 9, 4 and 6 seconds."""
    clean, fgsm, pgd = map(_bits, outcomes)
    report = {
        "dataset": "made_up",
        "split": "test",
        "examples": len(clean),
        "threat": {"norm": "linf", "epsilon": 0.1},
        "model": name,
        "parameters": 1200,
        "clean": clean.mean(),
        "attacks": {
            "fgsm": {"robust_accuracy": fgsm.mean()},
            "pgd": {"robust_accuracy": pgd.mean()},
        },
        "worst_case": {"robust_accuracy": (clean & fgsm & pgd).mean()},
        "findings": [],
        "suite": {},
        "crafted_on": {},
        **more.pop("report", {}),
    }
    stage = {
        "stage": name,
        "teachers": {str(i): t for i, t in enumerate(teachers)},
        **{"sources": {}, "identity": {}, "temperature": 1.0, "selected": "best"},
        "best": {"epoch": 1, "validation_clean": 0.5},
        **more,
    }
    files.write_json(run_dir / name / "stage.json", stage)
    files.write_json(run_dir / "evaluation" / name / "report.json", report)
    np.savez(run_dir / "evaluation" / name / "examples.npz", clean=clean, fgsm=fgsm, pgd=pgd)
    _timing(run_dir / name, *({"seconds": s} for s in (9.0, 4.0, 6.0)))


def _timing(folder: pathlib.Path, *rows: dict) -> None:
    lines = [json.dumps({"partial": False, "validated": True, **row}) for row in rows]
    files.write_text(folder / "timing.jsonl", "".join(f"{line}\n" for line in lines))


@pytest.fixture
def made_up(tmp_path) -> pathlib.Path:
    for name, outcomes in OUTCOMES.items():
        _fabricate(tmp_path, name, outcomes, () if name == "teacher" else ("teacher",))
    return tmp_path


def _compare(run_dir: pathlib.Path, baseline: str | None = None) -> dict:
    return comparison.compare(audits.load(run_dir, STAGES), STAGES, baseline)


def test_rows_group_replicates_and_begin_with_teachers(made_up):
    compared = _compare(made_up)
    rows = compared["rows"]
    assert [row["row"] for row in rows] == ["teacher", "a_b", "c"]
    assert [row["teacher"] for row in rows] == [True, False, False]
    assert [row["stages"] for row in rows] == [["teacher"], ["a_b_s0", "a_b_s1"], ["c"]]
    assert compared["missing"] == ["a_b_s2"]
    # Clean 4/8 and 6/8: mean 5/8, deviation sqrt((1/8)^2 + (1/8)^2) = 0.17678 with n - 1 = 1.
    # Fgsm 2/8 and 4/8, so W-Robust 3/8 and 5/8. Pgd 2/8 for the second, but its last image is not
    # right when clean: all attacks together leave 1/8 in both, W-Robust 2.5/8 and 3.5/8.
    row = rows[1]
    assert row["clean"] == {
        "mean": pytest.approx(0.625),
        "deviation": pytest.approx(0.1767767),
        "values": [0.5, 0.75],
    }
    assert row["robust"]["fgsm"]["values"] == pytest.approx([0.25, 0.5])
    assert row["w_robust"]["fgsm"]["mean"] == pytest.approx(0.5)
    assert row["robust"]["worst_case"]["values"] == pytest.approx([0.125, 0.125])
    assert row["w_robust"]["worst_case"]["values"] == pytest.approx([0.3125, 0.4375])
    assert row["seconds_per_epoch"]["mean"] == pytest.approx(4.0)  # the fastest of 9, 4 and 6
    assert rows[2]["clean"]["deviation"] is None
    assert rows[2]["robust"]["worst_case"]["mean"] == pytest.approx(0)


def test_the_worst_case_is_over_attacks_that_all_rows_share(made_up):
    """A surrogate has no transfer attack on itself; it must not look the better for it."""
    report = files.read_json(made_up / "evaluation" / "teacher" / "report.json")
    del report["attacks"]["fgsm"]
    files.write_json(made_up / "evaluation" / "teacher" / "report.json", report)
    compared = _compare(made_up, "c")
    assert compared["attacks"] == ["pgd", "fgsm"] and compared["worst_case_of"] == ["pgd"]
    assert "fgsm" not in compared["rows"][0]["w_robust"]
    assert set(compared["rows"][0]["against_baseline"]) == {"pgd", "worst_case"}
    worst = compared["rows"][2]["robust"]["worst_case"]
    assert worst["mean"] == pytest.approx(2 / 8)  # pgd of c
    written = text.markdown(compared, [])
    assert "| teacher (teacher) | 1 | 1,200 | 87.50 | 62.50 |  | 62.50 | 4.0 |" in written
    assert "Not in the worst case: fgsm was not run on teacher.\n" in written


def test_paired_difference_of_examples():
    """Row 1, 1 and baseline 0, 1 on two images: drawn twice, the differences are 1 and 0.

    Their mean is 0, 0.5 or 1 with probability 1/4, 1/2, 1/4: so the middle 95 % is 0 to 1.
    """
    row, baseline = np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]])
    assert paired_difference(row, baseline) == {
        "difference": pytest.approx(0.5),
        "interval": pytest.approx([0.0, 1.0]),
        "excludes_zero": False,
    }
    # An image harder for both makes no difference less certain: 0.5 on each of 30 images.
    baseline = np.array([[0.0, 0.5] * 15])
    found = paired_difference(baseline + 0.5, baseline)
    assert found["interval"] == pytest.approx([0.5, 0.5]) and found["excludes_zero"]
    np.testing.assert_array_equal(paired_difference(baseline, baseline)["interval"], [0.0, 0.0])


def test_paired_difference_over_seeds():
    """Two replicates 0.4 apart, each the same on all images: only the seeds are uncertain.

    Drawn twice, their mean is 0.5, 0.7 or 0.9 with probability 1/4, 1/2, 1/4; the baseline's is
    0.6. One replicate has no seeds to draw from.
    """
    row = np.array([[0.5] * 10, [0.9] * 10])
    baseline = np.full((1, 10), 0.6)
    found = paired_difference(row, baseline)
    assert found["difference"] == pytest.approx(0.1)
    assert found["interval"] == pytest.approx([-0.1, 0.3])
    assert not found["excludes_zero"]
    assert paired_difference(row[:1], baseline)["interval"] == pytest.approx([-0.1, -0.1])
    assert paired_difference(row[:1], baseline)["excludes_zero"]


def test_the_bootstrap_is_what_drawing_images_one_by_one_gives():
    random = np.random.RandomState(3)
    row, baseline = random.randint(0, 3, (3, 200)) / 2, random.randint(0, 3, (2, 200)) / 2
    found = paired_difference(row, baseline, seed=1)
    assert found == paired_difference(row, baseline, seed=1)
    assert found != paired_difference(row, baseline, seed=2)
    slow = []
    for _ in range(4000):
        images = random.randint(0, 200, 200)
        seeds, others = random.randint(0, 3, 3), random.randint(0, 2, 2)
        slow.append(row[seeds][:, images].mean() - baseline[others][:, images].mean())
    np.testing.assert_allclose(found["interval"], np.percentile(slow, (2.5, 97.5)), atol=0.01)


def test_parts_and_spread():
    parts = w_robust_by_example(_bits("1100"), _bits("1000"))
    np.testing.assert_array_equal(parts, [1, 0.5, 0, 0])
    assert over_seeds([1.0]) == {"mean": pytest.approx(1), "deviation": None, "values": [1.0]}
    # Mean 2, squares 1 + 0 + 1 over n - 1 = 2.
    assert over_seeds([1.0, 2.0, 3.0])["deviation"] == pytest.approx(1)


def test_writes_markdown_csv_latex_json_and_a_figure(made_up):
    lines = compare.write(made_up, STAGES, "c", "pgd")
    folder = made_up / "comparison"
    # c: clean 1, worst case 0, so 50 %; a_b has 37.5 %, and a teacher does not count.
    assert lines[0] == ("Best W-Robust in the worst case: c, 50.00%; it is the baseline itself.")
    assert lines[1] == "Not in the table, as not audited: a_b_s2."
    table = (folder / "table.md").read_text()
    assert (
        "| a_b | 2 | 1,200 | 62.50 ± 17.68 | 37.50 ± 17.68 | 18.75 ± 8.84 | 12.50 ± 0.00 | "
        "4.0 ± 0.0 |" in table
    )
    assert "| teacher (teacher) | 1 | 1,200 | 87.50 | 75.00 | 62.50 | 62.50 | 4.0 |" in table
    assert "## W-Robust against c, in points; 95 % intervals" in table
    assert re.search(r"\| a_b \| \+0\.00 \([-+.\d]+ to [-+.\d]+\) \|", table)
    assert "![trade off](trade_off.png)" in table
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [row["row"] for row in rows] == ["teacher", "a_b", "c"]
    assert rows[1]["clean_mean"] == "0.625" and rows[1]["replicates"] == "2"
    assert float(rows[1]["w_robust_worst_case_mean"]) == pytest.approx(0.375)
    assert float(rows[1]["difference_worst_case"]) == pytest.approx(-0.125)
    assert rows[2]["clean_deviation"] == "" and rows[2]["difference_pgd"] == ""
    latex = (folder / "table.tex").read_text()
    assert r"a\_b & 2 & 1,200 & 62.50 $\pm$ 17.68 & " in latex
    assert latex.count(r"\begin{tabular}{lrrr") == latex.count(r"\end{tabular}") == 3
    assert r"\noindent made\_up, first 8 images of the test split; linf" in latex
    assert "* The interval excludes zero." in latex and "\\* The interval" in table
    assert (folder / "trade_off.png").read_bytes()[:4] == b"\x89PNG"
    stored = files.read_json(folder / "comparison.json")
    assert stored["baseline"] == "c" and stored["temperatures"] == []
    assert not (folder / "temperatures.md").exists()


def test_a_trade_off_curve_is_written_with_what_lies_above_it(made_up):
    # Clean 4/8 and 8/8, robust 1/8 and 0/8 in the worst case; "d" is at 6/8 and 2/8.
    _fabricate(made_up, "low", ("11110000", "11000000", "10000000"))
    _fabricate(made_up, "d", ("11111100", "11110000", "11000000"))
    names, through = [*STAGES, "low", "d"], ("c", "low")
    lines = compare.write(made_up, names, None, "fgsm", through)
    # The teacher, at 7/8, is of another size. Fgsm leaves a_b 3/8 on average at 5/8, d 4/8.
    assert re.fullmatch(
        r"Robust accuracy \(fgsm\) above the curve through low, c at equal clean accuracy, in "
        r"points: a_b \+18\.75 \([-+.\d]+ to [-+.\d]+\)( \*)?; d \+37\.50 \([^)]*\) \*\.",
        lines[1],
    )
    folder = made_up / "comparison"
    assert lines[1] in (folder / "table.md").read_text()
    stored = files.read_json(folder / "comparison.json")["curve"]
    assert stored["curve"] == ["low", "c"] and stored["heights"]["d"]["height"] == 0.375
    page = (folder / "index.html").read_text()
    assert "above the curve through low, c" in page
    compare.write(made_up, names)
    assert "curve" not in files.read_json(folder / "comparison.json")
    with pytest.raises(ComparisonError, match="^The curve goes through a, which has no audit"):
        compare.write(made_up, [*names, "a"], None, "fgsm", ("a", "c"))


def test_the_summary_says_how_far_the_leader_is_from_the_baseline(made_up):
    compared = _compare(made_up, "a_b")
    found = compared["rows"][2]["against_baseline"]["worst_case"]
    assert found["difference"] == pytest.approx(0.125) and not found["excludes_zero"]
    assert re.fullmatch(
        r"Best W-Robust in the worst case: c, 50\.00%, \+12\.50 points against a_b "
        r"\(95 %, one seed: -[\d.]+ to \+[\d.]+, which does not exclude zero\)\.",
        text.summary(compared)[0],
    )
    assert text.summary(_compare(made_up))[0].endswith("case: c, 50.00%.")


def test_latex_escapes():
    assert tables.escape("a_b 50% & #1 ${x}^~\\ ±") == (
        r"a\_b 50\% \& \#1 \$\{x\}\textasciicircum{}\textasciitilde{}\textbackslash{} $\pm$"
    )


def test_mistakes_give_one_line(made_up, tmp_path):
    with pytest.raises(ComparisonError, match="^Unknown row 'a_c'; did you mean 'a_b'?"):
        _compare(made_up, "a_c")
    with pytest.raises(ComparisonError, match="^No stage is both trained and audited; give --jobs"):
        comparison.compare([], STAGES)
    with pytest.raises(
        ComparisonError, match="^There is no attack 'pdg' to plot; the suite has fg"
    ):
        compare.write(made_up, STAGES, None, "pdg")
    with pytest.raises(
        ComparisonError, match="^The baseline d has no audit and none is planned; train"
    ):
        comparison.compare(audits.load(made_up, STAGES), [*STAGES, "d_s0"], "d")
    partly = {"report": {"attacks": {"pgd": {"robust_accuracy": 0.25}}}}
    _fabricate(tmp_path / "partly", "a_s0", OUTCOMES["c"])
    _fabricate(tmp_path / "partly", "a_s1", OUTCOMES["c"], **partly)
    with pytest.raises(ComparisonError, match="^No row has all its replicates attacked with fgsm;"):
        compare.write(tmp_path / "partly", ["a_s0", "a_s1"], None, "fgsm")
    _fabricate(made_up, "c", ("111", "110", "100"))
    with pytest.raises(
        ComparisonError, match="^The audits differ in examples: teacher has 8, c has 3; audit them"
    ):
        _compare(made_up)


def test_transfer_attacks_of_other_nets_are_in_no_worst_case(tmp_path):
    for name, crafted in (("a", "net 1"), ("b", "net 2")):
        _fabricate(tmp_path, name, OUTCOMES["c"], report={"crafted_on": {"pgd": crafted}})
    compared = comparison.compare(audits.load(tmp_path, ["a", "b"]), ["a", "b"], "a")
    assert compared["worst_case_of"] == ["fgsm"]
    assert set(compared["rows"][1]["against_baseline"]) == {"fgsm", "worst_case"}
    assert "Not in the worst case: pgd was crafted on 2 different nets." in text.latex(compared)
    assert compared["not_in_worst_case"] == {"pgd": "pgd was crafted on 2 different nets"}
    in_table = compared["rows"][0]["robust"]["pgd"]
    assert in_table["mean"] == pytest.approx(0.25)


def test_no_attack_in_common_is_no_worst_case(tmp_path):
    for name, attack in (("a", "fgsm"), ("b", "pgd")):
        only = {"attacks": {attack: {"robust_accuracy": 0.25}}}
        _fabricate(tmp_path, name, OUTCOMES["c"], report=only)
    with pytest.raises(
        ComparisonError, match="^No attack was run alike on all rows, .*: fgsm was not"
    ):
        comparison.compare(audits.load(tmp_path, ["a", "b"]), ["a", "b"])


def test_an_epoch_that_was_resumed_gives_no_time(tmp_path):
    _fabricate(tmp_path, "c", OUTCOMES["c"])
    rows = (
        {"seconds": 1.0, "partial": True},
        {"seconds": 5.0},
        {"seconds": 2.0, "validated": False},
        {"seconds": 3.0},
    )
    _timing(tmp_path / "c", *rows)
    assert audits.load(tmp_path, ["c"])[0].seconds == pytest.approx(3)


def test_an_audit_of_a_student_that_was_trained_again_is_none(tmp_path):
    student = tmp_path / "c" / "student.keras"
    student.parent.mkdir()
    student.write_bytes(b"as it was audited")
    _fabricate(tmp_path, "c", OUTCOMES["c"], report={"student": file_digest(student)})
    assert [one.name for one in audits.load(tmp_path, ["c"])] == ["c"]
    student.write_bytes(b"trained again")
    assert audits.load(tmp_path, ["c"]) == []


SWEEP = {  # stage -> teachers, temperature, depth
    "t1_teacher_s0": ((), None),
    "t1_step1_s0": (("t1_teacher_s0",), (1.0, 0)),
    "t1_step1_s1": (("t1_teacher_s0",), (1.0, 0)),
    "t1_step2_s0": (("t1_step1_s0",), (1.0, 1)),
    "t40_step1_s0": (("there.keras",), (40.0, 0)),
    "ard": (("t1_teacher_s0",), None),  # of another temperature, and in no sweep
}


def _swept(point: tuple[float, int] | None) -> dict:
    if point is None:
        return {"temperature": 30.0}
    return {"temperature": point[0], "sweep": {"temperature": point[0], "depth": point[1]}}


def test_a_sweep_over_temperatures(tmp_path):
    for place, (name, (teachers, point)) in enumerate(SWEEP.items()):
        measured = {"sum_of_logits_gradient": {"mean": float(place), "examples": 8}}
        correct = ("1" * (place + 1) + "0" * (7 - place), "10000000", "10000000")
        _fabricate(
            tmp_path, name, correct, teachers, report={"measures": measured}, **_swept(point)
        )
    compare.write(tmp_path, list(SWEEP))
    points = files.read_json(tmp_path / "comparison" / "comparison.json")["temperatures"]
    # The second seed of the step that another goes on from is its replicate.
    assert [(p["temperature"], p["depth"], p["stages"]) for p in points] == [
        (1.0, 0, ["t1_step1_s0", "t1_step1_s1"]),
        (40.0, 0, ["t40_step1_s0"]),
        (1.0, 1, ["t1_step2_s0"]),
    ]
    # Clean 2/8 and 3/8, gradients 1 and 2.
    assert points[0]["measures"]["clean"]["values"] == pytest.approx([0.25, 0.375])
    assert points[0]["measures"]["sum_of_logits_gradient"]["mean"] == pytest.approx(1.5)
    assert "cw_l2_distortion" not in points[0]["measures"]
    text = (tmp_path / "comparison" / "temperatures.md").read_text()
    assert "| temperature | depth | n | clean | sum_of_logits_gradient |" in text
    assert "| 1 | 0 | 2 | 0.3125 ± 0.0884 | 1.5000 ± 0.7071 |" in text
    assert "worst_case |" in text and "0.1250 ± 0.0000 |" in text
    for name in ("accuracy", "sensitivity", "robustness"):
        figure = f"{name}_by_temperature.png"
        assert (tmp_path / "comparison" / figure).read_bytes()[:4] == b"\x89PNG"
        assert figure in (tmp_path / "comparison" / "table.md").read_text()
    compared = _compare_all(tmp_path, list(SWEEP))
    assert [row["row"] for row in compared["rows"] if row["teacher"]] == ["t1_teacher"]


def test_methods_of_other_temperatures_are_no_sweep(tmp_path):
    for name, temperature in (("ard", 30.0), ("rslad", 1.0)):
        _fabricate(tmp_path, name, OUTCOMES["c"], ("robust.keras",), temperature=temperature)
    assert temperatures.by_temperature(audits.load(tmp_path, ["ard", "rslad"])) == []


def _compare_all(run_dir: pathlib.Path, names: list[str]) -> dict:
    return comparison.compare(audits.load(run_dir, names), names)


def test_a_row_that_cannot_be_believed_never_leads(tmp_path):
    """A net that names one class always survives every attack where it is right."""
    void = {"findings": [{"name": "constant_prediction", "severity": "void"}]}
    _fabricate(tmp_path, "constant_s0", ("11111110",) * 3, report=void)
    _fabricate(tmp_path, "constant_s1", ("11111110",) * 3)
    _fabricate(tmp_path, "b", ("11110000", "11000000", "10000000"))
    compared = _compare_all(tmp_path, ["constant_s0", "constant_s1", "b"])
    assert [row["severity"] for row in compared["rows"]] == ["void", "none"]
    lines = text.summary(compared)
    assert lines[0] == "Best W-Robust in the worst case: b, 31.25%."
    assert lines[1] == "Void, with a net that is no better than chance: constant."
    assert "| constant (void) | 2 | 1,200 |" in text.markdown(compared, [])
    only = _compare_all(tmp_path, ["constant_s0", "constant_s1"])
    assert text.summary(only)[0] == (
        "No row can be believed: every one has a net whose audit is masked or void."
    )


def test_a_masked_row_does_not_lead_and_is_named(tmp_path):
    masked = {"findings": [{"name": "no_gradient", "severity": "masked"}]}
    _fabricate(tmp_path, "hidden", ("11111110",) * 3, report=masked)
    _fabricate(tmp_path, "b", ("11110000", "11000000", "10000000"))
    compared = _compare_all(tmp_path, ["hidden", "b"])
    assert text.summary(compared) == [
        "Best W-Robust in the worst case: b, 31.25%.",
        "Masked, so that robust accuracies are upper bounds: hidden.",
    ]
    assert "| hidden (masked) | 1 | 1,200 |" in text.markdown(compared, [])


class _Stop(Exception):
    pass


class _Stages:
    """An experiment of which only the stages' names are asked."""

    def __init__(self, names) -> None:
        self.stages = [types.SimpleNamespace(name=name) for name in names]


def test_audits_wait_for_their_student_and_their_surrogate(tiny_run_file, tmp_path, monkeypatch):
    seen = []

    def listen(listed, count, logs, pools):
        seen.extend([*listed, count, logs])
        raise _Stop

    monkeypatch.setattr(compare.jobs, "run", listen)
    monkeypatch.setattr(compare.experiment_run, "check", lambda *_: None)  # builds all nets
    request = requests.Compare(
        run_dir=str(tmp_path / "run"),
        config=[str(tiny_run_file)],
        jobs=2,
        suite="paper",
        skip=["autoattack"],
        examples=7,
        baseline="robust_teacher",
    )
    with pytest.raises(_Stop):
        compare.run(request)
    *listed, count, logs = seen
    assert (count, logs) == (2, tmp_path / "run" / "logs")
    assert [(job.name, tuple(job.needs)) for job in listed] == [
        ("clean_teacher", ()),
        ("robust_teacher", ()),
        ("student", ("clean_teacher", "robust_teacher")),
        ("clean_teacher.audit", ("clean_teacher", "robust_teacher")),
        ("robust_teacher.audit", ("robust_teacher",)),
        ("student.audit", ("student", "robust_teacher")),
    ]
    assert listed[-1].command[1:] == [
        "-m",
        "mtard_tf.bin.eval",
        f"--run_dir={tmp_path / 'run'}",
        "--stage=student",
        "--examples=7",
        "--suite=paper",
        "--skip=autoattack",
        f"--out={tmp_path / 'run' / 'evaluation'}",
        "--nogate",
    ]
    # Without --config nothing is trained, and what is not trained is not audited.
    seen.clear()
    with pytest.raises(ComparisonError, match="^The baseline robust_teacher has no audit and"):
        compare.run(dataclasses.replace(request, config=[]))
    request = dataclasses.replace(request, config=[], baseline=None)
    with pytest.raises(ComparisonError, match="^student is not trained, so student cannot be"):
        compare.run(dataclasses.replace(request, stages=["student"]))
    with pytest.raises(_Stop):
        compare.run(request)
    assert seen[:-2] == []


def test_an_audit_is_not_replaced_by_one_of_fewer_attacks(made_up):
    suite = Suite({"pgd": PGD()})
    with pytest.raises(
        ComparisonError,
        match="^The audit of c has fgsm too and would be replaced by one without; give the --suite,"
        " --skip and --examples=8 of that audit, --jobs=0 for the table alone, or remove "
        f"{made_up / 'evaluation' / 'c'}\\.",
    ):
        compare._check_replaces(made_up, "c", suite, 10)
    compare._check_replaces(made_up, "c", Suite({"fgsm": PGD(), "pgd": PGD(), "more": PGD()}), 10)
    compare._check_replaces(made_up, "a_b_s2", suite, 10)  # no audit yet


def test_what_a_suite_is_for_few_classes_is_no_other_audit():
    suite = Suite(
        {"apgd_ce": APGDCrossEntropy(), "apgd_t": APGDTargeted()},
        ensembles={"both": ("apgd_ce", "apgd_t")},
    )
    added = ["square_added", "spsa_added"]
    assert suite.names_for(10) == ["apgd_ce", "apgd_t", "both", *added]
    assert suite.names_for(3) == [
        *("apgd_ce", "apgd_t", "both"),
        *("apgd_dlr", *added, "both_3_classes"),
    ]


def test_what_is_there_is_compared_where_the_baseline_failed(made_up, monkeypatch):
    def fail(*_):
        raise JobError("c failed (killed by signal 9).")

    monkeypatch.setattr(compare, "_train_and_audit", fail)
    monkeypatch.setattr(compare.gin_files, "start_or_resume", lambda *_: _Stages(STAGES))
    (made_up / "a_b_s2").mkdir()
    (made_up / "a_b_s2" / "student.keras").touch()
    for baseline in ("c", None):
        with pytest.raises(JobError) as caught:
            compare.run(requests.Compare(str(made_up), baseline=baseline))
        table = made_up / "comparison" / "table.md"
        assert str(caught.value) == (
            f"c failed (killed by signal 9). The rest is compared. Table: {table}."
        )
        assert files.read_json(table.with_name("comparison.json"))["baseline"] == baseline
    (made_up / "evaluation" / "a_b_s0" / "report.json").unlink()
    (made_up / "evaluation" / "a_b_s1" / "report.json").unlink()
    with pytest.raises(JobError, match="The rest is compared. Table: "):
        compare.run(requests.Compare(str(made_up), baseline="a_b"))
    assert files.read_json(table.with_name("comparison.json"))["baseline"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"baseline": "studnet"}, "Unknown row 'studnet'; did you mean 'student'?"),
        (
            {"baseline": "student", "stages": ["clean_teacher"]},
            "The baseline student has no audit and none is planned; train its stages with",
        ),
        ({"attack": "pdg_sat"}, "There is no attack 'pdg_sat' to plot; the suite has fgsm"),
        (
            {"gin": ["Experiment.strategy = 'mirrored'"]},
            "Experiment.strategy is 'mirrored'; mtard-compare gives each stage one device: train",
        ),
        ({"suite": "pepar"}, "Unknown suite 'pepar'; did you mean 'paper'?"),
        ({"skip": ["cw"]}, "There is no attack 'cw' to leave out; the suite has fgsm, "),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_anything_is_trained(tiny_run_file, tmp_path, flags, message):
    request = requests.Compare(str(tmp_path / "run"), [str(tiny_run_file)], **flags)
    with pytest.raises(ValueError) as caught:
        compare.run(request)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


TINY = (
    "replicates.names = ('bmtard',)",
    "Stage.epochs = 1",
    "Stage.batch_size = 512",
    "Stage.validation_examples = 100",
    "models.small_cnn.widths = (2, 2, 4, 4)",
    "models.small_cnn.dense = 8",
)


@pytest.mark.slow
def test_a_comparison_that_is_killed_goes_on(tmp_path):
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "mtard_tf.bin.compare", f"--run_dir={run_dir}"]
    train = [*command, "--config=runs/compare/quick.gin", *(f"--gin={line}" for line in TINY)]
    options = ["--jobs=2", "--examples=50", "--baseline=robust_teacher", "--skip=pgd_trades"]
    first = subprocess.Popen([*train, *options], cwd=ROOT, start_new_session=True)
    try:
        while not (finished := list(run_dir.glob("*/stage.json"))):
            assert first.poll() is None
            time.sleep(0.2)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    kept = {path.parent.name: path.stat().st_mtime_ns for path in finished}

    done = subprocess.run([*train, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage, time_ns in kept.items():
        assert f"{stage}: started" not in done.stderr
        assert (run_dir / stage / "stage.json").stat().st_mtime_ns == time_ns
    compared = files.read_json(run_dir / "comparison" / "comparison.json")
    assert [(row["row"], len(row["stages"])) for row in compared["rows"]] == [
        ("clean_teacher", 1),
        ("robust_teacher", 1),
        ("bmtard", 2),
    ]
    assert compared["missing"] == [] and compared["examples"] == 50
    assert compared["attacks"] == ["fgsm", "pgd_sat"]
    report = json.loads((run_dir / "evaluation" / "bmtard_s0" / "report.json").read_text())
    row = compared["rows"][2]
    assert row["clean"]["values"][0] == report["clean"]
    assert row["w_robust"]["pgd_sat"]["values"][0] == report["attacks"]["pgd_sat"]["w_robust"]
    assert row["w_robust"]["worst_case"]["values"][0] == report["worst_case"]["w_robust"]
    assert (run_dir / "report" / "report.md").exists()

    # Once more: nothing is trained, nothing audited, the same table.
    before = (run_dir / "comparison" / "table.csv").read_bytes()
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "started" not in done.stderr, done.stderr
    assert (run_dir / "comparison" / "table.csv").read_bytes() == before


def test_audits_with_other_settings_do_not_compare(tmp_path):
    for name, steps in (("a", 100), ("b", 150)):
        suite = {"cw": f"CW(num_steps={steps})", "soft": f"At(temperature={steps})"}
        _fabricate(tmp_path, name, OUTCOMES["c"], report={"suite": suite})
    with pytest.raises(ComparisonError, match=r"cw was CW\(num_steps=100\) for a and CW\(num_ste"):
        comparison.compare(audits.load(tmp_path, ["a", "b"]), ["a", "b"])
