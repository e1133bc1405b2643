"""How much is tested, in three ratios: `python benchmarks/test_ratios.py`, in a checkout.

A numeric check compares computed numbers: a call of `numpy.testing` or `pytest.approx`. An
assertion that compares with a number written down counts for the last ratio only.
"""

from __future__ import annotations

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
NUMERIC = {
    *("approx", "assert_allclose", "assert_array_equal", "assert_array_less"),
    *("assert_array_almost_equal", "assert_equal"),
}


def called(node: ast.AST) -> str:
    """Name of the function that a call is of, without its module; "" if it is no call."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def compares_with_a_number(node: ast.AST) -> bool:
    if not isinstance(node, ast.Assert):
        return False
    parts = list(ast.walk(node.test))
    numbers = (isinstance(x, ast.Constant) and type(x.value) in (int, float) for x in parts)
    compared = any(isinstance(x, ast.Compare) for x in parts)
    return compared and not NUMERIC & set(map(called, parts)) and any(numbers)


def main() -> None:
    sources = [p for folder in ("mtard_tf", "plugins") for p in (ROOT / folder).rglob("*.py")]
    tests = list((ROOT / "tests").glob("*.py"))
    lines = [sum(len(p.read_text().splitlines()) for p in paths) for paths in (tests, sources)]
    # The contracts that plugins keep are tests as well.
    nodes = [
        node
        for path in [*tests, *(ROOT / "mtard_tf" / "testing").glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    functions = sum(isinstance(n, ast.FunctionDef) and n.name.startswith("test_") for n in nodes)
    numeric = sum(called(node) in NUMERIC for node in nodes)
    written = sum(map(compares_with_a_number, nodes))
    print(f"test lines / source lines: {lines[0]:,} / {lines[1]:,} = {lines[0] / lines[1]:.2f}")
    print(f"numeric checks per test: {numeric} / {functions} = {numeric / functions:.2f}")
    both = numeric + written
    print(f"with written numbers: {both} / {functions} = {both / functions:.2f}")


if __name__ == "__main__":
    main()
