"""Runs the stages of an experiment; also `python -m mtard_tf.bin.train ...`.

    mtard-train --config=quickstart.gin --run_dir=runs/quickstart
    mtard-train --config=quickstart.gin --gin='student/Stage.epochs = 20' --run_dir=runs/longer

Finished stages are not run again; one that was interrupted resumes from its last checkpoint, so the
same command is all that a scheduler repeats. Exit codes: 0 done, 1 a mistake that repeating will
not mend, 75 preempted (SIGTERM) or left by another worker: run it again; 130 Ctrl-C.

Without --config it resumes the run that is there. --jobs=2 trains in two processes. On
several devices:

    mtard-train --strategy=mirrored --config=... --run_dir=...
    mtard-train --strategy=multi_worker --workers=HOST1:2222,HOST2:2222 --index=0 ...   (on HOST1)
"""

from __future__ import annotations

from collections.abc import Sequence

from mtard_tf import bin as binary
from mtard_tf.bin.request_flags import define
from mtard_tf.commands import requests

_request = define(requests.Train)


def main(argv: Sequence[str]) -> None:
    from mtard_tf.commands import train

    if lines := train.run(_request()):
        print(lines)


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
