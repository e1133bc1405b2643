"""The project as a user gets it: the wheel, built once and run from an empty folder."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

import mtard_tf
from mtard_tf import plugins

ROOT = pathlib.Path(__file__).parent.parent
# What a source distribution would hold; a copy, so that no earlier build can leak into the wheel.
SOURCE = ("mtard_tf", "plugins", "gin", "pyproject.toml", "README.md", "LICENSE")
SCRIPTS = (
    "mtard-train",
    "mtard-eval",
    "mtard-export",
    "mtard-data",
    "mtard-plan",
    "mtard-import",
    "mtard-compare",
)
HEAVY = ("tensorflow", "keras", "matplotlib", "cleverhans", "tensorflow_datasets")


def _run(*command: str | os.PathLike[str], cwd: pathlib.Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel, built with the setuptools at hand and no network."""
    folder = tmp_path_factory.mktemp("wheel")
    caches = shutil.ignore_patterns("__pycache__")
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=caches)
        else:
            shutil.copy(ROOT / name, folder / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist", ".")
    _run(sys.executable, "-m", "pip", "wheel", *options, cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """`bin/` of a fresh environment with the wheel in it and this environment's dependencies.

    The dependencies come by a `.pth` line: Python does not read the `.pth` files of a folder that
    is added so, and an editable install of the project therefore stays out.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    paths = sysconfig.get_paths("venv", {"base": str(home), "platbase": str(home)})
    dependencies = sysconfig.get_paths()["purelib"]
    pathlib.Path(paths["purelib"], "dependencies.pth").write_text(f"{dependencies}\n")
    python = os.path.join(paths["scripts"], "python")
    pip = (sys.executable, "-m", "pip", f"--python={python}", "install", "--no-deps", "--no-index")
    _run(*pip, wheel, cwd=home)
    return pathlib.Path(paths["scripts"])


def _files(wheel: pathlib.Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def _on_disk(folder: str, installed_as: str, pattern: str = "*") -> set[str]:
    """Files under `folder`, named as the wheel names them."""
    base = ROOT / folder
    return {
        f"{installed_as}/{path.relative_to(base).as_posix()}"
        for path in base.rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def _built_by_bazel(name: str) -> bool:
    return name.endswith(("/BUILD", ".bzl"))


def test_wheel_holds_exactly_the_files_on_disk(wheel: pathlib.Path) -> None:
    """A package missing from pyproject.toml's list, or from package-data, shows here by name."""
    expected = _on_disk("mtard_tf", "mtard_tf")
    expected |= _on_disk("plugins", "mtard_tf/plugins")
    expected |= _on_disk("gin", "mtard_tf/configs", "*.gin")
    found = {name for name in _files(wheel) if ".dist-info/" not in name}
    expected = {name for name in expected if not _built_by_bazel(name)}
    assert sorted(found - expected) == []
    assert sorted(expected - found) == []
    assert any(name.startswith("mtard_tf/configs/runs/") for name in found)
    assert "mtard_tf/py.typed" in found


def test_wheel_has_one_top_level_package(wheel: pathlib.Path) -> None:
    tops = {name.split("/")[0] for name in _files(wheel)}
    assert tops == {"mtard_tf", f"mtard_tf-{mtard_tf.__version__}.dist-info"}


def test_wheel_carries_its_licence(wheel: pathlib.Path) -> None:
    name = f"mtard_tf-{mtard_tf.__version__}.dist-info/licenses/LICENSE"
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_package_list_equals_the_disk() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    # Not tomllib: Python 3.10 has none.
    block = re.search(r"^packages = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    listed = re.findall(r'"([\w.]+)"', block.group(1))
    found = {"mtard_tf.configs"}
    for folder, prefix in (("mtard_tf", ("mtard_tf",)), ("plugins", ("mtard_tf", "plugins"))):
        for path in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join((*prefix, *path.parent.relative_to(ROOT / folder).parts)))
    assert listed == sorted(found)


def test_wheel_imports_every_module_from_an_empty_folder(
    wheel: pathlib.Path, installed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # Not the binaries: two that define --run_dir cannot be in one process.
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in _files(wheel)
        if name.endswith(".py") and not name.startswith("mtard_tf/bin/")
    )
    code = (
        "import importlib, os, mtard_tf\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "for name in mtard_tf.__all__: getattr(mtard_tf, name)\n"
        "print(os.path.dirname(mtard_tf.__file__))\n"
    )
    where = pathlib.Path(_run(installed / "python", "-c", code, cwd=tmp_path).splitlines()[-1])
    assert where.is_relative_to(installed.parent)


@pytest.mark.parametrize("script", SCRIPTS)
def test_installed_script_lists_its_flags(
    script: str, installed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # An installed script is a stub, in which no flag is defined.
    said = _run(installed / script, "--help", cwd=tmp_path)
    assert "\nFlags:\n" in said and "\n  --[no]debug: " in said and said.count("\n  --") > 4


@pytest.mark.parametrize("module", ["train", "eval", "export", "data", "import_", "compare"])
def test_binary_loads_nothing_heavy(module: str, tmp_path: pathlib.Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import mtard_tf.bin.{module}\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert _run(sys.executable, "-c", code, cwd=tmp_path).strip() == "[]"


@pytest.mark.parametrize(
    ("folder", "lists", "others"),
    [
        # OpenVINO is tried where a user has it.
        ("mtard_tf", ("dependencies", "deploy"), {"openvino"}),
        ("plugins", ("dependencies",), set()),
        # The generators of docs/ lie in a folder that docs_site_test adds to the path.
        (
            "tests",
            ("dependencies", "deploy", "test", "docs", "torch"),
            {"gin_selectors", "command_flags"},
        ),
    ],
)
def test_every_dependency_that_is_imported_is_declared(folder, lists, others) -> None:
    declared = set().union(*map(_declared, lists))
    distributions = importlib.metadata.packages_distributions()
    paths = sorted((ROOT / folder).rglob("*.py"))
    others = others | {"mtard_tf", *(path.stem for path in paths)}  # these and its own modules
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - others:
                providers = {_normalized(name) for name in distributions.get(top, [top])}
                assert providers & declared, f"{path} imports {top}"


def _declared(name: str) -> set[str]:
    """Distributions of one list of pyproject.toml; Python 3.10 has no tomllib."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^{name} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    return {_normalized(found) for found in re.findall(r'"([\w-]+)', block)}


def _normalized(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def test_every_public_name_resolves() -> None:
    assert sorted(mtard_tf.__all__) == sorted(set(mtard_tf.__all__))
    for name in mtard_tf.__all__:
        assert getattr(mtard_tf, name) is not None
        assert name in dir(mtard_tf)


def test_public_module_is_the_module() -> None:
    assert mtard_tf.losses is importlib.import_module("mtard_tf.losses")


def test_unknown_public_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'PDG'; its public names are .*PGD"):
        mtard_tf.PDG  # noqa: B018


def test_bridge_reaches_the_checkouts_families_only_if_none_is_installed(
    tmp_path: pathlib.Path,
) -> None:
    here = tmp_path / "mtard_tf" / "plugins"
    here.mkdir(parents=True)
    (here / "__pycache__").mkdir()
    assert plugins._search_path(str(here)) == [str(here), str(tmp_path / "plugins")]
    (here / "family").mkdir()
    (here / "family" / "__init__.py").touch()
    assert plugins._search_path(str(here)) == [str(here)]
