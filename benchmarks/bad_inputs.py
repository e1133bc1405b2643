"""Gives the commands damaged, hostile and mistaken inputs, and prints what a user sees of each.

    python benchmarks/bad_inputs.py                  # all, a few minutes
    python benchmarks/bad_inputs.py --only=pickle    # those with this in their name

Each input is made in a copy of a small finished run, and a command is run on it as a user would.
The rows are a Markdown table. Below it stands what went wrong: a stack trace, several lines or none,
another exit code than the documented one, code of a file that was run (it would make a file
MARKER), a file outside the folder, or a file that was there before and is not as it was. Exit code 0
only if nothing did.

TensorFlow is imported once: each command runs in a fork of a process that has imported it and
computed nothing.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import sys
import tempfile

import bad_deployed
import bad_graphs
import bad_models
import bad_runs
import bad_sets
import bad_weights
import forked_commands
from forked_commands import BadInput, Seen
from small_run import ROOT

INPUTS = (
    *bad_weights.INPUTS,
    *bad_models.INPUTS,
    *bad_graphs.INPUTS,
    *bad_sets.INPUTS,
    *bad_runs.INPUTS,
    *bad_deployed.INPUTS,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a part of the names of the inputs to try")
    wanted = parser.parse_args().only
    sys.path.insert(0, str(ROOT))
    os.environ |= {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    _import_all()
    bad = [one for one in INPUTS if wanted in one.name]
    print("| input | command | exit | line |\n|---|---|---:|---|")
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        top = pathlib.Path(name)
        forked_commands.finished_run(top / "base")
        for number, one in enumerate(bad):
            case = top / f"case{number}"
            shutil.copytree(top / "base", case / "work")
            made = forked_commands.forked(lambda: one.make(case / "work"))  # noqa: B023
            if made != 0:
                wrong.append(f"{one.name}: could not be made")
            before = forked_commands.contents(case / "work")
            seen = forked_commands.run(case / "work", one.command, one.flags, case / "log")
            lines = forked_commands.lines(seen)
            found = forked_commands.faults(one, seen, lines, before, case)
            wrong += [f"{one.name}: {'; '.join(found)}"] * bool(found)
            print(_row(one, seen, lines, case), flush=True)
            shutil.rmtree(case)
    print(f"\n{len(bad)} inputs; faults: {len(wrong) or 'none'}", *wrong, sep="\n")
    return int(bool(wrong))


def _import_all() -> None:
    from mtard_tf import bin as binary

    binary.import_tensorflow_quietly = lambda: None
    import tensorflow
    import tensorflow_datasets  # noqa: F401

    tensorflow.get_logger().setLevel("ERROR")
    from mtard_tf import registry
    from mtard_tf.commands import (
        compare,  # noqa: F401
        import_,  # noqa: F401
    )
    from mtard_tf.commands import plan as planning  # noqa: F401
    from mtard_tf.data import preparing  # noqa: F401
    from mtard_tf.running import side_by_side  # noqa: F401

    registry.load()


def _row(bad: BadInput, seen: Seen, lines: list[str], case: pathlib.Path) -> str:
    line = (
        (lines or [""])[-1 if bad.code else 0]
        .replace(f"{case / 'work'}/", "")
        .replace(f"{case}/", "")
    )
    line = line if len(line) <= 300 else f"{line[:300]}..."
    line = line.replace("|", "\\|").replace("`", "'").replace("\0", "NUL")
    return f"| {bad.name} | {bad.command} | {seen.code} | {f'`{line}`' if line else ''} |"


if __name__ == "__main__":
    sys.exit(main())
