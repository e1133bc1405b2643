"""Attacks that bring their own loss say so, instead of ignoring the caller's."""

from __future__ import annotations


def refuse(why: str, objective: object) -> None:
    """Raises `ValueError` if the caller gave an objective to an attack that has none to replace."""
    if objective is not None:
        raise ValueError(f"{why}; give no objective (PGD and APGD take one).")
