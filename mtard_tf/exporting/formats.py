"""The export formats: file names, the runtimes they need, and the checks they must pass.

| format | file | input | runtime |
|---|---|---|---|
| `saved_model` | the folder itself | see `saved_model` | TensorFlow |
| `litert` | `model.tflite` | float32 in [0, 1] | LiteRT |
| `litert_float16` | `model_float16.tflite`, weights of 16 bits | float32 in [0, 1] | LiteRT |
| `litert_int8` | `model_int8.tflite`, integers throughout | uint8, 0 to 255 | LiteRT |
| `onnx` | `model.onnx`, opset 18 | float32 in [0, 1] | ONNX Runtime |

All take `images` `[batch, height, width, channels]` and return `logits` `[batch, classes]`, which
`litert_int8` gives as int8, to be scaled as the file says.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from collections.abc import Sequence

SAVED_MODEL, ONNX, INT8 = "saved_model", "onnx", "litert_int8"
_FEW = 32  # validation images that every stage keeps
_PROBES = 500  # validation images on which files are held against the student
CALIBRATIONS = ("clean", "mixed")

# Distribution -> the oldest version that was tried; as in pyproject.toml's extra.
EXTRA = "deploy"
OLDEST = {
    "ai-edge-litert": (2, 0),
    "onnx": (1, 17),
    "onnxruntime": (1, 20),
    "tf2onnx": (1, 17),
}


class ExportError(ValueError):
    """A failed export, which leaves nothing on disk. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
      file: its name in the version's folder; empty for the folder itself.
      needs: distributions that convert it and run it.
      exact: whether its logits must equal the student's; else its labels must agree.
    """

    file: str
    needs: tuple[str, ...]
    exact: bool


_LITERT = ("ai-edge-litert",)
FORMATS = {
    SAVED_MODEL: Format("", (), exact=True),
    "litert": Format("model.tflite", _LITERT, exact=True),
    "litert_float16": Format("model_float16.tflite", _LITERT, exact=False),
    INT8: Format("model_int8.tflite", _LITERT, exact=False),
    ONNX: Format("model.onnx", ("onnx", "onnxruntime", "tf2onnx"), exact=True),
}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which files to write, and what they have to reach.

    Attributes:
      names: of `FORMATS`.
      calibration: images that give `litert_int8` its ranges: "clean" training images, or "mixed":
        the same ones attacked as well, by PGD at the threat's epsilon.
      calibration_images: how many training images.
      min_agreement: share of validation images on which a file that rounds must give the student's
        label.
      max_robust_drop: how much of its worst case `litert_int8` may lose, as a share of the images;
        what loses more is tried in other ways, then refused. None measures nothing.
      robust_examples: validation images on which that is measured.
      calibrate: whether to fit a temperature to the logits, see `exporting.calibration`.
      coverage: share of the images that are to reach the threshold of confidence.

    Raises:
      ExportError: an unknown name or calibration, a number out of range, or a runtime that is
        missing or too old.
    """

    names: Sequence[str] = (SAVED_MODEL,)
    calibration: str = "clean"
    calibration_images: int = 300
    min_agreement: float = 0.98
    max_robust_drop: float | None = None
    robust_examples: int = 200
    calibrate: bool = False
    coverage: float = 0.9

    def __post_init__(self) -> None:
        if not self.names:
            raise ExportError(f"No format is named; give some of {', '.join(FORMATS)}.")
        for name in self.names:
            if name not in FORMATS:
                raise ExportError(f"{name!r} is not a format; use one of {', '.join(FORMATS)}.")
        if self.calibration not in CALIBRATIONS:
            raise ExportError(
                f"calibration is {self.calibration!r}; use one of {', '.join(CALIBRATIONS)}."
            )
        if self.calibration_images < 1:
            raise ExportError(f"calibration_images is {self.calibration_images}; give 1 or more.")
        if not 0 <= self.min_agreement <= 1:
            raise ExportError(f"min_agreement is {self.min_agreement}; give a share from 0 to 1.")
        if self.max_robust_drop is not None and not 0 <= self.max_robust_drop <= 1:
            raise ExportError(
                f"max_robust_drop is {self.max_robust_drop}; give a share from 0 to 1."
            )
        if self.robust_examples < 1:
            raise ExportError(f"robust_examples is {self.robust_examples}; give 1 or more.")
        if self.max_robust_drop is not None and INT8 not in self.names:
            raise ExportError(f"max_robust_drop is of {INT8}; ask for that format as well.")
        if not 0 < self.coverage <= 1:
            raise ExportError(
                f"coverage is {self.coverage}; give a share of the images above 0, at most 1."
            )
        for name in self.names:
            _check_runtimes(name)

    @property
    def needs_data(self) -> bool:
        """Whether more is needed than the 32 images that every stage keeps."""
        return self.calibrate or any(name != SAVED_MODEL for name in self.names)

    @property
    def probes(self) -> int:
        """On how many validation images the files are held against the student."""
        return _PROBES if self.needs_data else _FEW


def _check_runtimes(name: str) -> None:
    """Refuses a format whose runtimes are missing or too old; none is imported."""
    for distribution in FORMATS[name].needs:
        oldest = ".".join(map(str, OLDEST[distribution]))
        try:
            found = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found = ""
        numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
        if numbers < OLDEST[distribution]:
            state = f"{distribution} {found} is too old" if found else f"{distribution} is missing"
            raise ExportError(
                f"The format {name} needs {distribution} {oldest} or newer, and {state}: "
                f"pip install 'mtard_tf[{EXTRA}]'."
            )
