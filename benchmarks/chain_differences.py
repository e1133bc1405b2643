"""Do assistants help? Paired differences of a measure between the chains of a temperature sweep.

    python benchmarks/chain_differences.py --run_dir=RUN [--measure=cw_l2_distortion]

Reads what `mtard-compare` left in RUN/evaluation/t<T>_step<n>_s<seed>/examples.npz; step n has
n - 1 assistants before it. A difference is taken image by image, averaged over the seeds that both
chains have, and given with 1.96 standard errors over the images; beside it, each seed's own mean.
"""

from __future__ import annotations

import argparse
import pathlib
import re

import numpy as np
from tables import table

NAME = re.compile(r"t(\d+)_step(\d+)_s(\d+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run_dir", type=pathlib.Path, required=True)
    parser.add_argument("--measure", default="cw_l2_distortion")
    args = parser.parse_args()
    # (temperature, steps) -> seed -> value of each image
    found: dict[tuple[int, int], dict[int, np.ndarray]] = {}
    for path in args.run_dir.glob("evaluation/*/examples.npz"):
        if match := NAME.fullmatch(path.parent.name):
            temperature, step, seed = map(int, match.groups())
            with np.load(path) as file:
                found.setdefault((temperature, step), {})[seed] = file[args.measure]
    points = sorted(found)
    coolest = min((t for t, step in points if step == 1), default=0)
    pairs = [(point, (point[0], 1)) for point in points if point[1] > 1]
    pairs += [(point, (coolest, 1)) for point in points if point[1] == 1 and point[0] > coolest]
    rows = []
    for point, base in pairs:
        seeds = sorted(found[point].keys() & found.get(base, {}).keys())
        if not seeds:
            continue  # audited in part
        gaps = np.stack([found[point][seed] - found[base][seed] for seed in seeds])
        images = gaps.mean(axis=0)
        error = 1.96 * images.std(ddof=1) / np.sqrt(len(images))
        own = ", ".join(f"{gap:+.3f}" for gap in gaps.mean(axis=1))
        labels = [f"T = {t}, {steps - 1} assistants" for t, steps in (point, base)]
        rows.append([*labels, len(images), f"{images.mean():+.3f} ± {error:.3f}", own])
    table(["chain", "against", "images", args.measure, "each seed"], rows)


if __name__ == "__main__":
    main()
