"""Makes the HTML page of a run, an audit or a comparison again, from its JSON files.

    mtard-report runs/quickstart
    mtard-report runs/quickstart/evaluation/student --out=student.html
    mtard-report runs/compare/comparison
    mtard-report runs/quickstart/evaluation/student --robustbench

PATH is a run's directory, an audit's folder or its report.json, or a comparison's folder or its
comparison.json. Without --out the page lies where the command that made the figures writes it.
Also `python -m mtard_tf.bin.report ...`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from mtard_tf import bin as binary
from mtard_tf.bin.request_flags import define
from mtard_tf.commands import requests

_request = define(requests.Report)


def main(argv: Sequence[str]) -> None:
    from mtard_tf.reporting import pages

    if len(argv) != 2:
        raise ValueError(f"Give one PATH, such as runs/quickstart; {len(argv) - 1} were given.")
    request, path = _request(), pathlib.Path(argv[1]).expanduser()
    if request.robustbench:
        print(pages.robustbench(path))
    else:
        print(f"Page: {pages.write(path, pathlib.Path(request.out) if request.out else None)}")


def run() -> None:
    binary.run(main, takes_words=True, needs_tensorflow=False)


if __name__ == "__main__":
    run()
