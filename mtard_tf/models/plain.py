"""Which models can be rebuilt, layer by layer, with other layers in some places."""

from __future__ import annotations

from typing import Any


def is_plain(model: Any) -> bool:
    """Whether a model is functional, and computes no more than its layers say.

    Not one that is Sequential, a SavedModel, or of a class of its own, which may do more in `call`.
    """
    # Only functional models have operations.
    return hasattr(model, "operations") and type(model).__module__.partition(".")[0] == "keras"
