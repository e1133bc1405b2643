"""The report's figures. Each function writes one PNG."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)
import numpy as np  # noqa: E402

from mtard_tf import files  # noqa: E402


def trade_off(reports: Sequence[dict], attack: str, path: pathlib.Path) -> None:
    """Clean against robust accuracy, one point per stage, with lines of equal W-Robust.

    Args:
      reports: one by stage.
      attack: of all of them, or "worst_case".
      path: the PNG.
    """
    figure, axes = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
    for level in np.arange(0.1, 1.0, 0.1):
        axes.plot([0, 1], [2 * level, 2 * level - 1], color="0.85", linewidth=0.8, zorder=0)
    for report in reports:
        entry = report["worst_case"] if attack == "worst_case" else report["attacks"][attack]
        clean, robust = report["clean"], entry["robust_accuracy"]
        axes.scatter(clean, robust, s=40, zorder=2)
        label = f"{report['model']} ({report['parameters']:,})"
        axes.annotate(label, (clean, robust), xytext=(5, 5), textcoords="offset points", fontsize=8)
    lowest = min(report["clean"] for report in reports)
    axes.set(
        xlim=(max(0.0, lowest - 0.1), 1.0),
        ylim=(-0.02, 1.0),
        xlabel="clean accuracy",
        ylabel="worst case" if attack == "worst_case" else f"accuracy under {attack}",
        title="Grey lines: equal W-Robust",
    )
    _save(figure, path)


def epsilon_curve(
    points: Sequence[Mapping[str, float]],
    threat: Mapping[str, Any],
    examples: int,
    path: pathlib.Path,
) -> None:
    """Robust accuracy over epsilon, under the probe and in the worst case over smaller radii.

    Args:
      points: with `epsilon`, `robust_accuracy` and `worst_case`, by ascending epsilon.
      threat: `norm` and `epsilon`, which is marked.
      examples: how many images the curve is of.
      path: the PNG.
    """
    figure, axes = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    radii = [point["epsilon"] for point in points]
    axes.plot(radii, [point["worst_case"] for point in points], color="0.6", label="worst so far")
    axes.plot(radii, [point["robust_accuracy"] for point in points], marker="o", label="probe")
    axes.axvline(threat["epsilon"], color="0.85", zorder=0)
    axes.set(
        ylim=(-0.02, 1.0),
        xlabel=f"epsilon ({threat['norm']}, [0, 1] pixel units)",
        ylabel=f"accuracy of {examples:,} images",
    )
    axes.legend(fontsize=8)
    _save(figure, path)


def balance(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> bool:
    """Losses, weights, temperatures and entropies over steps. False if there is nothing to draw."""
    panels = {"weight_": "weight", "temperature_": "temperature", "entropy_": "entropy (nats)"}
    names = sorted({name for row in rows for name in row})
    drawn = {p: [n for n in names if n.startswith(p)] for p in panels}
    drawn = {prefix: found for prefix, found in drawn.items() if found}
    if not drawn:
        return False
    drawn = {"kl_": [n for n in names if n.startswith("kl_")], **drawn}
    figure, axes = plt.subplots(
        len(drawn), 1, figsize=(6.5, 1.9 * len(drawn)), sharex=True, layout="constrained"
    )
    for axis, (prefix, found) in zip(np.atleast_1d(axes), drawn.items(), strict=True):
        for name in found:
            steps = [row["step"] for row in rows if name in row]
            axis.plot(steps, [row[name] for row in rows if name in row], label=name[len(prefix) :])
        axis.set_ylabel(panels.get(prefix, "loss"))
        axis.legend(fontsize=8)
    np.atleast_1d(axes)[-1].set_xlabel("step")
    _save(figure, path)
    return True


def adversarial_grid(
    clean: np.ndarray,
    perturbed: np.ndarray,
    captions: Sequence[tuple[str, str]],
    path: pathlib.Path,
) -> None:
    """Clean images above their attacked versions, each with the predicted label.

    Args:
      clean: float32 in [0, 1], `[n, height, width, channels]`.
      perturbed: the same shape.
      captions: (prediction on the clean image, on the attacked one) per image.
      path: the PNG.
    """
    figure, axes = plt.subplots(
        2, len(clean), figsize=(1.3 * len(clean), 3.2), layout="constrained"
    )
    for column, caption in enumerate(captions):
        for row, images in enumerate((clean, perturbed)):
            axis = axes[row, column]
            image = images[column].squeeze()
            axis.imshow(image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=1)
            axis.set_title(caption[row], fontsize=7)
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].set_ylabel("clean")
    axes[1, 0].set_ylabel("attacked")
    _save(figure, path)


def _save(figure: Any, path: pathlib.Path) -> None:
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)
