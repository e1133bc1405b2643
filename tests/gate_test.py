"""The gate: which requirements an audit meets, with which exit code, and what CI services read."""

from __future__ import annotations

import math

import junitparser
import numpy as np
import pytest

from mtard_tf.auditing import gate, junit, requirements
from mtard_tf.auditing.requirements import RequirementError
from mtard_tf.bin.gate import show


def _entry(value: float, low: float, high: float) -> dict:
    parts = {"robust_accuracy": value, "w_robust": value + 0.2, "nrr": value + 0.1}
    return {
        key: number
        for name, v in parts.items()
        for key, number in ((name, v), (f"{name}_interval", [v - value + low, v - value + high]))
    }


def _report(severity: str = "none", **changes) -> dict:
    """Clean 80 %, pgd 50 %, the worst case 45 % (41 to 49), the worst class 20 of 100 images."""
    return {
        "model": "student",
        "clean": 0.8,
        "clean_interval": [0.77, 0.83],
        "attacks": {"pgd": _entry(0.5, 0.46, 0.54)},
        "worst_case": _entry(0.45, 0.41, 0.49),
        "worst_class": {"worst_case": {"class": "Shirt", "accuracy": 0.2}},
        "per_class": {"Shirt": {"examples": 100}},
        "parameters": 2352,
        "examples": 1000,
        "findings": [{"name": "black_box_stronger", "severity": severity, "evidence": "Seen."}],
        **changes,
    }


def test_a_percentage_is_the_fraction_to_the_bit() -> None:
    tenths = np.arange(1001)
    bounds = [requirements.parse(f"clean>={tenth / 10}%").bound for tenth in tenths]
    np.testing.assert_array_equal(bounds, tenths / 1000)


NAN = {"worst_case": {**_entry(0.45, 0.41, 0.49), "robust_accuracy": math.nan}}
NAN_BELOW = {"worst_case": {**_entry(0.45, 0.41, 0.49), "robust_accuracy_interval": [math.nan, 1]}}

# Requirement, report, whether intervals must hold, exit code, what the line says.
CASES = [
    ("worst_case>=0.45", _report(), False, 0, "met: 45.0% (95 %: 41.0% to 49.0%)"),
    ("worst_case>=0.46", _report(), False, 3, "not met: 45.0% (95 %: 41.0% to 49.0%)"),
    ("worst_case>=0.40", _report(), True, 0, "met: 45.0%"),
    ("worst_case>=0.45", _report(), True, 3, "41.0% to 49.0%), whose nearer end does not meet it"),
    ("worst_case<=0.48", _report(), True, 3, "whose nearer end does not meet it"),
    ("clean >= 80%", _report(), False, 0, "met: 80.0% (95 %: 77.0% to 83.0%)"),
    ("square>=0.1", _report(), False, 3, "square is not in the audit"),
    ("worst_case>=0.1", _report(**NAN), False, 3, "worst_case is not a number"),
    ("worst_case>=0.1", _report(**NAN_BELOW), True, 3, "whose nearer end does not meet it"),
    ("worst_class>=0.2", _report(), False, 0, "met: 20.0% (95 %: 13.3% to 28.9%)"),
    ("worst_class>=0.2", _report(), True, 3, "whose nearer end does not meet it"),
    ("worst_class.pgd>=0.2", _report(), False, 3, "worst_class.pgd is not in the audit"),
    ("w_robust>=0.65", _report(), False, 0, "met: 65.0% (95 %: 61.0% to 69.0%)"),
    ("nrr.pgd>0.6", _report(), False, 3, "not met: 60.0%"),
    ("parameters<=2400", _report(), True, 0, "met: 2,352"),
    ("verdict!=masked", _report(), False, 0, "the verdict is believable"),
    ("verdict!=masked", _report("note"), False, 0, "the verdict is note"),
    ("verdict!=masked", _report("masked"), False, 3, "the verdict is masked"),
    ("verdict!=masked", _report("void"), False, 3, "the verdict is void"),
    ("verdict==believable", _report("note"), False, 3, "the verdict is note"),
    ("verdict!=void", _report("masked"), False, 0, "the verdict is masked"),
    ("worst_case>=0.1", _report("masked"), False, 0, "to 49.0%); the audit is masked"),
    ("other:clean>=0.1", _report(), False, 3, "there is no audit of it"),
]


