"""The docs: their commands name flags that exist, their Python runs, and so does the tutorial."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from mtard_tf.commands import requests
from mtard_tf.config import gin_files

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
PAGES.remove("docs/bad_inputs.md")  # mistakes, and what is said about them
TUTORIAL = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text("utf-8"))
# Pages whose Python is run here, in this order and one process; plugins.md has a test of its own.
RUN = ["README.md", "docs/serving.md", "docs/python.md", "docs/own_data.md"]
EVERYWHERE = {"debug", "help", "version", "plugins"}
_CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_COMMAND = re.compile(r"(?:^|[\s`/;])mtard-(\w+)((?:[^\n`|;&\\]|\\\n)*)")

# What the pages take for given: a user's arrays, photos and prepared set, all tiny.
PREAMBLE = """
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
from mtard_tf.testing import tiny_data

train, test = (getattr(tiny_data(60), name) for name in ("train", "test"))
train, test = (split.take(np.flatnonzero(split.labels < 2)) for split in (train, test))
x_train, x_test = (split.images / np.float32(255) for split in (train, test))
y_train, y_test, uint8_images = train.labels, test.labels, test.images
for i in range(24):
    pixels = np.random.default_rng(i).integers(0, 256, (9, 9, 3)).astype("uint8")
    path = pathlib.Path("photos", ("cat", "dog")[i % 2], f"{i:02}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
imported = "-m mtard_tf.bin.data import images --source=photos --out=pets --size=9 --data_dir=DIR"
subprocess.run([sys.executable, *imported.split()], check=True)
"""


def _text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def _flags(command: str) -> dict[str, bool]:
    """Flag -> whether it is boolean."""
    request = getattr(requests, command.capitalize())
    fields = dataclasses.fields(request)
    return {
        **dict.fromkeys(EVERYWHERE, True),
        **{field.metadata.get("name", field.name): field.type == "bool" for field in fields},
    }


def _commands(page: str) -> list[tuple[str, list[str]]]:
    """Each command of a page, and its words."""
    found = []
    for name, rest in _COMMAND.findall(_text(page)):
        try:
            words = shlex.split(rest.replace("\\\n", " "), comments=True)
        except ValueError:
            words = rest.split()  # in a sentence, with an apostrophe
        found.append((name, words))
    return found


def _python(page: str) -> list[str]:
    return [code for language, code in _CODE.findall(_text(page)) if language == "python"]


def _process(script: str, folder: pathlib.Path) -> str:
    """Runs a script in a fresh interpreter, which must end well; what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_flags_exist(page) -> None:
    for name, words in _commands(page):
        known = _flags(name)
        for word in words:
            if not word.startswith("--"):
                continue
            flag, given, _ = word[2:].rstrip(".,:)").partition("=")
            positive = flag.removeprefix("no")
            assert flag in known or known.get(positive), f"{page}: mtard-{name} has no --{flag}"
            assert flag in known or not given, f"{page}: --{flag} takes no value"


def test_a_command_with_a_wrong_flag_would_be_found() -> None:
    assert "stage" in _flags("eval") and "stages" not in _flags("eval")
    assert sum(len(_commands(page)) for page in PAGES) > 50


def _settings() -> list[tuple[str, ...]]:
    """Run file and bindings of every command that has both here, without plugins of a reader's."""
    found = []
    for page in PAGES:
        for _, words in _commands(page):
            given = [word[6:] for word in words if word.startswith("--gin=")]
            configs = [word[9:] for word in words if word.startswith("--config=")]
            known = configs and all((ROOT / "gin" / config).exists() for config in configs)
            foreign = any(word.startswith("--plugins=") for word in words)
            foreign = foreign or re.search("import |METHOD|ATTACK|DIR", " ".join(given))
            if known and not foreign:
                found.append((*configs, "", *given))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("settings", _settings())
def test_run_files_and_bindings_of_commands_exist(settings) -> None:
    split = settings.index("")
    with gin_files.apart():
        gin_files.parse(settings[:split], settings[split + 1 :])
        assert gin_files.experiment().stages


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", _text(page)):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_python_of_the_pages_and_the_tutorial_compiles(page) -> None:
    for code in _python(page):
        compile(code, page, "exec")


def test_the_readme_begins_with_what_it_is_for() -> None:
    screen = "\n".join(_text("README.md").splitlines()[:30])
    assert re.search(r"!\[.*\]\(docs/.*\.png\)", screen)
    first_code = _text("README.md").index("```")
    before = _text("README.md")[:first_code].lower()
    for method in ("mtard (", "b-mtard", "bmtard", "trades", "entropy-based"):
        assert method not in before


@pytest.mark.slow
def test_python_of_the_pages_runs_on_a_few_images(tmp_path) -> None:
    blocks = dict.fromkeys(code for page in RUN for code in _python(page))
    code = "\n".join(blocks)
    code = code.replace("runs/quickstart/", "")
    code = re.sub(r"\bepochs=\d+", "epochs=1", code)
    code = re.sub(r"\bbatch_size=\d+", "batch_size=8", code)
    _process(PREAMBLE + code, tmp_path)
    assert (tmp_path / "export" / "student" / "1" / "saved_model.pb").exists()


def test_the_tutorial_is_a_notebook_without_output() -> None:
    assert TUTORIAL["nbformat"] == 4
    for cell in TUTORIAL["cells"]:
        assert cell["cell_type"] in ("markdown", "code") and cell["id"] and "metadata" in cell
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile("".join(cell["source"]), "tutorial.ipynb", "exec")


@pytest.mark.slow
def test_the_tutorial_runs_in_an_empty_folder(tmp_path) -> None:
    cells = [cell for cell in TUTORIAL["cells"] if cell["cell_type"] == "code"]
    script = "\n".join("".join(cell["source"]) for cell in cells)
    # What a reader is told to see.
    script += "\nassert report.worst_case > 0.2 > audits['clean'].worst_case, audits\n"
    script += "assert answer['label_name'].shape == (4,)\n"
    said = _process(script, tmp_path)
    # Keras' own functions are counted as retraced in trainings of a few steps, not in these.
    assert "WARNING:tensorflow" not in said, said
    assert (tmp_path / "attacked.png").stat().st_size > 5000
