"""One HTML file for an audit, a run or a comparison, made from their JSON files without TensorFlow.

A page requests nothing: styles, figures and images are inside, and its content security policy
forbids the rest. The same files make the same bytes, wherever they lie.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from mtard_tf import __version__, files
from mtard_tf.reporting import (
    audit_view,
    claims,
    comparison_view,
    notation,
    palette,
    run_files,
    run_view,
    svg,
)

_TEMPLATES = pathlib.Path(__file__).parent / "templates"


class PageError(ValueError):
    """A path of which no page can be made. The message is one line."""


def write(path: pathlib.Path, out: pathlib.Path | None = None) -> pathlib.Path:
    """Makes the page of a run, an audit or a comparison again; returns where it lies.

    Args:
      path: a run's directory; an audit's folder or its `report.json`; a comparison's folder or its
        `comparison.json`.
      out: the file; by default the one that the command wrote which made the figures.

    Raises:
      PageError: there is nothing of the kind at `path`.
      RunFileError: a file is damaged.
    """
    folder = path.parent if path.is_file() else path
    if path.name == "report.json" or (folder / "report.json").exists():
        made, own = audit(folder), folder / "report.html"
    elif path.name == "comparison.json" or (folder / "comparison.json").exists():
        made, own = comparison(folder), folder / "index.html"
    elif (folder / run_view.STAGES).exists():
        made, own = run(folder), folder / "report" / "index.html"
    else:
        raise PageError(
            f"{path} is no run ({run_view.STAGES}), no audit (report.json) and no comparison "
            "(comparison.json); give the directory of one, or its JSON file."
        )
    files.write_text(out or own, made)
    return out or own


def refresh(path: pathlib.Path) -> pathlib.Path | None:
    """Writes a page as `write` does; if it cannot, prints why in one line and continues.

    For a training or an audit, which no page is worth.
    """
    try:
        return write(path)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        print(f"No page of {path}: {type(error).__name__}: {words}", file=sys.stderr, flush=True)
        return None


def audit(folder: pathlib.Path) -> str:
    """The page of one audit."""
    report = run_files.report(folder / "report.json")
    return _page("audit.html", {"audit": _viewed(folder, report)}, report)


def run(run_dir: pathlib.Path) -> str:
    """The page of a run: its stages as far as they are, with their audits inside."""
    audits = {}
    for name in run_view.stage_names(run_dir):
        report, folder = run_files.current_report(run_dir, name), run_dir / "evaluation" / name
        if report is not None:
            audits[name] = _viewed(folder, report)
    with run_files.reading(run_dir / run_view.STAGES):
        found = run_view.view(run_dir, audits)
    inside = {
        "stages": found["noted"],
        "audits": {name: shown["report"] for name, shown in audits.items()},
        "calibrations": {s["name"]: s["calibration"]["known"] for s in found["calibrated"]},
    }
    return _page("run.html", {"run": found, "audits": audits}, inside)


def comparison(folder: pathlib.Path) -> str:
    """The page of a comparison."""
    path = folder / "comparison.json"
    compared = run_files.mapping(path, {"rows": list, "attacks": list, "threat": dict})
    with run_files.reading(path):
        return _page("comparison.html", {"comparison": comparison_view.view(compared)}, compared)


def robustbench(path: pathlib.Path) -> str:
    """An audit, given as its folder or its `report.json`, as RobustBench's claim form has it.

    Raises:
      PageError: there is no audit.
    """
    path = path if path.is_file() else path / "report.json"
    if not path.exists():
        raise PageError(f"{path} is missing; a claim is of one audit: give its folder.")
    with run_files.reading(path):
        return claims.robustbench(run_files.report(path))


def _viewed(folder: pathlib.Path, report: Mapping) -> dict[str, Any]:
    """What a page shows of an audit."""
    arrays, timing = _examples(folder), run_files.timing(folder)
    with run_files.reading(folder / "report.json"):
        return audit_view.view(report, arrays, timing)


def _examples(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an audit's `examples.npz`; none where there is none."""
    path = folder / "examples.npz"
    return run_files.arrays(path) if path.exists() else {}


def _page(template: str, values: Mapping[str, Any], inside: Any) -> str:
    """The rendered page, with its JSON inside."""
    style, script = _style(), (_TEMPLATES / "sort.js").read_text("utf-8").strip()
    text = json.dumps(inside, indent=None, separators=(",", ":"))
    for sign in "<>&":  # so that nothing inside can end the element
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            version=__version__,
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
            json=Markup(text),
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shorten = functools.partial(notation.shortened, length=60)
    environment.filters |= {"percent": notation.percent, "heat": audit_view.heat}
    environment.filters |= {"short": shorten, "parts": lambda text: _in_parts(shorten(text))}
    environment.globals |= {"swatch": svg.swatch}
    return environment


def _in_parts(name: str) -> Markup:
    """A name that breaks rather after an underscore or a dot than within a word."""
    return Markup(re.sub("([_.])", r"\1<wbr>", str(escape(name))))


@functools.cache
def _style() -> str:
    """The style sheet, with the colours of the series for light and dark pages."""
    colours = {
        name: "".join(f"--s{place}:{value};" for place, value in enumerate(values))
        for name, values in (("light", palette.LIGHT), ("dark", palette.DARK))
    }
    series = "\n".join(f".s{n}{{--own:var(--s{n})}}" for n in range(len(palette.LIGHT)))
    text = (_TEMPLATES / "style.css").read_text("utf-8")
    for name, values in colours.items():
        text = text.replace(f"/* {name} series */", values)
    return f"{text}{series}"


def _policy(style: str, script: str) -> str:
    """A content security policy under which only these two run and nothing is requested."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    ]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
