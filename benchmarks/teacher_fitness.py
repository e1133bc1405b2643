"""Does a teacher's fitness say how good its student will be? Nine teachers, eighteen students.

    python benchmarks/teacher_fitness.py --run_dir=runs/fitness

Teachers of different strength, size, epochs and temperature on `fashion_mini`, the same small
student from each (RSLAD, two seeds), and a reference student without a teacher. Prints the figures
of `mtard-plan --teachers`, what the students reach on test images, and rank correlations with 95 %
intervals, a bootstrap over the teachers. What was finished is not trained again. Half an hour.
"""

from __future__ import annotations

import argparse
import pathlib

import keras
import numpy as np
from scipy import stats
from tables import table

import mtard_tf as mt
from mtard_tf.attacks.apgd import APGDDLR, APGDCrossEntropy
from mtard_tf.attacks.pgd import PGD
from mtard_tf.auditing.accuracies import w_robust
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.data.named_sets import fashion_mini
from mtard_tf.planning import fitness
from mtard_tf.threat import ThreatModel

EPSILON = 0.1
NET, SMALL = ((12, 12, 24, 24), 96), ((8, 8, 16, 16), 48)
# Name -> method, net, epochs, other settings.
TEACHERS = {
    "trades_9": ("trades", NET, 9, {}),
    "trades_3": ("trades", NET, 3, {}),
    "trades_20": ("trades", NET, 20, {}),
    "pgd_at_9": ("pgd_at", NET, 9, {}),
    "wide_9": ("trades", ((24, 24, 48, 48), 96), 9, {}),
    "half_epsilon_9": ("trades", NET, 9, {"epsilon": EPSILON / 2}),
}
# `trades_9` at other temperatures: the same labels and nearly the same robustness, other entropy.
TEMPERATURES = (0.5, 2.0, 4.0)
ATTACKS = (APGDCrossEntropy(num_steps=30), APGDDLR(num_steps=30))
PROXIES = ("clean", "robust", "entropy", "transferred", "entropy_lost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run_dir", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=9, help="of each student")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    data, threat = fashion_mini(), ThreatModel(epsilon=EPSILON)
    teachers = trained_teachers(args.run_dir, data)
    reference = train(args.run_dir / "reference", data, "pgd_at", SMALL, args.epochs)
    attacked = fitness.attacked(reference, data.validation, threat)
    found, reached = {}, {}
    for name, teacher in teachers.items():
        found[name] = fitness.measure(teacher, data.validation, threat, attacked)
        reached[name] = [
            scores(student, data, threat)
            for student in students(args.run_dir, data, name, teacher, args)
        ]
        print(found[name].line(name), "students:", reached[name], flush=True)
    alone = scores(reference, data, threat)
    print(f"\nthe reference student: clean {alone[0]:.1f}, worst case {alone[1]:.1f}")
    report(found, reached)


def net(data, shape) -> keras.Model:
    widths, dense = shape
    return mt.models.small_cnn(data.image_shape, data.num_classes, widths=widths, dense=dense)


def train(run_dir, data, method, shape, epochs, teachers=None, seed=0, **settings):
    """A trained net; one that was finished is read again."""
    # From a Gaussian start a student can switch its first units off on black backgrounds.
    fixed = {"epsilon": EPSILON, "validate_every": 3, "batch_size": 128, "attack": PGD()}
    return mt.distil(
        method,
        net(data, shape),
        data,
        teachers=teachers or {},
        epochs=epochs,
        seed=seed,
        run_dir=run_dir,
        **fixed | settings,
    )


def trained_teachers(run_dir, data) -> dict[str, keras.Model]:
    """Name -> model, the tempered ones last."""
    found = {
        name: train(run_dir / "teachers" / name, data, method, shape, epochs, **settings)
        for name, (method, shape, epochs, settings) in TEACHERS.items()
    }
    for temperature in TEMPERATURES:
        model = keras.models.clone_model(found["trades_9"])
        weights = found["trades_9"].get_weights()
        weights[-2:] = [w / temperature for w in weights[-2:]]  # kernel and bias of the logits
        model.set_weights(weights)
        found[f"trades_9_T{temperature:g}"] = model
    return found


def students(run_dir, data, name, teacher, args):
    for seed in range(args.seeds):
        folder = run_dir / "students" / f"{name}_s{seed}"
        yield train(folder, data, "rslad", SMALL, args.epochs, {"robust": teacher}, seed=seed)


def scores(model, data, threat) -> tuple[float, float, float]:
    """Clean accuracy, worst case over `ATTACKS` and W-Robust on the test images, in percent."""
    evaluator = Evaluator(model, threat)
    clean = evaluator.clean(data.test)
    left = np.logical_and.reduce([evaluator.attacked(attack, data.test) for attack in ATTACKS])
    clean, left = 100 * clean.mean(), 100 * left.mean()
    return round(float(clean), 1), round(float(left), 1), round(float(w_robust(clean, left)), 2)


def report(found, reached) -> None:
    """The table of teachers and students, and that of rank correlations."""
    rows = []
    for name, measured in found.items():
        values = {key: getattr(measured, key) for key in PROXIES}
        shown = [f"{v:.2f}" if "entropy" in k else f"{100 * v:.1f}" for k, v in values.items()]
        clean, left, both = np.mean(reached[name], axis=0)
        spread = " ".join(f"{row[2]:.1f}" for row in reached[name])
        rows.append([name, *shown, f"{clean:.1f}", f"{left:.1f}", f"{both:.1f}", spread])
    heads = ["clean", "PGD-20", "entropy", "on the reference's attacks", "entropy, lost images"]
    heads = ["teacher", *heads, "student: clean", "worst case", "W-Robust", "by seed"]
    table(heads, rows)
    target = np.array([np.mean(reached[name], axis=0)[2] for name in found])
    rows = []
    for key, head in zip(PROXIES, heads[1:], strict=False):
        values = np.array([getattr(measured, key) for measured in found.values()])
        low, high = interval(values, target)
        rows.append([head, f"{rank_correlation(values, target):.2f}", f"{low:.2f} to {high:.2f}"])
    table(["of the teacher", "rank correlation with W-Robust", "95 % interval"], rows)


def rank_correlation(values, target) -> float:
    return float(stats.spearmanr(values, target).statistic)


def interval(values, target, draws=2000) -> tuple[float, float]:
    """95 % percentile interval over teachers drawn with replacement, at least three different."""
    random, drawn = np.random.RandomState(0), []
    while len(drawn) < draws:
        chosen = random.randint(len(values), size=len(values))
        if len(set(chosen)) > 2 and np.ptp(values[chosen]) and np.ptp(target[chosen]):
            drawn.append(rank_correlation(values[chosen], target[chosen]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
