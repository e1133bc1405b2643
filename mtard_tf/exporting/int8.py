"""`litert_int8`, tried in several ways until it keeps the student's robustness."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from mtard_tf.data.image_data import ImageData
from mtard_tf.exporting import converting
from mtard_tf.exporting.calibration_images import calibration_images
from mtard_tf.exporting.formats import INT8, ExportError, Wanted
from mtard_tf.exporting.worst_case import WorstCase
from mtard_tf.threat import ThreatModel


@dataclasses.dataclass(frozen=True)
class Way:
    """How a file is quantised: the kind of its calibration, and whether its ends stay floats."""

    calibration: str
    float_ends: bool = False

    def __str__(self) -> str:
        ends = ", first and last layer in float32" if self.float_ends else ""
        return f"{self.calibration} calibration, weights per channel{ends}"


def ways(wanted: Wanted) -> list[Way]:
    """What is tried, in this order: as asked; only then, if robustness has to be kept, others."""
    asked = Way(wanted.calibration)
    if wanted.max_robust_drop is None:
        return [asked]
    return list(dict.fromkeys([asked, Way("mixed"), Way("mixed", float_ends=True)]))


def write(
    student: Any,
    source: pathlib.Path,
    file: pathlib.Path,
    wanted: Wanted,
    data: ImageData,
    threat: ThreatModel,
    prove: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Writes the first file that keeps what is wanted.

    Args:
      student: from float32 images in [0, 1] to logits.
      source: from `converting.source`.
      file: to write.
      wanted: `min_agreement`, `max_robust_drop` and the calibration.
      data: training images for the ranges, validation images for the worst case.
      threat: of both.
      prove: holds the written file against the student, see `proof.prove`.

    Returns:
      What `prove` does, with `calibration`, and `robust` where it was measured.

    Raises:
      ExportError: none of them does; the message says what was tried.
    """
    limit = wanted.max_robust_drop
    worst = None if limit is None else WorstCase(student, data, threat, wanted.robust_examples)
    tried = []
    for way in ways(wanted):
        images = calibration_images(
            data, wanted.calibration_images, way.calibration, student, threat
        )
        converting.convert(INT8, source, file, {}, images, way.float_ends)
        try:
            known = prove() | {"calibration": {"kind": str(way), "images": len(images)}}
        except ExportError as error:
            if worst is None:
                raise
            tried.append(f"{way}: {error}")
            continue
        if worst is None or limit is None:
            return known
        robust = worst.of_file(file)
        if robust["float"] - robust["file"] <= limit:
            return known | {"robust": robust}
        tried.append(f"{way}: {robust['float']:.1%} -> {robust['file']:.1%}")
    raise ExportError(
        f"No litert_int8 keeps the worst case within {limit:.1%} on {wanted.robust_examples} "
        f"validation images ({'; '.join(tried)}): take litert_float16, train with "
        "Stage.quantization = 'int8', or allow more by --max_robust_drop; nothing was written."
    )
