"""A Markdown table on standard output."""

from __future__ import annotations

from mtard_tf.reporting.tables import Table


def table(header: list[str], rows: list[list[object]], number: str = ".3g") -> None:
    """Prints a table; floats in the format `number`."""
    cells = [[f"{v:{number}}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    print("", *Table(header, cells).markdown(), "", sep="\n", flush=True)
