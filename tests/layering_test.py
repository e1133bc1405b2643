"""Holds the table of layers by reading imports with `ast`; no module of the project is imported."""

from __future__ import annotations

import ast
import functools
import os
import pathlib
import sys

import pytest

# Not resolved: under Bazel this stays inside the runfiles.
ROOT = pathlib.Path(os.path.abspath(__file__)).parent.parent

ROWS = {
    0: {"keras_environment", "losses", "optimizers", "schedules"},
    1: {
        "attacks",
        "averaging",
        "data",
        "distribution",
        "keras_shims",
        "label_smoothing",
        "measuring",
        "models",
        "threat",
        "updates",
        "weight_perturbation",
    },
    2: {"built_ins", "distiller", "fit_data", "registry", "views"},
    3: {"plugins"},
    4: {
        "accuracies",
        "audit",
        "audit_flags",
        "audit_text",
        "averaged_student",
        "bindable",
        "binding_values",
        "bindings",
        "callbacks",
        "chains",
        "chance",
        "checkpoints",
        "comparing",
        "config",
        "config_text",
        "diagnostics",
        "encoded_images",
        "dry_run",
        "evaluation",
        "experiment",
        "export",
        "files",
        "gin_errors",
        "graph_ops",
        "guard",
        "identity",
        "importing",
        "jobs",
        "locking",
        "measurements",
        "data_of_run",
        "global_state",
        "model_card",
        "model_files",
        "outcomes",
        "planning",
        "plots",
        "preemption",
        "probes",
        "progress",
        "records",
        "report",
        "run_directory",
        "run_files",
        "side_by_side",
        "soft_labels",
        "setting",
        "stage",
        "stage_checks",
        "stage_lists",
        "stage_sources",
        "strategies",
        "suites",
        "teacher_check",
        "training",
    },
    5: {"bin"},
}
# Row -> the rows it may import. Row 4 reaches the families through the registry only.
ALLOWED = {0: {0}, 1: {0, 1}, 2: {0, 1, 2}, 3: {0, 1, 2, 3}, 4: {0, 1, 2, 4}, 5: {4, 5}}
# Importing a data set is no run: nothing of row 4 has a part in it.
# Neither is a look at the environment before anything is imported.
EXCEPTIONS = {
    "mtard_tf.bin": "mtard_tf.keras_environment",
    "mtard_tf.bin.data": "mtard_tf.data",
}

HEAVY = {"cleverhans", "keras", "matplotlib", "tensorflow", "tensorflow_datasets"}
MAX_BINARY_LINES = 60


def _sources() -> dict[str, pathlib.Path]:
    """Dotted name -> file, for every module under `mtard_tf/` and `plugins/`."""
    found = {}
    for folder, prefix in (("mtard_tf", "mtard_tf"), ("plugins", "mtard_tf.plugins")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            found[".".join((prefix, *parts))] = path
    return found


SOURCES = _sources()
MODULES = sorted(set(SOURCES) - {"mtard_tf", "mtard_tf.plugins"})


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"), str(SOURCES[module]))


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that `from ... import` names, relative dots resolved."""
    if not node.level:
        return node.module or ""
    depth = node.level - (SOURCES[module].name == "__init__.py")
    base = module.split(".")[: len(module.split(".")) - depth]
    return ".".join(base + ([node.module] if node.module else []))


def _targets(module: str, nodes: list[ast.AST]) -> set[str]:
    """Modules that the nodes import; `from package import name` counts as the submodule, if one."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            names = {f"{base}.{alias.name}" for alias in node.names}
            submodules = names & SOURCES.keys()
            found |= submodules
            if submodules != names:
                found.add(base)
    return found


def _imports(module: str) -> set[str]:
    return _targets(module, list(ast.walk(_tree(module))))


def _imports_on_load(module: str) -> set[str]:
    """What importing the module imports: not what its functions or type checkers do."""
    pending: list[ast.AST] = list(_tree(module).body)
    nodes = []
    while pending:
        node = pending.pop()
        nodes.append(node)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not typing_only and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending += ast.iter_child_nodes(node)
    return _targets(module, nodes)


def _first_party(module: str) -> set[str]:
    return {name for name in _imports(module) if name in SOURCES and name != module}


def _row(module: str) -> int:
    area = module.split(".")[1]
    rows = [row for row, areas in ROWS.items() if area in areas]
    assert rows, f"{module} has no row: give {area!r} one in ROWS of {__file__}"
    return rows[0]


def _family(module: str) -> str | None:
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["plugins"] and len(parts) > 2 else None


def test_the_project_is_found() -> None:
    assert {"mtard_tf", "mtard_tf.losses", "mtard_tf.threat", "mtard_tf.plugins"} <= SOURCES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_rows_below(module: str) -> None:
    row = _row(module)
    for name in _first_party(module) - {"mtard_tf"}:
        excused = EXCEPTIONS.get(module)
        if excused and (name == excused or name.startswith(f"{excused}.")):
            continue
        assert _row(name) in ALLOWED[row], (
            f"{module} (row {row}) imports {name} (row {_row(name)}); "
            f"row {row} may import rows {sorted(ALLOWED[row])}"
        )


@pytest.mark.parametrize("module", [name for name in MODULES if _family(name)])
def test_a_family_never_imports_another(module: str) -> None:
    others = {_family(name) for name in _first_party(module)} - {None, _family(module)}
    assert not others, f"{module} imports from the families {sorted(map(str, others))}"


@pytest.mark.parametrize("module", MODULES)
def test_names_are_imported_from_their_own_module(module: str) -> None:
    """`mtard_tf` itself is for users: taken from inside, its lazy names would hide an import."""
    names = {
        alias.name
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ImportFrom) and _absolute(module, node) == "mtard_tf"
        for alias in node.names
        if f"mtard_tf.{alias.name}" not in SOURCES
    }
    assert names <= {"__version__"}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_first_party_imports_exist_and_say_mtard_tf(module: str) -> None:
    for name in _imports(module):
        top = name.split(".")[0]
        assert top not in {"plugins", "tests", "configs"}, f"{module} imports {name}"
        if top == "mtard_tf":
            assert name in SOURCES, f"{module} imports {name}, which no file holds"


