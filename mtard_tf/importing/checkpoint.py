"""A file of weights in any supported format, as names and tensors."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mtard_tf.importing import numpy_files, safetensors_files, torch_files
from mtard_tf.importing.tensors import Tensor, WeightsFileError

# Prefixes of wrappers: DataParallel, torch.compile, a module that holds the net.
_PREFIXES = re.compile(r"^(?:(?:module|model|net|_orig_mod)\.)+")
# Levels of dicts around a state_dict: {"checkpoint": {"state_dict": ...}}.
_DEPTH = 2
_KERNEL_RANKS = (2, 4)
# Names of the mean and the standard deviation per channel in normalisation modules.
_MEANS = ("mean", "new_mean", "mu")
_DEVIATIONS = ("std", "new_std", "sigma")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The weights of one net.

    Attributes:
      path: the file.
      form: the file format, for messages.
      tensors: by name, without wrappers' prefixes, in the order of the file.
      statistics: (mean, standard deviation) per channel by which the net normalises images; None
        if the file does not hold them.
    """

    path: pathlib.Path
    form: str
    tensors: Mapping[str, Tensor]
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def modules(self) -> dict[str, dict[str, Tensor]]:
        """Name of a layer -> "weight", "bias", "running_mean", ... -> tensor, in order."""
        modules: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            module, _, kind = name.rpartition(".")
            modules.setdefault(module, {})[kind] = tensor
        return modules


def read(path: str | pathlib.Path, key: str | None = None) -> Checkpoint:
    """Reads the names and shapes of a file; values are read on access.

    Args:
      path: `.pt`, `.pth`, `.th` of `torch.save` (any version), `.safetensors`, `.npz` of a
        state_dict, or DeepMind's `.npy`. The format is read from the content, not the name.
      key: which of several state_dicts in the file, such as "ema_state_dict".

    Raises:
      WeightsFileError: no such file, an unknown format, a damaged file, names that ask to run code,
        no weights, or a name twice.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise WeightsFileError(f"There is no file {path}; --source is a file of weights.")
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"PK"):
        if path.suffix == ".npz":
            return _checkpoint(path, "NumPy archive", numpy_files.read_npz(path), key)
        return _checkpoint(path, "PyTorch zip archive", torch_files.read_zip(path), key)
    if head.startswith(b"\x93NUMPY"):
        return _checkpoint(path, "Haiku arrays", numpy_files.read_npy(path), key)
    if torch_files.is_legacy(path):
        return _checkpoint(path, "PyTorch file of before 1.6", torch_files.read_legacy(path), key)
    if safetensors_files.is_safetensors(path):
        return _checkpoint(path, "safetensors", safetensors_files.read(path), key)
    raise WeightsFileError(
        f"{path} begins with {head!r}, which no known format does; give a file of torch.save, a "
        ".safetensors, an .npz, or DeepMind's .npy."
    )


def _checkpoint(path: pathlib.Path, form: str, value: Any, key: str | None) -> Checkpoint:
    found = dict(_state_dicts(value, "", 0))
    if key is None and len(found) > 1:
        raise WeightsFileError(
            f"{path} holds several nets: {', '.join(map(repr, found))}; choose with --key."
        )
    if not found or (key is not None and key not in found):
        keys = ", ".join(map(repr, found)) or "none"
        asked = f" under {key!r}" if key is not None else ""
        raise WeightsFileError(
            f"{path} has no weights{asked} (found: {keys}); give a file with a state_dict: names "
            "and tensors."
        )
    tensors: dict[str, Tensor] = {}
    for name, tensor in found[key if key is not None else next(iter(found))].items():
        short = _PREFIXES.sub("", name)
        if short in tensors:
            raise WeightsFileError(
                f"{path} has {short!r} twice, under different prefixes; save one net alone."
            )
        # Used by BatchNorm without momentum alone, in training.
        if not short.endswith("num_batches_tracked"):
            tensors[short] = tensor
    statistics = _take_statistics(tensors)
    return Checkpoint(path, form, _without_index(tensors), statistics)


def _take_statistics(
    tensors: dict[str, Tensor],
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Removes mean and standard deviation per channel from the tensors, and returns them."""
    found: list[tuple[float, ...]] = []
    names: list[str] = []
    for kinds in (_MEANS, _DEVIATIONS):
        fitting = [
            name
            for name, tensor in tensors.items()
            # [channels], [channels, 1, 1] or [1, channels, 1, 1].
            if name.rpartition(".")[2] in kinds and tensor.size == max(tensor.shape, default=0)
        ]
        if len(fitting) != 1:
            return None
        names += fitting
        found.append(tuple(map(float, tensors[fitting[0]].numpy().ravel())))
    for name in names:
        del tensors[name]
    return found[0], found[1]


def _without_index(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drops the index of the net in Sequential(normalisation, net): "1.conv1.weight"."""
    heads = {name.split(".")[0] for name in tensors}
    head = heads.pop() if len(heads) == 1 else ""
    if not head.isdigit():
        return tensors
    return {name.removeprefix(f"{head}."): tensor for name, tensor in tensors.items()}


def _state_dicts(value: Any, path: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(path, state_dict) of each mapping of names to tensors that holds a kernel."""
    if not isinstance(value, Mapping):
        return
    tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if any(len(tensor.shape) in _KERNEL_RANKS for tensor in tensors.values()):
        yield path, tensors
    elif depth < _DEPTH:
        for key, part in value.items():
            if isinstance(key, str):
                yield from _state_dicts(part, f"{path}.{key}" if path else key, depth + 1)
