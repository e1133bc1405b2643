"""The package's sources, parsed without importing them, for the page of gin selectors."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

import griffe

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# Selectors beside the built-ins, as `mtard_tf.config.bindable` has them: kind -> where their names
# stand, a tuple of classes or a dict.
_TABLES = {
    "averaging": ("mtard_tf.distiller.averaging", "RULES"),
    "schedules": ("mtard_tf.schedules", "SCHEDULES"),
    "optimizers": ("mtard_tf.optimizers", "OPTIMIZERS"),
}


class Sources:
    """The package as griffe reads it, its families included."""

    def __init__(self) -> None:
        self.loader = griffe.GriffeLoader(search_paths=[ROOT], allow_inspection=False)
        self.loader.load("mtard_tf")
        for family in sorted((ROOT / "plugins").glob("*/__init__.py")):
            # In a checkout the families lie beside the package, which a bridge hides.
            loader = griffe.GriffeLoader(
                search_paths=[ROOT / "plugins"],
                allow_inspection=False,
                modules_collection=self.loader.modules_collection,
            )
            name = family.parent.name
            self["mtard_tf.plugins"].set_member(name, loader.load(name))

    def __getitem__(self, path: str) -> griffe.Object:
        found = self.loader.modules_collection[path]
        return found.final_target if found.is_alias else found  # type: ignore[return-value]

    def tree(self, module: str) -> ast.Module:
        """The syntax of a module."""
        return ast.parse(pathlib.Path(str(self[module].filepath)).read_text("utf-8"))


def bindable(package: Sources) -> Iterator[tuple[str, str]]:
    """Selector -> path of those that are no plugins."""
    module = "mtard_tf.config.bindable"
    table = assigned(package.tree(module), "BINDABLE")
    assert isinstance(table, ast.Dict)
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Constant):
            path = f"{module}.{ast.unparse(value)}"
            yield str(key.value), _resolved(package, path)
    for kind, (home, name) in _TABLES.items():
        listed = assigned(package.tree(home), name)
        if isinstance(listed, ast.Dict):
            pairs = zip(listed.keys, listed.values, strict=True)
            names = [(ast.literal_eval(key), ast.unparse(value)) for key, value in pairs if key]
        else:
            assert isinstance(listed, ast.Tuple)
            names = [(ast.unparse(entry),) * 2 for entry in listed.elts]
        yield from ((f"{kind}.{key}", f"{home}.{value}") for key, value in names)


def _resolved(package: Sources, path: str) -> str:
    """`bindable.stage_lists.chain` -> the path at which it is defined."""
    module, rest = "mtard_tf.config.bindable", path.removeprefix("mtard_tf.config.bindable.")
    first, _, further = rest.partition(".")
    imported = package[module].members[first]
    target = imported.target_path if imported.is_alias else imported.path  # type: ignore
    return f"{target}.{further}".rstrip(".")


def assigned(tree: ast.Module, name: str) -> ast.expr:
    """What a module assigns to a name, also as one of several at once."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and target.id == name:
                return value
            if isinstance(target, ast.Tuple):
                for one, part in zip(target.elts, getattr(value, "elts", ()), strict=False):
                    if isinstance(one, ast.Name) and one.id == name:
                        return part
    raise LookupError(f"nothing is assigned to {name}")
