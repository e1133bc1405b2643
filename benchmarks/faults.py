"""Small runs that `fault_table.py` breaks: started, cut off, damaged and compared."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from small_run import CONFIG, DATA, ROOT

STUDENT_ONLY = """
Experiment.stages = ('student',)
student/Stage.teachers = {'clean': 'given/clean.keras', 'robust': 'given/robust.keras'}
"""


class Faults:
    """A folder with run files, a finished run to hold others against, and the tries."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        (folder / "kill_test_data.py").write_text(DATA)
        (folder / "teachers.gin").write_text(CONFIG)
        self.start("teachers.gin", "whole").communicate()
        (folder / "given").mkdir()
        for role in ("clean", "robust"):
            source = folder / "whole" / f"{role}_teacher" / "student.keras"
            shutil.copy(source, folder / "given" / f"{role}.keras")
        (folder / "run.gin").write_text(CONFIG + STUDENT_ONLY)
        _, code = self.train("reference")
        assert code == 0

    def start(self, config: str, name: str, *flags: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "mtard_tf.bin.train", f"--config={config}", *flags]
        return subprocess.Popen(
            [*command, f"--run_dir={name}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self, name: str, *flags: str) -> tuple[str, int]:
        """Runs to the end; the last line that is no progress, and the exit code."""
        return self.end(self.start("run.gin", name, *flags))

    def end(self, process: subprocess.Popen) -> tuple[str, int]:
        lines = process.communicate()[1].splitlines()
        said = [line for line in lines if line.startswith("mtard-train") or "damaged" in line]
        line = said[-1] if said else (lines[-1] if process.returncode else "")
        return line.replace(str(self.folder) + "/", ""), process.returncode

    def cut(self, name: str) -> tuple[str, int]:
        """Starts a run and tells it to go once it has two checkpoints."""
        process = self.start("run.gin", name)
        while len(list(self.states(name))) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        return self.end(process)

    def states(self, name: str) -> list[pathlib.Path]:
        return sorted((self.folder / name / "student" / "checkpoints").glob("state-*"))

    def report(self, fault: str, seen: tuple[str, int], name: str | None) -> None:
        """A row: the fault, what was seen, and what the same command makes of the run after it."""
        outcome = "steps since the last checkpoint"
        if name is not None:
            line, code = self.train(name)
            same = code == 0 and self.weights(name) == self.weights("reference")
            outcome = "nothing: same weights" if same else f"exit {code}: {line}"
        message = f"`{seen[0]}`" if seen[0] else "nothing"
        print(f"| {fault} | {message} | {seen[1]} | {outcome} |", flush=True)

    def weights(self, name: str) -> list[bytes]:
        import keras

        model = keras.models.load_model(
            self.folder / name / "student" / "student.keras", compile=False
        )
        return [weight.tobytes() for weight in model.get_weights()]


@contextlib.contextmanager
def small_disk(faults: Faults, name: str, options: str) -> Iterator[pathlib.Path]:
    folder = faults.folder / name
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
