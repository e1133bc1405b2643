"""The page of gin selectors: their parameters, defaults and meanings, read from the sources.

Nothing is imported but the table of built-ins, so that TensorFlow is not needed.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from typing import Any

import griffe
from package_sources import Sources, assigned, bindable

from mtard_tf.built_ins import BUILT_INS

# Kind -> parameters that the caller gives, and no run file can set.
GIVEN = {
    "distillers": ("student", "teachers", "context"),
    "models": ("image_shape", "num_classes"),
    "optimizers": ("learning_rate",),
}
TITLES = {
    "": "Experiment, stages, suites",
    "distillers": "Distillers",
    "models": "Models",
    "datasets": "Data sets",
    "attacks": "Attacks",
    "measures": "Measures",
    "optimizers": "Optimizers",
    "schedules": "Schedules",
    "averaging": "Averages",
}


@dataclasses.dataclass(frozen=True)
class Selector:
    """What a run file can name.

    Attributes:
      name: as `distillers.bmtard`.
      summary: the docstring without its sections.
      parameters: name -> (default as in the source, or None if it must be given; meaning).
    """

    name: str
    summary: str
    parameters: dict[str, tuple[str | None, str]]

    @property
    def kind(self) -> str:
        return self.name.rpartition(".")[0]


def page() -> str:
    """The page as Markdown."""
    lines = [
        "# Gin selectors",
        "",
        "All that a run file can name, with every parameter and its default. `@distillers.bmtard` "
        "is the part, `distillers.bmtard.weight_rate = 0.05` a setting of it, and "
        "`student/distillers.bmtard.weight_rate` one for the stage `student` alone. A parameter "
        "without a default must be given. What a stage gives its parts is not listed: images' "
        "shape and classes to a model, models to a distiller, the learning rate to an optimizer.",
        "",
    ]
    found = selectors()
    for kind, title in TITLES.items():
        lines += [f"## {title}", ""]
        for selector in (s for s in found if s.kind == kind):
            lines += [f"### {selector.name} {{#{selector.name}}}", "", selector.summary, ""]
            lines += [*_table(selector), ""]
    return "\n".join(lines)


def selectors() -> list[Selector]:
    """Every selector, in the order of the tables."""
    package = Sources()
    paths = {
        f"{kind}.{name}": path.replace(":", ".")
        for kind, table in BUILT_INS.items()
        for name, path in table.items()
    }
    paths |= dict(bindable(package))
    return [_selector(package, name, path) for name, path in paths.items()]


def _selector(package: Sources, name: str, path: str) -> Selector:
    module, _, attribute = path.rpartition(".")
    if module == "mtard_tf.data":  # its names are imported on first use, by a table
        homes = ast.literal_eval(assigned(package.tree(module), "_HOMES"))
        module = f"{module}.{homes[attribute]}"
    try:
        found = package[f"{module}.{attribute}"]
    except KeyError:
        return _made(package, name, module, attribute)
    if not isinstance(found, griffe.Class | griffe.Function):
        return _made(package, name, module, attribute)
    hidden = ("self", *GIVEN.get(name.partition(".")[0], ()))
    documented = [found, *(found.mro() if isinstance(found, griffe.Class) else ())]
    documented += _named(package, module, found.docstring)
    meanings = _meanings(documented)
    return Selector(
        name,
        _summary(found.docstring),
        {
            one.name: (
                None if one.default is None else str(one.default),
                meanings.get(one.name, ""),
            )
            for one in found.parameters
            if one.name not in hidden and not one.name.startswith("_")
            if one.kind is not griffe.ParameterKind.var_keyword
        },
    )


def _made(package: Sources, name: str, module: str, attribute: str) -> Selector:
    """A factory that a function of the module makes: `resnet56 = _of_depth(56)`.

    The module's functions are defined, without its imports, and the one is called: it only puts
    another function together.
    """
    tree = package.tree(module)
    first = [node for node in tree.body if isinstance(node, ast.ImportFrom | ast.FunctionDef)]
    first = [node for node in first if getattr(node, "module", "__future__") == "__future__"]
    names: dict[str, Any] = {"__name__": module}
    exec(compile(ast.Module(list(first), []), module, "exec"), names)
    factory = eval(ast.unparse(assigned(tree, attribute)), names)
    docstring = griffe.Docstring(inspect.cleandoc(factory.__doc__))
    meanings = _meanings(_named(package, module, docstring)) | _meanings_of(docstring)
    return Selector(
        name,
        _summary(docstring),
        {
            one.name: (
                None if one.default is one.empty else repr(one.default),
                meanings.get(one.name, ""),
            )
            for one in inspect.signature(factory).parameters.values()
            if one.name not in GIVEN["models"]
        },
    )


def _named(package: Sources, module: str, docstring: griffe.Docstring | None) -> list[Any]:
    """What a docstring refers to for its parameters: "Arguments as in `tfds`."."""
    found = []
    for name in re.findall(r"`(\w+)`", _summary(docstring)):
        try:
            found.append(package[f"{module}.{name}"])
        except (KeyError, griffe.AliasResolutionError):
            continue
    return found


def _meanings(documented: list) -> dict[str, str]:
    """Parameter -> what it means, as the first of several docstrings says."""
    found: dict[str, str] = {}
    for one in documented:
        texts = [one.docstring]
        if isinstance(one, griffe.Class) and "__init__" in one.members:
            texts.append(one.members["__init__"].docstring)
        for text in filter(None, texts):
            found = _meanings_of(text) | found
    return found


def _meanings_of(docstring: griffe.Docstring) -> dict[str, str]:
    kinds = (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes)
    return {
        entry.name: " ".join(entry.description.split())
        for section in docstring.parse("google", warnings=False)
        if section.kind in kinds
        for entry in section.value
    }


def _summary(docstring: griffe.Docstring | None) -> str:
    """The text before the sections."""
    if docstring is None:
        return ""
    sections = docstring.parse("google", warnings=False)
    return "\n\n".join(
        section.value for section in sections if section.kind is griffe.DocstringSectionKind.text
    )


def _table(selector: Selector) -> list[str]:
    if not selector.parameters:
        return ["No parameters."]
    rows = ["| parameter | default | meaning |", "|---|---|---|"]
    for name, (default, meaning) in selector.parameters.items():
        given = "" if default is None else f"`{_cell(' '.join(default.split()))}`"
        rows.append(f"| `{name}` | {given} | {_cell(meaning)} |")
    return rows


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
