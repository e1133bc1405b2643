"""The docs' shell blocks and the workflow for GitHub run, on few images and for one epoch."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import junitparser
import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Blocks that run here as they stand, in this order and one folder: page, and what is in the block.
RUN = (
    ("README.md", "mtard-data import images"),
    ("README.md", "mtard-export --run_dir"),
    ("docs/serving.md", "--hub_folder"),
)
# What cannot run here, and why.
NOT_RUN = {
    ("README.md", "make quickstart"): "CI installs and the block after it is the same",
    ("docs/choosing_epsilon.md", "net.keras"): "a reader's model and CIFAR-10",
    ("docs/ci.md", "--require='worst_class"): "the workflow does it",
}
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
# A command without its last flags would take minutes: each gets these in addition.
FEWER = {
    "train": [
        *(f"--gin={name}/Stage.epochs = 1" for name in ("clean_teacher", "robust_teacher")),
        *("--gin=student/Stage.epochs = 1", "--gin=Stage.validation_examples = 20"),
        *(f"--gin=student/models.small_cnn.{a}" for a in ("widths = (4, 4)", "dense = 8")),
    ],
    "eval": ["--examples=20", "--batch_size=20"],
}


def _blocks(page: str, language: str = "") -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return [code for kind, code in _FENCED.findall(text) if kind == language]


def _block(page: str, words: str) -> str:
    (found,) = [code for code in _blocks(page) if words in code]
    return found


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs lines as GitHub does (`bash -e`) in one folder; returns that and how they ended."""
    folder = tmp_path_factory.mktemp("shell")
    commands = folder / "commands"
    commands.mkdir()
    for module in sorted((ROOT / "mtard_tf" / "bin").glob("[a-z]*.py")):
        name = module.stem.rstrip("_")
        fewer = " ".join(f"'{flag}'" for flag in FEWER.get(name, ()))
        script = commands / f"mtard-{name}"
        script.write_text(f'exec {sys.executable} -m mtard_tf.bin.{module.stem} "$@" {fewer}\n')
        script.chmod(0o755)
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 12, 3)).astype("uint8")
        path = folder / "photos" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    environment = os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TFDS_DATA_DIR": str(folder / "sets"),
    }

    def run(lines: str) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
        done = subprocess.run(
            ["bash", "-e", "-c", lines],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        return folder, done

    return run


def test_every_block_of_a_shell_is_run_or_known() -> None:
    pages = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
    for page in pages:
        for code in _blocks(page):
            if re.match(r"(mtard-|make |pip )", code):
                known = [words for at, words in (*RUN, *NOT_RUN) if at == page and words in code]
                assert known, f"{page}: neither run nor named in NOT_RUN:\n{code}"


@pytest.mark.slow
def test_blocks_run_as_they_stand(shell) -> None:
    for page, words in RUN:
        folder, done = shell(_block(page, words))
        assert done.returncode == 0, f"{page}: {done.stdout}\n{done.stderr}"
    runs = folder / "runs"
    assert (runs / "pets" / "student" / "student.keras").exists()
    assert (runs / "quickstart" / "report" / "index.html").exists()
    assert (runs / "quickstart" / "export" / "student" / "1" / "saved_model.pb").exists()
    assert (folder / "hub" / "config.json").exists()


def _workflow() -> dict:
    (text,) = _blocks("docs/ci.md", "yaml")
    return yaml.safe_load(text)


def test_the_workflow_is_one() -> None:
    """As GitHub's schema for workflows asks for it (`check-jsonschema` holds it to that)."""
    workflow = _workflow()
    assert set(workflow) == {"name", True, "jobs"}  # YAML 1.1 reads `on` as true
    (job,) = workflow["jobs"].values()
    assert job["runs-on"] == "ubuntu-latest" and job["timeout-minutes"] == 60
    for step in job["steps"]:
        assert len({"uses", "run"} & set(step)) == 1 and set(step) <= {"uses", "run", "with", "if"}
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/checkout@v4"))


@pytest.mark.slow
def test_the_workflow_trains_audits_and_fails_where_the_gate_does(shell) -> None:
    (job,) = _workflow()["jobs"].values()
    install, train, evaluate = [step["run"] for step in job["steps"] if "run" in step]
    assert install.startswith("pip install ")  # of this checkout, done
    folder, done = shell(train)
    assert done.returncode == 0, done.stderr
    folder, done = shell(evaluate)
    # After one epoch the student is not what the workflow asks for.
    assert done.returncode == 3, done.stdout + done.stderr
    assert re.search(r"^student: worst_case>=0.35 is not met: \d", done.stdout, re.M)
    upload = next(step for step in job["steps"] if "upload" in step.get("uses", ""))
    assert upload["if"] == "always()"
    for path in upload["with"]["path"].split("\n"):
        assert (folder / path).is_file(), path
    suite = junitparser.JUnitXml.fromfile(str(folder / "junit.xml"))
    assert sum(one.failures for one in suite) >= 1