@pytest.mark.parametrize(("text", "report", "confident", "code", "line"), CASES)
def test_table(text, report, confident, code, line, capsys) -> None:
    wanted = [requirements.parse(text)]
    judged = gate.judge_all(wanted, {"student": report}, ["student"], confident)
    assert line in judged[0].line
    if code:
        with pytest.raises(SystemExit) as left:
            show(lambda: gate.closing("The verdict.", judged))
        assert left.value.code == code
        assert capsys.readouterr().out == f"The verdict.\n{judged[0].line}\n"
    else:
        show(lambda: gate.closing("The verdict.", judged))
        assert capsys.readouterr().out == "The verdict.\nAll 1 requirements are met.\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("worst_case", "'worst_case' is not METRIC>=NUMBER; write it such as"),
        ("worst_case>=high", "'high' is no number; give 0.45 or 45%"),
        ("worst_case>=nan", "'nan' is no number"),
        ("worst_case>=45", "accuracies run from 0 to 1; write 45 % as worst_case>=0.45"),
        ("worst_case==0.45", "use >=, <=, > or < with a number"),
        ("verdict>=masked", "a verdict is == or != one of void, masked, note, believable"),
        ("verdict!=bad", "a verdict is == or != one of"),
        ("", "is not METRIC>=NUMBER"),
    ],
)
def test_what_cannot_be_judged_is_refused(text, words) -> None:
    with pytest.raises(RequirementError) as error:
        requirements.parse(text)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("worst_cse>=0.4", "Unknown metric 'worst_cse'; did you mean 'worst_case'?"),
        ("pdg>=0.4", "Unknown metric 'pdg'; did you mean 'pgd'?"),
        ("w_robust.pgdd>=0.4", "did you mean 'w_robust.pgd'?"),
        ("studnt:clean>=0.4", "Unknown stage of a requirement 'studnt'; did you mean 'student'?"),
    ],
)
def test_a_misspelt_name_is_refused_before_the_audit(text, words) -> None:
    with pytest.raises(RequirementError) as error:
        requirements.check([requirements.parse(text)], ["fgsm", "pgd"], ["student", "teacher"])
    assert words in str(error.value)


def test_junit_is_read_by_a_parser_of_its_own(tmp_path) -> None:
    reports = {"student": _report("masked"), "odd <&\x07 name": _report("note")}
    wanted = [requirements.parse(text) for text in ("clean>=0.9", "clean>=0.1")]
    judged = gate.judge_all(wanted, reports, ["student"])
    path = tmp_path / "junit.xml"
    path.write_text(junit.xml(judged, reports), encoding="utf-8")
    (suite,) = junitparser.JUnitXml.fromfile(str(path))
    assert (suite.tests, suite.failures, suite.errors) == (4, 2, 0)
    found = {(case.classname, case.name): case for case in suite}
    cases = {key: case.result for key, case in found.items()}
    (failure,) = cases["student.requirements", "clean>=0.9"]
    assert failure.message == "student: clean>=0.9 is not met: 80.0% (95 %: 77.0% to 83.0%); " + (
        "the audit is masked."
    )
    assert cases["student.requirements", "clean>=0.1"] == []
    (failure,) = cases["student.findings", "black_box_stronger"]
    assert failure.type == "masked" and failure.message.startswith("Seen. The gradient misleads")
    noted = found["odd <&? name.findings", "black_box_stronger"]
    assert noted.system_out == "Seen." and not noted.result
    assert junit.xml(judged, reports) == path.read_text(encoding="utf-8")
