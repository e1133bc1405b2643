"""A Markdown table on standard output."""

from __future__ import annotations


def table(header: list[str], rows: list[list[object]], number: str = ".3g") -> None:
    """Prints a table; floats in the format `number`."""
    print("\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    for row in rows:
        cells = (f"{v:{number}}" if isinstance(v, float) else str(v) for v in row)
        print("| " + " | ".join(cells) + " |")
    print(flush=True)
