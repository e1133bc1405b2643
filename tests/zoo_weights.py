"""Random weights of the zoo's nets, by the names of PyTorch: equal wherever NumPy is.

Shared by `torch_zoo.py`, which puts them into nets of PyTorch, and the tests, which import them.
`reference/zoo_logits.npz` holds what `torch_zoo.py` found.
"""

from __future__ import annotations

import json
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

REFERENCE = pathlib.Path(__file__).parent / "reference" / "zoo_logits.npz"

# The last convolution of a residual block: damped, so that logits of 100 layers stay near 1.
_LAST = re.compile(r"(layer|block)s?\d*\..*(conv2|conv_1)\.weight$")


def shapes(net: str) -> list[tuple[str, list[int]]]:
    """Names and shapes of a net's weights in PyTorch, in order."""
    with np.load(REFERENCE) as file:
        return json.loads(str(file[f"{net}/shapes"]))


def state(net: str) -> dict[str, np.ndarray]:
    """Its `state_dict`, random."""
    return dict(weights(shapes(net)))


def logits(net: str, size: int) -> np.ndarray:
    """What it answers to `images(size)` in PyTorch."""
    with np.load(REFERENCE) as file:
        return file[f"{net}/{size}"]


def weights(shapes: Iterable[tuple[str, list[int]]]) -> Iterator[tuple[str, np.ndarray]]:
    """float32 arrays by name, in order; each is a function of its name and shape alone."""
    for name, shape in shapes:
        random = np.random.RandomState(zlib.crc32(name.encode()))
        yield name, _weight(name, shape, random).astype(np.float32)


def _weight(name: str, shape: list[int], random: np.random.RandomState) -> np.ndarray:
    damping = 0.3 if _LAST.search(name) else 1.0
    if len(shape) == 4:
        return damping * random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    if len(shape) == 2:
        return random.randn(*shape) / np.sqrt(shape[1])
    if name.endswith("running_var"):
        return random.uniform(0.7, 1.4, shape)
    if name.endswith("weight"):
        return damping * random.uniform(0.7, 1.3, shape)
    return random.uniform(-0.2, 0.2, shape)


def images(size: int) -> np.ndarray:
    """Two images of coloured quarters and noise, `[2, size, size, 3]`, float32 in [0, 1]."""
    random = np.random.RandomState(size)
    quarters = random.uniform(0, 0.7, (2, 2, 2, 3)).repeat(size // 2, 1).repeat(size // 2, 2)
    return (quarters + random.uniform(0, 0.3, (2, size, size, 3))).astype(np.float32)
