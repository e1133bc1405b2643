"""Detects drift: have the outputs of a served model changed since it was exported?

    from mtard_tf import monitor

    reference = monitor.Reference.load("runs/quickstart/export/student/1")
    said = monitor.compare(probabilities, reference)  # [images, classes], as they were served
    print(said.drift, said)

`mtard-export --calibrate` writes the reference. NumPy alone is imported.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

Histogram: TypeAlias = Mapping[str, np.ndarray]

FILE = "assets.extra/reference.json"  # within the version of an export
NAMES = ("confidence", "entropy", "margin")
LEAST = 50  # images, for the approximations of both tests to hold
_FINE, _COARSE = 100, 10  # bins of KS, and of PSI, of about equal shares of the reference
_DIGITS = 4  # what another runtime may compute otherwise is rounded off
_SHARE = 0.5  # images added to each bin of PSI, so that an empty one is finite


class MonitorError(ValueError):
    """A reference or a window that cannot be used. The message is one line."""


def signals(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """What is watched of each image, float64 `[images]` each.

    `confidence`: the largest probability; `entropy`: -sum p log p, in nats; `margin`: the largest
    less the second.

    Args:
      probabilities: `[images, classes]`, of at least two classes.
    """
    p = np.asarray(probabilities, np.float64)
    second, first = np.partition(p, -2, axis=1)[:, -2:].T
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1)
    found = {"confidence": first, "entropy": entropy, "margin": first - second}
    return {name: np.round(values, _DIGITS) for name, values in found.items()}


def population_stability_index(expected: np.ndarray, found: np.ndarray) -> float:
    """PSI = sum over bins of (q - p) log(q / p), of images by bin of two samples."""
    p, q = (np.asarray(counts, np.float64) + _SHARE for counts in (expected, found))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def kolmogorov_smirnov(expected: np.ndarray, found: np.ndarray) -> float:
    """The greatest distance between the cumulative shares of two samples, of images by bin."""
    first, second = (np.cumsum(counts) / np.sum(counts) for counts in (expected, found))
    return float(np.max(np.abs(first - second)))


def kolmogorov_smirnov_p(distance: float, expected: int, found: int) -> float:
    """How often two samples of one distribution are at least so far apart.

        2 sum_{k >= 1} (-1)^(k - 1) exp(-2 k^2 x^2),   x = distance sqrt(n m / (n + m))

    of n = `expected` and m = `found` images, the limit for many; in bins it happens less often.
    """
    x = distance * math.sqrt(expected * found / (expected + found))
    if x < 0.2:  # 1 to twelve digits, where the series would need many terms
        return 1.0
    terms = ((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * sum(terms)))


def population_stability_p(index: float, bins: int, expected: int, found: int) -> float:
    """How often two samples of one distribution have at least such a PSI.

    Of n = `expected` and m = `found` images, x = PSI / (1/n + 1/m) is about chi-squared with
    d = bins - 1, and (x / d)^(1/3) about normal with mean 1 - 2/(9 d) and variance 2/(9 d).

    Source: Yurdakul (Western Michigan University, 2018); Wilson and Hilferty (PNAS 17, 1931).
    """
    freedom = bins - 1
    if not freedom:
        return 1.0
    x, spread = index / (1 / expected + 1 / found), 2 / (9 * freedom)
    return 1 - statistics.NormalDist(1 - spread, math.sqrt(spread)).cdf((x / freedom) ** (1 / 3))


@dataclasses.dataclass(frozen=True)
class Reference:
    """Histograms of the signals when a model was exported.

    Attributes:
      edges: signal -> where a bin begins that is not the first; about equal shares of the clean
        images lie in each.
      clean: signal -> images by bin.
      attacked: the same of attacked images.
    """

    edges: Histogram
    clean: Histogram
    attacked: Histogram

    @classmethod
    def of(cls, clean: np.ndarray, attacked: np.ndarray) -> Reference:
        """From probabilities `[images, classes]` of clean and of attacked images."""
        known = signals(clean)
        shares = np.linspace(0, 1, _FINE + 1)[1:-1]
        edges = {
            name: np.unique(np.round(np.quantile(x, shares), _DIGITS)) for name, x in known.items()
        }
        return cls(edges, _counts(known, edges), _counts(signals(attacked), edges))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Reference:
        """From the version of an export, or from the file itself.

        Raises:
          MonitorError: there is none, or it is damaged.
        """
        path = pathlib.Path(path)
        file = path / FILE if path.is_dir() else path
        try:
            content = json.loads(file.read_text("utf-8"))
            parts = [content[part] for part in ("edges", "clean", "attacked")]
            edges, clean, attacked = ({n: np.asarray(x[n], float) for n in NAMES} for x in parts)
            sizes = {(len(edges[n]) + 1, len(clean[n]), len(attacked[n])) for n in NAMES}
            if any(len(set(size)) > 1 for size in sizes):
                raise ValueError("its bins and edges differ in number")
        except FileNotFoundError:
            raise MonitorError(
                f"{file} is missing; export with mtard-export --calibrate, which writes it."
            ) from None
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise MonitorError(
                f"{file} is damaged ({' '.join(str(error).split())[:100]}); export again with "
                "mtard-export --calibrate."
            ) from None
        return cls(edges, clean, attacked)

    def content(self) -> dict[str, Any]:
        """What `load` reads, for JSON."""
        return {
            name: {signal: values.tolist() for signal, values in part.items()}
            for name, part in dataclasses.asdict(self).items()
        }


@dataclasses.dataclass(frozen=True)
class Signal:
    """How far one signal has moved: PSI and KS, each with how often chance does that."""

    psi: float
    psi_p: float
    ks: float
    ks_p: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A window beside the reference.

    Attributes:
      drift: whether any of the six tests is too improbable.
      nearer: "clean" or "attacked": of which reference the window's PSI is smaller, in the mean.
      images: of the window.
      signals: by name.
    """

    drift: bool
    nearer: str
    images: int
    signals: Mapping[str, Signal]

    def __str__(self) -> str:
        found = [f"{name} PSI {x.psi:.3f}, KS {x.ks:.3f}" for name, x in self.signals.items()]
        state = f"drift, nearer to {self.nearer} images" if self.drift else "no drift"
        return f"{state}, in {self.images:,} images ({'; '.join(found)})"


