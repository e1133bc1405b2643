"""Holds the table of layers by reading imports with `ast`; no module of the project is imported."""

from __future__ import annotations

import ast
import collections
import functools
import os
import pathlib
import sys

import pytest

# Not resolved: under Bazel this stays inside the runfiles.
ROOT = pathlib.Path(os.path.abspath(__file__)).parent.parent

# From the ground up: a package or module imports from the levels below its own, and within a level
# only what BESIDE names. Families are above the distiller and reached through the registry only.
LEVELS = (
    ("keras_environment", "losses", "threat", "schedules", "optimizers", "files", "monitor"),
    ("data", "distribute", "processes"),
    ("attacks", "models", "built_ins", "registry", "reporting", "runtimes"),
    ("distiller", "auditing", "importing", "measuring", "mixing"),
    ("plugins",),
    ("experiment",),
    ("config",),
    ("running", "exporting"),
    ("comparing", "planning"),
    ("commands", "testing", "api"),
    ("bin",),
)
BESIDE = {("registry", "built_ins"), ("runtimes", "models")}

HEAVY = {"cleverhans", "keras", "matplotlib", "tensorflow", "tensorflow_datasets"}
MAX_BINARY_LINES = 60
MAX_MODULE_LINES = 250
MAX_FUNCTION_LINES = 45  # its docstring apart


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


def _area(module: str) -> str:
    """The package, or the module at the top, that a module belongs to."""
    return module.split(".")[1]


def _level(module: str) -> int:
    levels = [level for level, areas in enumerate(LEVELS) if _area(module) in areas]
    assert levels, f"{module} has no level: give {_area(module)!r} one in LEVELS of {__file__}"
    return levels[0]


def _family(module: str) -> str | None:
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["plugins"] and len(parts) > 2 else None


def test_the_project_is_found() -> None:
    assert {"mtard_tf", "mtard_tf.losses", "mtard_tf.threat", "mtard_tf.plugins"} <= SOURCES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_levels_below(module: str) -> None:
    for name in _first_party(module) - {"mtard_tf"}:
        if _area(name) == _area(module) or (_area(module), _area(name)) in BESIDE:
            continue
        assert _level(name) < _level(module), (
            f"{module} (level {_level(module)}) imports {name} (level {_level(name)})"
        )
        if name != "mtard_tf.plugins":
            assert _area(name) != "plugins", f"{module} imports {name}; ask the registry for it"


def test_the_top_is_a_table_of_contents() -> None:
    assert len(list((ROOT / "mtard_tf").glob("*.py"))) <= 12
    sizes = collections.Counter(
        m.rpartition(".")[0] for m in MODULES if SOURCES[m].name != "__init__.py"
    )
    large = {area: size for area, size in sizes.items() if size > 20}
    assert set(large) <= {"mtard_tf", "mtard_tf.attacks"}, f"more than 20 modules: {large}"


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_are_short(module: str) -> None:
    lines = SOURCES[module].read_text(encoding="utf-8").count("\n")
    assert lines < MAX_MODULE_LINES, f"{module} has {lines} lines: divide it"
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.FunctionDef):
            length = _length(node) - (_length(node.body[0]) if ast.get_docstring(node) else 0)
            assert length <= MAX_FUNCTION_LINES, f"{module}.{node.name} has {length} lines"


def test_the_python_api_is_a_facade() -> None:
    assert SOURCES["mtard_tf.api"].read_text(encoding="utf-8").count("\n") < 200


def _length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("module", MODULES)
def test_private_names_stay_in_their_package(module: str) -> None:
    taken = {
        f"{_absolute(module, node)}.{alias.name}"
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ImportFrom) and _absolute(module, node) in SOURCES
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    }
    package = SOURCES[module].parent
    foreign = [name for name in taken if SOURCES[name.rpartition(".")[0]].parent != package]
    assert not foreign, f"{module} imports {foreign}"


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


FORMULAS = ("losses", "schedules", "optimizers")


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_need_tensorflow_and_keras_only(name: str) -> None:
    tops = {found.split(".")[0] for found in _imports(f"mtard_tf.{name}")} - {"mtard_tf"}
    others = tops - sys.stdlib_module_names - {"keras", "numpy", "tensorflow"}
    assert not others, f"{name} imports {sorted(others)}"


GIN_FREE = (
    *("attacks", "data", "distiller", "distribute"),
    *("losses", "measuring", "models", "plugins"),
)


@pytest.mark.parametrize("module", [name for name in MODULES if _area(name) in GIN_FREE])
def test_parts_and_families_do_not_know_gin(module: str) -> None:
    assert "gin" not in {name.split(".")[0] for name in _imports(module)}


LIGHT = ["mtard_tf", "mtard_tf.plugins", *(name for name in MODULES if _area(name) == "bin")]


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


def test_files_are_where_and_named_as_agreed() -> None:
    vague = [p for p in SOURCES.values() if p.name in {"utils.py", "helpers.py", "common.py"}]
    assert not vague, f"name {vague} after what they do"
    files = [path for path in (ROOT / "gin").rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix != ".gin"] == []
    # A test would be imported under a second name.
    assert not (ROOT / "plugins" / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
    names = [path.name for path in (ROOT / "tests").rglob("*_test.py")]
    assert len(names) == len(set(names))
