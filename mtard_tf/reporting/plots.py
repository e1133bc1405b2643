"""The report's figures. Each function writes one PNG."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mtard_tf import files
from mtard_tf.reporting import charts, notation, palette


def trade_off(
    points: Sequence[Mapping[str, Any]],
    attack: str,
    path: pathlib.Path,
    curve: Sequence[str] = (),
) -> None:
    """Clean against robust accuracy, one marker per point, with lines of equal W-Robust.

    Of more than four points, those of at least half the best robust accuracy, where others lie far
    below, have a close-up beside the whole.

    Args:
      points: with `label`, `clean`, `robust` and, for error bars, their standard deviations
        `clean_deviation` and `robust_deviation`, where there are any.
      attack: what `robust` is the accuracy under, or "worst_case".
      path: the PNG.
      curve: labels of points that a line joins, in its order.
    """
    many = len(points) > 4
    best = max(point["robust"] for point in points)
    near = [point for point in points if point["robust"] >= best / 2]
    panels = [points, near] if many and 1 < len(near) < len(points) else [points]
    figure = _figure(5.5 * len(panels) + 1, 4.5)
    axes = figure.subplots(1, len(panels), squeeze=False)
    looks = {
        point["label"]: {"color": palette.colour(place), "fmt": palette.mark(place)}
        for place, point in enumerate(points)
    }
    of = {point["label"]: (point["clean"], point["robust"]) for point in points}
    line = np.array([of[label] for label in curve]).reshape(-1, 2)
    for axis, shown in zip(axes[0], panels, strict=True):
        axis.plot(*line.T, color="0.4", linewidth=1, zorder=1)
        lowest = min(point["clean"] for point in shown)
        limits = (max(0.0, lowest - 0.1), 1.0, -0.02, 1.0)
        if shown is near:
            (left, right), (bottom, top) = (charts.ends(shown, key) for key in ("clean", "robust"))
            limits = (left - 0.02, min(1.0, right + 0.02), bottom - 0.02, top + 0.02)
            axis.set_title("Close-up")
        _equal_w_robust(axis, limits)
        for point in shown:
            bars = {"xerr": point.get("clean_deviation"), "yerr": point.get("robust_deviation")}
            look = {"label": point["label"], **looks[point["label"]], **bars}
            axis.errorbar(point["clean"], point["robust"], **look, capsize=2, zorder=2)
        axis.set_xlabel("clean accuracy")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0, 0].set_ylabel("worst case" if attack == "worst_case" else f"accuracy under {attack}")
    axes[0, 0].set_title("Grey lines: equal W-Robust")
    named = axes[0, 0].get_legend_handles_labels()
    figure.legend(*named, loc="outside right upper", fontsize=8)  # labels would overlap
    _save(figure, path)


def by_temperature(
    points: Sequence[Mapping[str, Any]], panels: Mapping[str, str], path: pathlib.Path
) -> None:
    """Measures over the temperature, one line per depth of the chain, one panel per measure.

    Args:
      points: with `temperature`, `depth` and `measures`: name -> `mean` and `deviation`, which is
        drawn as a bar unless it is None.
      panels: name of a measure -> label of its axis.
      path: the PNG.
    """
    figure = _figure(5.0 * len(panels), 3.8)
    axes = figure.subplots(1, len(panels), squeeze=False)
    temperatures = sorted({point["temperature"] for point in points})
    for axis, (name, label) in zip(axes[0], panels.items(), strict=True):
        for place, depth in enumerate(sorted({point["depth"] for point in points})):
            line = [p for p in points if p["depth"] == depth and name in p["measures"]]
            found = [point["measures"][name] for point in line]
            axis.errorbar(
                [point["temperature"] for point in line],
                [entry["mean"] for entry in found],
                yerr=[entry["deviation"] or 0.0 for entry in found],
                color=palette.colour(place),
                marker=palette.mark(place),
                linestyle=_dashed(place),
                capsize=2,
                label=f"{depth} assistant{'s' * (depth != 1)}",
            )
        axis.set_xscale("log")
        axis.set_xticks(temperatures, [f"{value:g}" for value in temperatures])
        axis.minorticks_off()
        axis.set(xlabel="temperature", ylabel=label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
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
    figure = _figure(5.5, 3.8)
    axes = figure.subplots()
    radii = [point["epsilon"] for point in points]
    words, label = notation.radii(radii, threat["norm"])
    names = {"worst_case": "worst so far", "robust_accuracy": "probe"}
    for place, (name, shown) in enumerate(names.items()):
        axes.plot(
            radii,
            [point[name] for point in points],
            color=palette.colour(1 - place),
            marker=palette.mark(1 - place),
            markersize=9 - 4 * place,
            linestyle=_dashed(place),
            label=shown,
        )
    axes.axvline(
        threat["epsilon"], color="0.6", linestyle=":", zorder=0, label="epsilon of the audit"
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(
        ylim=(-0.02, 1.02),
        xlabel=label,
        ylabel=f"accuracy of {examples:,} images",
    )
    axes.set_xticks(radii, words, fontsize=8)
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
    figure = _figure(6.5, 1.9 * len(drawn))
    axes = figure.subplots(len(drawn), 1, sharex=True)
    for axis, (prefix, found) in zip(np.atleast_1d(axes), drawn.items(), strict=True):
        for place, name in enumerate(found):
            steps = [row["step"] for row in rows if name in row]
            values = [row[name] for row in rows if name in row]
            look = {"color": palette.colour(place), "linestyle": _dashed(place)}
            axis.plot(steps, values, **look, label=name[len(prefix) :])
        axis.set_ylabel(panels.get(prefix, "loss"))
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.03))  # beside, on no line
    np.atleast_1d(axes)[-1].set_xlabel("step")
    _save(figure, path)
    return True


def adversarial_grid(
    arrays: Mapping[str, np.ndarray], label_names: Sequence[str], path: pathlib.Path
) -> bool:
    """Clean images above their attacked versions, each with the predicted class; wrong ones marked.

    Args:
      arrays: those of `examples.npz`: images that fell under the probe, then ones that survived it.
      label_names: one per class.
      path: the PNG.

    Returns:
      False, and no figure, if the arrays hold no image.
    """
    labels = arrays.get("images/labels", ())
    if not len(labels):
        return False
    figure = _figure(1.3 * len(labels), 3.2)
    axes = figure.subplots(2, len(labels), squeeze=False)
    for row, kind in enumerate(("clean", "attacked")):
        axes[row, 0].set_ylabel(kind)
        for axis, image, label, found in zip(
            axes[row], arrays[f"images/{kind}"], labels, arrays[f"images/{kind}_class"], strict=True
        ):
            if image.shape[-1] not in (3, 4):  # no colours that matplotlib knows
                image = image.mean(axis=-1)
            axis.imshow(image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=255)
            words = notation.shortened(notation.class_name(label_names, int(found)), 14)
            right = found == label
            axis.set_title(
                words if right else f"\u2717 {words}",
                fontsize=7,
                color="black" if right else palette.WRONG,
            )
            axis.set_xticks([])
            axis.set_yticks([])
    _save(figure, path)
    return True


def _equal_w_robust(axis: Any, limits: Sequence[float]) -> None:
    """Sets the limits (left, right, bottom, top) and draws labelled lines of equal W-Robust."""
    left, right, bottom, top = limits
    step = 0.1 if top - bottom > 0.5 else 0.01
    axis.set(xlim=(left, right), ylim=(bottom, top))
    first, last = (left + bottom) / 2, (right + top) / 2
    for level in step * np.arange(np.ceil(first / step), np.floor(last / step) + 1):
        axis.plot([0, 1], [2 * level, 2 * level - 1], color="0.85", linewidth=0.8, zorder=0)
        # Where it enters: at the left edge or, if it comes from above, at the top.
        start = max(left, 2 * level - top)
        if start < right - 0.05 * (right - left):  # there is room for its label
            axis.annotate(
                f"{level:.0%}",
                (start, 2 * level - start),
                xytext=(2, -8),
                textcoords="offset points",
                fontsize=6,
                color="0.6",
                annotation_clip=True,
            )


def _dashed(place: int) -> Any:
    """The dashes of the n-th line, which are those of the pages."""
    lengths = [float(one) for one in palette.dash(place).split()]
    return (0, tuple(lengths)) if lengths else "-"


def _figure(width: float, height: float) -> Figure:
    """A figure in inches that no window and no backend of the process knows of."""
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: pathlib.Path) -> None:
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
