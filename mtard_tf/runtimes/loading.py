"""Any model by where it is: a file of any format, or an address."""

from __future__ import annotations

import pathlib
from typing import Any

from mtard_tf.models import model_files
from mtard_tf.models.model_files import ModelFileError
from mtard_tf.runtimes.artefact import Artefact
from mtard_tf.runtimes.http_client import Limits

_FILES = (".tflite", ".onnx")


def is_address(place: str) -> bool:
    """Whether it names a server, not a file."""
    return place.startswith(("http://", "https://"))


def load(place: Any, image_shape: tuple[int, ...], limits: Limits | None = None) -> Any:
    """A model: a `.keras` file, a SavedModel, a `.tflite` or `.onnx` file, or a served model.

    Args:
      place: a path, or http://HOST:PORT/v1/models/NAME; a model is returned unchanged.
      image_shape: (height, width, channels) of the images to come.
      limits: of a server; default `Limits()`.

    Raises:
      ModelFileError: no such file, or not a model.
      EndpointError: the server does not answer, or not as it should.
    """
    if not isinstance(place, str | pathlib.Path):
        return place
    if is_address(str(place)):
        from mtard_tf.runtimes.endpoint import Endpoint

        return Endpoint(str(place), image_shape, limits or Limits())
    path = pathlib.Path(place)
    if path.suffix not in _FILES:
        return model_files.load(path)
    if not path.is_file():
        raise ModelFileError(f"There is no model at {path}; give a .tflite or .onnx file.")
    if path.suffix == ".tflite":
        from mtard_tf.runtimes.litert import LiteRT

        return LiteRT(path)
    from mtard_tf.runtimes.onnx_file import ONNXFile

    return ONNXFile(path, image_shape)


def default_suite(place: Any) -> str:
    """The suite of a model for which none is named; files of other runtimes have no gradients."""
    is_path = isinstance(place, str | pathlib.Path)
    other = is_path and (is_address(str(place)) or pathlib.Path(place).suffix in _FILES)
    return "artefact" if other else "quick"


def surrogate(model: Any, place: Any, given: Any) -> Any:
    """The net on which transfer attacks are crafted: as given, or the float model beside a file.

    Args:
      model: to attack.
      place: where it is: a path, an address, or the model itself.
      given: a model or its path; None for the one beside a file.

    Raises:
      ModelFileError: no such file, or not a model.
    """
    if given is None and isinstance(model, Artefact):
        given = beside(place)
    return None if given is None else model_files.load(given)


def beside(place: str | pathlib.Path) -> pathlib.Path | None:
    """The float model beside a deployed file: the SavedModel of its folder or `student.keras`."""
    if is_address(str(place)):
        return None
    folder = pathlib.Path(place).parent
    if (folder / "student.keras").is_file():
        return folder / "student.keras"
    return folder if (folder / "saved_model.pb").is_file() else None