def compare(
    probabilities: np.ndarray, reference: Reference, false_alarm_rate: float = 0.01
) -> Comparison:
    """Compares a window of served probabilities with the reference's clean images.

    Args:
      probabilities: `[images, classes]`, as they were served; 50 images or more.
      reference: of the same export.
      false_alarm_rate: how often, at most, a window without drift is said to have one. The six
        tests share it.

    Raises:
      MonitorError: too few images, another shape, or no probabilities.
    """
    p, known = _checked(probabilities), int(next(iter(reference.clean.values())).sum())
    if min(len(p), known) < LEAST:
        raise MonitorError(
            f"The window has {len(p)} images and the reference {known}; give {LEAST} or more."
        )
    window = _counts(signals(p), reference.edges)
    found, apart = {}, {"clean": 0.0, "attacked": 0.0}
    for name, counts in window.items():
        groups = _groups(reference.clean[name])
        pooled = np.bincount(groups, counts)
        for kind, part in (("clean", reference.clean), ("attacked", reference.attacked)):
            psi = population_stability_index(np.bincount(groups, part[name]), pooled)
            apart[kind] += psi
            if kind == "clean":
                psi_p = population_stability_p(psi, len(pooled), known, len(p))
                ks = kolmogorov_smirnov(part[name], counts)
                ks_p = kolmogorov_smirnov_p(ks, known, len(p))
                found[name] = Signal(psi, psi_p, ks, ks_p)
    least = min(min(signal.psi_p, signal.ks_p) for signal in found.values())
    drift = least < false_alarm_rate / (2 * len(found))
    return Comparison(drift, min(apart, key=lambda kind: apart[kind]), len(p), found)


def _checked(probabilities: np.ndarray) -> np.ndarray:
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or p.shape[1] < 2:
        raise MonitorError(f"The window is {p.shape}; give probabilities [images, classes].")
    if not (np.all(p >= 0) and np.allclose(p.sum(axis=1), 1, atol=1e-3)):
        raise MonitorError("The window's rows do not sum to 1; give probabilities, not logits.")
    return p


def _counts(values: Histogram, edges: Histogram) -> dict[str, np.ndarray]:
    """Images by bin; a value on an edge is in the bin that begins there."""
    return {
        name: np.bincount(
            np.searchsorted(edges[name], x, side="right"), minlength=1 + len(edges[name])
        )
        for name, x in values.items()
    }


def _groups(counts: np.ndarray) -> np.ndarray:
    """For each fine bin the coarse one that it belongs to: about a tenth of the images each."""
    before = np.cumsum(counts) - counts
    _, groups = np.unique(np.floor(_COARSE * before / counts.sum()), return_inverse=True)
    return groups
