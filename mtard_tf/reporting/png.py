"""Small images as `data:` URIs of PNG."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

# An image is shown smaller above this many pixels a side: a page is mailed.
LARGEST = 112


def data_uri(image: np.ndarray) -> str:
    """A `data:image/png` URI, the same bytes on every machine with the same Pillow and zlib.

    Args:
      image: uint8 `[height, width, channels]`; of other than 1 or 3 channels their mean is shown.
    """
    text = base64.b64encode(encoded(_shown(image))).decode("ascii")
    return f"data:image/png;base64,{text}"


def difference(clean: np.ndarray, attacked: np.ndarray) -> tuple[np.ndarray, int]:
    """The change of an image around mid-grey, amplified as far as it fits.

    Args:
      clean: uint8 `[height, width, channels]`.
      attacked: the same.

    Returns:
      The picture, uint8, and the gain, a whole number of at least 1.
    """
    change = attacked.astype(np.int32) - clean.astype(np.int32)
    gain = max(1, 127 // max(int(np.abs(change).max()), 1))
    return np.clip(128 + gain * change, 0, 255).astype(np.uint8), gain


def panel(clean: np.ndarray, attacked: np.ndarray) -> np.ndarray:
    """An image, the same attacked, and their `difference`, side by side.

    Args:
      clean: uint8 `[height, width, channels]`.
      attacked: the same.

    Returns:
      uint8 `[height, 3 * width + 4, 1 or 3]`; white lines of 2 pixels between them.
    """
    parts = [_coloured(one) for one in (clean, attacked, difference(clean, attacked)[0])]
    line = np.full((len(parts[0]), 2, parts[0].shape[-1]), 255, np.uint8)
    return np.concatenate([parts[0], line, parts[1], line, parts[2]], axis=1)


def scale(image: np.ndarray) -> int:
    """How many pixels a side become one when the image is shown."""
    return -(-max(image.shape[:2]) // LARGEST)


def _shown(image: np.ndarray) -> np.ndarray:
    image, step = _coloured(image), scale(image)
    if step == 1:
        return image
    height, width = (side // step for side in image.shape[:2])
    blocks = image[: height * step, : width * step].reshape(height, step, width, step, -1)
    return np.round(blocks.mean(axis=(1, 3))).astype(np.uint8)


def _coloured(image: np.ndarray) -> np.ndarray:
    """The image; of other than 1 or 3 channels their mean."""
    if image.shape[-1] in (1, 3):
        return image
    return np.round(image.mean(axis=-1, keepdims=True)).astype(np.uint8)


def encoded(image: np.ndarray) -> bytes:
    """A PNG of uint8 `[height, width, channels]`, of 1 or 3 channels."""
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()
