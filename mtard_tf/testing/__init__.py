"""Tests that every plugin should pass, and data small enough for them.

    from mtard_tf.testing import AttackContract, DistillerContract
    import my_package  # registers them

    class TestMyDistiller(DistillerContract):
        names = ("my_distiller",)

    class TestMyAttack(AttackContract):
        attacks = {"my_attack": my_package.MyAttack(num_steps=4)}

The contracts need pytest; `tiny_data` does not.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "AttackContract": "attack_contract",
    "DistillerContract": "distiller_contract",
    "tiny_data": "tiny",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__name__}.{_HOMES[name]}"
    if name.endswith("Contract"):
        _pytest_for(name).register_assert_rewrite(module)  # failures show the values
    return getattr(importlib.import_module(module), name)


def _pytest_for(name: str) -> Any:
    try:
        return importlib.import_module("pytest")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"mtard_tf.testing.{name} needs pytest: pip install 'mtard_tf[test]'."
        ) from None
