"""A mixture of a clean and a robust net: attacks that see it all against one on the robust net.

    python benchmarks/mixture.py --run_dir=RUN [--examples=200] [--out=mix.keras]

RUN has the finished stages `clean_teacher` and `robust_teacher`. The nonlinearity is fitted on
validation images, attacked by APGD-CE on the robust net; the figures are of test images.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import tensorflow as tf
from tables import table

from mtard_tf.attacks.apgd import APGDDLR, APGDCrossEntropy
from mtard_tf.attacks.margin import CWInf
from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.pushed import beyond
from mtard_tf.attacks.square import Square
from mtard_tf.attacks.transfer import Transfer
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.config import gin_files
from mtard_tf.data.batches import to_float
from mtard_tf.mixing.mix import fit, mix
from mtard_tf.running.run_directory import load_student

GRADIENT = {
    "PGD-20": PGD(num_steps=20, relative_step_size=0.25),
    "CW-Linf": CWInf(num_steps=30),
    "APGD-CE": APGDCrossEntropy(num_steps=50),
    "APGD-DLR": APGDDLR(num_steps=50),
}
QUERIES = {"Square, 300 queries": Square(num_queries=300, rescale_schedule=True)}
BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run_dir", type=pathlib.Path, required=True)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    experiment = gin_files.start_or_resume(args.run_dir, [], [])
    data = experiment.dataset()
    clean, robust = (load_student(args.run_dir, f"{role}_teacher") for role in ("clean", "robust"))
    net, chosen = fitted(clean, robust, data, experiment.threat)
    print(f"fitted on {len(data.validation)} validation images: {chosen}\n")
    if args.out:
        net.save(args.out)
    columns = []
    for model, surrogate in ((clean, None), (robust, None), (net, None), (net, robust)):
        columns.append(left(model, surrogate, data.test, experiment.threat, args.examples))
    names = ["(clean)", *GRADIENT, *QUERIES, "worst case"]
    rows = [[name, *(column[name] for column in columns)] for name in names]
    heads = ["clean net", "robust net", "mixture, adaptive", "mixture, attacks on the robust net"]
    table(["attack", *heads], rows)


def fitted(clean, robust, data, threat):
    """The mixture of two nets, and the nonlinearity that validation images chose."""
    split, logits = data.validation, {"clean": [], "robust": [], "attacked": []}
    for first in range(0, len(split), BATCH):
        images = to_float(split.images[first : first + BATCH])
        labels = tf.constant(split.labels[first : first + BATCH])
        ids = tf.range(first, first + len(images), dtype=tf.int64)
        attacked = Evaluator(robust, threat).perturb(GRADIENT["APGD-CE"], images, labels, ids)
        for name, model, seen in (
            ("clean", clean, images),
            ("robust", robust, images),
            ("attacked", robust, attacked),
        ):
            logits[name].append(model(seen, training=False).numpy())
    chosen = fit(*(np.concatenate(parts) for parts in logits.values()), split.labels)
    settings = chosen._asdict()
    return mix(data.image_shape, data.num_classes, clean=clean, robust=robust, **settings), chosen


def left(model, surrogate, split, threat, examples) -> dict[str, str]:
    """Share of images that each attack leaves, in percent, and the worst case over all."""
    evaluator, worst = Evaluator(model, threat), np.ones(examples, bool)
    shares = {"(clean)": f"{100 * evaluator.clean(split, examples).mean():.1f}"}
    for name, attack in (GRADIENT | QUERIES).items():
        crafted = attack if surrogate is None else Transfer(surrogate, beyond(attack))
        correct = evaluator.attacked(crafted, split, examples)
        worst &= correct
        shares[name] = f"{100 * correct.mean():.1f}"
    return shares | {"worst case": f"{100 * worst.mean():.1f}"}


if __name__ == "__main__":
    main()
