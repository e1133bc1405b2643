"""DeepMind's `.npy` of Haiku parameters and state, and `.npz` of named arrays.

The `.npy` holds two pickled mappings, (parameters, state), from module to name to array; see
adversarial_robustness/jax in google-deepmind/deepmind-research. Names and layout become PyTorch's.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtard_tf.importing import pickles
from mtard_tf.importing.tensors import Tensor, WeightsFileError, damaged

# Haiku's name of an array -> PyTorch's. The averages of `mean_ema` are those of a BatchNorm.
_NAMES = {
    "w": "weight",
    "b": "bias",
    "scale": "weight",
    "offset": "bias",
    "mean_ema.average": "running_mean",
    "var_ema.average": "running_var",
}
# State of the moving averages; inference does not use it.
_IGNORED = ("counter", "hidden")


def read_npy(path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors by name, such as `resnet_lay_0_block_0.conv_0.weight`.

    Raises:
      WeightsFileError: as `pickles.load`, or not a pair of mappings.
    """
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            dtype = header(file)[2]
        except Exception as error:  # a header is a Python literal, and its parser fails variously
            raise damaged(path, error) from error
        value = pickles.load(file, path.name) if dtype.hasobject else None
    pair = getattr(value, "value", None)
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, dict) for p in pair)):
        raise WeightsFileError(
            f"{path} is not a pair (parameters, state) of Haiku; other arrays come as .npz."
        )
    tensors: dict[str, Tensor] = {}
    for part in pair:
        for module, arrays in part.items():
            if not isinstance(arrays, Mapping):
                raise WeightsFileError(f"{path}: {str(module)[:80]} is not a mapping of arrays.")
            for name, array in arrays.items():
                _add(tensors, str(module), str(name), array)
    return tensors


def read_npz(path: pathlib.Path) -> dict[str, Tensor]:
    """The arrays of a PyTorch `state_dict` by name.

    Raises:
      WeightsFileError: a damaged file, or one with pickled objects.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile's, NumPy's and zlib's, for one cause
        raise damaged(path, error) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            raise WeightsFileError(f"{path} has {name!r}, which is not an array of numbers.")
    return {name: _held(array) for name, array in arrays.items()}


def _add(tensors: dict[str, Tensor], module: str, name: str, array: Any) -> None:
    # Haiku marks modules made in __init__ with "~", and begins each path with the net's name.
    path = [part for part in module.split("/") if part != "~"][1:]
    if path and path[-1].endswith("_ema"):
        name = f"{path.pop()}.{name}"
    if name.rpartition(".")[2] in _IGNORED:
        return
    array = getattr(array, "value", None)
    if not isinstance(array, np.ndarray) or name not in _NAMES:
        raise WeightsFileError(
            f"{module} has {name}, which is not a weight of a convolution, BatchNorm or linear "
            "layer."
        )
    if array.ndim == 4 and name == "w":
        array = array.transpose(3, 2, 0, 1)
    elif name == "w":
        array = array.T
    else:  # [1, 1, 1, channels] of a BatchNorm
        array = array.reshape(-1)
    tensors[".".join([*path, _NAMES[name]])] = _held(array)


def _held(array: np.ndarray) -> Tensor:
    return Tensor(tuple(array.shape), lambda: array)
