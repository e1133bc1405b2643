"""Requirements and findings of audits as JUnit XML, which CI services show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from mtard_tf.auditing.gate import Judged
from mtard_tf.reporting import advice

# Severities of findings that count as failed tests.
FAILED = ("void", "masked")


def xml(judged: Sequence[Judged], reports: Mapping[str, Mapping]) -> str:
    """One test case for each requirement and for each finding; no times, so the same bytes.

    Args:
      judged: all requirements.
      reports: stage or model -> its `report.json`.
    """
    cases = []
    for one in judged:
        case = _case(f"{one.name}.requirements", one.requirement.text)
        if not one.met:
            _failure(case, "unmet", one.line)
        cases.append(case)
    for name, report in reports.items():
        for finding in report.get("findings", ()):
            case = _case(f"{name}.findings", finding["name"])
            if finding["severity"] in FAILED:
                step = advice.next_step(finding)
                _failure(case, finding["severity"], f"{finding['evidence']} {step}")
            elif finding["severity"] != "none":
                ElementTree.SubElement(case, "system-out").text = _printable(finding["evidence"])
            cases.append(case)
    failures = sum(case.find("failure") is not None for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0"}
    suite = ElementTree.Element("testsuite", {"name": "mtard-eval", **counts})
    suite.extend(cases)
    root = ElementTree.Element("testsuites", counts)
    root.append(suite)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _case(group: str, name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", classname=_printable(group), name=_printable(name))


def _failure(case: ElementTree.Element, kind: str, message: str) -> None:
    failure = ElementTree.SubElement(case, "failure", type=kind, message=_printable(message))
    failure.text = _printable(message)


def _printable(text: str) -> str:
    """Text without the control characters that XML cannot hold."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in text)