def test_no_import_cycle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "cycle: " + " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in sorted(_first_party(module)):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(SOURCES):
        visit(module, ())


@pytest.mark.parametrize("module", [name for name in MODULES if _row(name) == 0])
def test_row_0_needs_tensorflow_and_keras_only(module: str) -> None:
    tops = {name.split(".")[0] for name in _imports(module)} - {"mtard_tf"}
    others = tops - sys.stdlib_module_names - {"keras", "numpy", "tensorflow"}
    assert not others, f"{module} imports {sorted(others)}"


@pytest.mark.parametrize("module", [name for name in MODULES if _row(name) in {0, 1, 3}])
def test_maths_parts_and_families_do_not_know_gin(module: str) -> None:
    assert "gin" not in {name.split(".")[0] for name in _imports(module)}


LIGHT = ["mtard_tf", "mtard_tf.plugins", *(name for name in MODULES if _row(name) == 5)]


@pytest.mark.parametrize("module", LIGHT)
def test_nothing_heavy_is_imported_on_load(module: str) -> None:
    """Follows first-party imports, and the packages above them, so that `--help` is immediate."""
    seen = {module}
    pending = [(module,)]
    while pending:
        path = pending.pop()
        loaded = _imports_on_load(path[-1])
        heavy = {name for name in loaded if name.split(".")[0] in HEAVY}
        assert not heavy, f"{' -> '.join(path)} imports {sorted(heavy)} when it is loaded"
        parents = {name.rsplit(".", depth)[0] for name in loaded for depth in range(4)}
        for name in sorted(parents & SOURCES.keys() - seen):
            seen.add(name)
            pending.append((*path, name))


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_every_module_has_a_docstring(module: str) -> None:
    assert ast.get_docstring(_tree(module)), f"{SOURCES[module]} has no docstring"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("mtard_tf.bin.")])
def test_binaries_are_thin(module: str) -> None:
    lines = len(SOURCES[module].read_text(encoding="utf-8").splitlines())
    assert lines < MAX_BINARY_LINES, f"{module} has {lines} lines"


def test_no_file_is_named_for_nothing() -> None:
    vague = [p for p in SOURCES.values() if p.name in {"utils.py", "helpers.py", "common.py"}]
    assert not vague, f"name {vague} after what they do"


def test_gin_holds_only_gin_files() -> None:
    files = [path for path in (ROOT / "gin").rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix != ".gin"] == []


def test_plugins_and_tests_are_not_packages() -> None:
    assert not (ROOT / "plugins" / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("*_test.py")]
    assert len(names) == len(set(names))
