"""Two `train_step`s of each baseline on linear nets, against the formulas in NumPy.

The oracle knows the losses as functions of the weights and of the images, in float64, and takes
their slopes by central differences, so that no gradient is written down here or taken from
TensorFlow.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.attacks.pgd import uniform_in_ball
from mtard_tf.attacks.seeds import image_seeds, normal
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.threat import ThreatModel

SHAPE, CLASSES, BATCH, EPSILON, RATE = (2, 2, 1), 3, 5, 0.1, 0.1
TRADES_STEP = 0.007 / 0.031  # of epsilon


def net(seed: int) -> keras.Model:
    model = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    )
    random = np.random.RandomState(seed)
    model.set_weights([random.randn(4, CLASSES) * 2, random.randn(CLASSES)])
    return model


def slope(function, at: np.ndarray, h: float = 1e-6) -> np.ndarray:
    result = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[place] = h
        result[place] = (function(at + step) - function(at - step)) / (2 * h)
    return result


def log_softmax(z):
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def softmax(z):
    return np.exp(log_softmax(z))


def kl(p, q, t=1.0):
    log_p, log_q = log_softmax(p / t), log_softmax(q / t)
    return (np.exp(log_p) * (log_p - log_q)).sum(1)


def ce(z, y):
    return -log_softmax(z)[np.arange(len(y)), y]


def square(p, q):
    return ((p - q) ** 2).sum(1)


# What is climbed, per image: of the nets n, the images v on their way, clean images x, labels y.


def climb_labels(n, v, x, y, state):
    return ce(n["student"](v), y)


def climb_own(n, v, x, y, state):
    return kl(n["student"](x), n["student"](v))


def climb_squares(n, v, x, y, state):
    return square(softmax(n["student"](v)), softmax(n["student"](x)))


def climb_teacher(n, v, x, y, state):
    return kl(n["robust"](x), n["student"](v))


def climb_both(n, v, x, y, state):
    return kl(n["robust"](v), n["student"](v))


def climb_class_teacher(n, v, x, y, state):
    return kl(n["robust"](x) / state["tau"][0][y][:, None], n["student"](v))


def climb_saad(n, v, x, y, state):
    # T is linear: its logit of y increased by its slope times v - x is that at v.
    corrected = np.where(np.eye(CLASSES)[y] > 0, n["robust"](v), n["robust"](x))
    return kl(corrected, n["student"](v))


# The losses, per image: of the nets n, adversarial images a, clean images x, labels y.


def pgd_at(n, a, x, y, state):
    return ce(n["student"](a), y)


def trades(n, a, x, y, state):
    return ce(n["student"](x), y) + 6 * kl(n["student"](x), n["student"](a))


def mart(n, a, x, y, state):
    p = softmax(n["student"](a))
    wrong = np.where(np.eye(CLASSES)[y] > 0, 0, p).max(1)
    own = softmax(n["student"](x))[np.arange(len(y)), y]
    robust = kl(n["student"](x), n["student"](a)) * (1.0000001 - own)
    return ce(n["student"](a), y) - np.log(1.0001 - wrong) + 5 * robust


def hat(n, a, x, y, state):
    student = n["student"]
    helper = ce(student(x + 2 * (a - x)), n["clean"](a).argmax(1))
    return ce(student(x), y) + 2.5 * kl(student(x), student(a)) + 0.5 * helper


def score(n, a, x, y, state):
    # Smoothing 0.2 of 3 classes: 0.8 for the true one, 0.1 for each other.
    target = np.where(np.eye(CLASSES)[y] > 0, 0.8, 0.1)
    p, p_adversarial = softmax(n["student"](x)), softmax(n["student"](a))
    return square(p, target) + 4 * square(p_adversarial, p)


def ard(n, a, x, y, state):
    soft = 16 * kl(n["robust"](x), n["student"](a), 4)
    return 0.7 * soft + 0.3 * ce(n["student"](x), y)


def ard_alone(n, a, x, y, state):
    return 900 * kl(n["robust"](x), n["student"](a), 30)


def distrust(n, a, y, state, beta=0.5):
    """From the second step on: each step is an epoch, and `begin` is 1."""
    own = softmax(n["robust"](a))[np.arange(len(y)), y]
    return (1 - own**beta) * (state["step"] >= 1)


def iad(n, a, x, y, state, taught_on="x", weigh=False):
    d, student = distrust(n, a, y, state), n["student"]
    soft = 4 * kl(n["robust"](x if taught_on == "x" else a), student(a), 2)
    soft = soft * (1 - d) if weigh else soft
    return 0.8 * (soft + d * kl(student(x), student(a))) + 0.2 * ce(student(x), y)


def iad_weighed(n, a, x, y, state):
    return iad(n, a, x, y, state, weigh=True)


def adaiad(n, a, x, y, state):
    return iad(n, a, x, y, state, taught_on="a")


def iad2(n, a, x, y, state):
    d, student = distrust(n, a, y, state), n["student"]
    robust = (1 - d) * kl(n["robust"](a), student(a), 2) + d * kl(student(x), student(a))
    clean = kl(n["clean"](a), student(a), 2)
    return 0.25 * ce(student(a), y) + 0.5 * 4 * robust + 0.25 * 4 * clean


def rslad(n, a, x, y, state):
    teacher, student = n["robust"], n["student"]
    return (5 / 6 * kl(teacher(x), student(a)) + 1 / 6 * kl(teacher(x), student(x))) / 10


def adaad(n, a, x, y, state):
    teacher, student = n["robust"], n["student"]
    return 0.6 * kl(teacher(a), student(a)) + 0.4 * kl(teacher(x), student(x))


def absld(n, a, x, y, state):
    adversarial, clean = (n["robust"](x) / tau[y][:, None] for tau in state["tau"])
    student = n["student"]
    return (5 / 6 * kl(adversarial, student(a)) + 1 / 6 * kl(clean, student(x))) / 10


def lbgat(n, a, x, y, state):
    student, guide = n["student"], n["guide"]
    error = ((student(a) - guide(x)) ** 2).mean(1)
    return error + ce(guide(x), y) + 6 * kl(student(x), student(a))


def matched(n, a, x, state):
    """KL of the differences, in its share of 4 epochs of one step."""
    teacher, student = (n[role](a) - n[role](2 * x - a) for role in ("robust", "student"))
    return (state["step"] + 1) / 4 * kl(teacher, student)


def rslad_matched(n, a, x, y, state):
    return rslad(n, a, x, y, state) + 2 * matched(n, a, x, state)


def saad(n, a, x, y, state):
    teacher, student = n["robust"], n["student"]
    entropy = -(softmax(teacher(a)) * log_softmax(teacher(a))).sum(1)
    weight = 5 * (entropy - entropy.min())
    robust = weight * (kl(teacher(a), student(a)) + 3 * matched(n, a, x, state))
    return robust + 0.5 * (1 - weight / weight.max()) * kl(teacher(x), student(x))


def dgad(n, a, x, y, state):
    student, targets = n["student"], []
    for images in (x, a):
        z = n["robust"](images).copy()
        for row, label in zip(z, y, strict=True):
            top = row.argmax()
            row[top], row[label] = row[label], row[top]
        targets.append(z)
    wrong = n["robust"](x).argmax(1) != y
    error = ((softmax(student(a)) - softmax(student(x))) ** 2).mean(1)
    taught = np.where(wrong, kl(targets[0], student(x)), kl(targets[1], student(a)))
    return taught + 2 * error


def rectified(x, y, state):
    """Of (tau, lambda) from (2, 1.2) to (1, 0.8) over 4 epochs of one step."""
    left = 0.5 * (1 + np.cos(np.pi * state["step"] / 4))
    p, own = softmax(state["average"](x) / (1 + left)), np.eye(CLASSES)[y]
    trust = np.clip(0.8 + 0.4 * left - (p.max(1) - (p * own).sum(1)), 0, 1)[:, None]
    return trust * p + (1 - trust) * own


def climb_rectified(n, v, x, y, state):
    return -(rectified(x, y, state) * log_softmax(n["student"](v))).sum(1)


def adr(n, a, x, y, state):
    return climb_rectified(n, a, x, y, state)


def adr_trades(n, a, x, y, state):
    return climb_rectified(n, x, x, y, state) + 6 * kl(n["student"](x), n["student"](a))


def ikl(n, a, x, y, state):
    """At gamma 0.5, of the class weights of the epoch before, one step long."""
    fixed, student = state["nets"]["student"](x), n["student"]
    s = state["rows"][y] ** 0.5
    apart = student(x) - student(a)
    pairs = (apart[:, :, None] - apart[:, None]) ** 2
    apart = (s[:, :, None] * s[:, None] * pairs).sum((1, 2)) / 4 / (s.sum(1) ** 2).mean()
    soft = -(softmax(fixed) * log_softmax(student(a))).sum(1)
    return ce(student(x), y) + 20 * apart + 4 * soft


INTROSPECTIVE = {"alpha": 0.8, "beta": 0.5, "temperature": 2.0, "begin": 1.0}
ANNEALED = {"temperatures": (2.0, 1.0), "interpolations": (1.2, 0.8), "decay": 0.6}
# Distiller, its settings, what is climbed, in which steps from which start, and its loss.
CASES = {
    "pgd_at": ("pgd_at", {}, climb_labels, 0.25, "uniform", pgd_at),
    "trades": ("trades", {}, climb_own, TRADES_STEP, "gaussian", trades),
    "mart": ("mart", {}, climb_labels, TRADES_STEP, "gaussian", mart),
    "fgsm_rs": ("fgsm_rs", {}, climb_labels, 1.25, "uniform", pgd_at),
    "n_fgsm": ("n_fgsm", {"noise": 1.5}, climb_labels, 1.0, "wide", pgd_at),
    "hat": ("hat", {}, climb_own, 0.25, "gaussian", hat),
    "score": ("score", {"label_smoothing": 0.2}, climb_squares, 0.25, "uniform", score),
    "ard": ("ard", {"alpha": 0.7, "temperature": 4.0}, climb_labels, 0.25, "uniform", ard),
    "ard_alone": ("ard", {}, climb_labels, 0.25, "uniform", ard_alone),
    "iad": ("iad", INTROSPECTIVE, climb_labels, 0.25, "uniform", iad),
    "iad_weighed": (
        "iad",
        INTROSPECTIVE | {"weigh_teacher": True},
        climb_labels,
        0.25,
        "uniform",
        iad_weighed,
    ),
    "iad2": (
        "iad2",
        {"beta": 0.5, "temperature": 2.0, "begin": 1.0},
        climb_labels,
        0.25,
        "uniform",
        iad2,
    ),
    "adaiad": ("adaiad", INTROSPECTIVE, climb_both, 0.25, "gaussian", adaiad),
    "rslad": ("rslad", {"log_offset": 0.0}, climb_teacher, 0.25, "gaussian", rslad),
    "adaad": ("adaad", {"alpha": 0.6}, climb_both, 0.25, "gaussian", adaad),
    "absld": ("absld", {"log_offset": 0.0}, climb_class_teacher, 0.25, "gaussian", absld),
    "lbgat": ("lbgat", {}, climb_own, TRADES_STEP, "gaussian", lbgat),
    "adr": ("adr", ANNEALED, climb_rectified, 0.25, "uniform", adr),
    "adr_trades": ("adr", ANNEALED | {"beta": 6.0}, climb_own, 0.25, "gaussian", adr_trades),
    "ikl": ("ikl", {"gamma": 0.5}, climb_own, 0.25, "gaussian", ikl),
    "rslad_matched": (
        "rslad",
        {"log_offset": 0.0, "gradient_matching": 2.0},
        climb_teacher,
        0.25,
        "gaussian",
        rslad_matched,
    ),
    "saad": ("saad", {"alpha": 3.0, "beta": 0.5}, climb_saad, 0.25, "gaussian", saad),
    "dgad": ("dgad", {"beta": 2.0}, climb_both, 0.25, "gaussian", dgad),
}


# One step in place of ten; how far it may lead, of epsilon.
ONE_STEP = {"fgsm_rs": 1.0, "n_fgsm": 2.5}


class NumpySteps:
    """Attack, loss, gradient and update in float64; weights as one vector."""

    def __init__(self, distiller, teachers, climbed, step_size, loss, case) -> None:
        self.steps, self.ball = 1 if case in ONE_STEP else 10, EPSILON * ONE_STEP.get(case, 1)
        self.names = ("student", "guide")[: len(distiller.trained_models)]
        arrays = [w for model in distiller.trained_models for w in model.get_weights()]
        self.weights = np.concatenate([w.ravel() for w in arrays]).astype(np.float64)
        self.average = self.weights  # of the student as it was before each step
        self.teachers = {role: [w.astype(float) for w in t.get_weights()] for role, t in teachers}
        self.climbed, self.step_size, self.loss = climbed, step_size * EPSILON, loss
        self.state = {"step": 0, "tau": np.ones((2, CLASSES))}
        self.state["rows"] = np.full((CLASSES, CLASSES), 1 / CLASSES)

    def nets(self, weights):
        size = 5 * CLASSES
        found = {role: (lambda v, w=w: v @ w[0] + w[1]) for role, w in self.teachers.items()}
        for i, name in enumerate(self.names):
            both = weights[i * size : (i + 1) * size].reshape(5, CLASSES)
            found[name] = lambda v, both=both: v @ both[:4] + both[4]
        return found

    def step(self, x, y, start):
        average = self.average = 0.6 * self.average + 0.4 * self.weights
        self.state["average"] = self.nets(average)["student"]
        nets, a = self.nets(self.weights), start
        self.state["nets"] = nets
        for _ in range(self.steps):
            up = slope(lambda v: self.climbed(nets, v, x, y, self.state).sum(), a)
            a = a + self.step_size * np.sign(up)
            a = np.clip(np.clip(a, x - self.ball, x + self.ball), 0, 1)

        def mean_loss(weights):
            return self.loss(self.nets(weights), a, x, y, self.state).mean()

        before = mean_loss(self.weights)
        losses = [[ce(nets["student"](v), y)[y == c].sum() for c in range(3)] for v in (a, x)]
        gaps = np.array(losses) - np.mean(losses, axis=1, keepdims=True)
        gaps /= np.abs(gaps).max(axis=1, keepdims=True)
        self.weights = self.weights - RATE * slope(mean_loss, self.weights)
        p, rows = softmax(nets["student"](x) / 4), self.state["rows"].copy()
        for c in set(y):
            rows[c] = p[y == c].mean(0)
        self.state |= {
            "step": self.state["step"] + 1,
            "tau": self.state["tau"] - 0.1 * gaps,
            "rows": rows,
        }
        return before


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_numpy(case):
    name, settings, climbed, step_size, start, loss = CASES[case]
    cls = registry.target("distillers", name)
    threat = ThreatModel(epsilon=EPSILON)
    settings, matching = dict(settings), settings.get("gradient_matching", 0.0)
    settings.pop("gradient_matching", None)
    context = TrainingContext(threat, seed=7, attack_shards=1, epochs=4, gradient_matching=matching)
    teachers = {role: net(seed) for seed, role in enumerate(cls.teacher_views, 1)}
    distiller = cls(net(0), teachers, context=context, **settings)
    distiller.compile(optimizer=keras.optimizers.SGD(RATE), jit_compile=False)
    oracle = NumpySteps(distiller, teachers.items(), climbed, step_size, loss, case)
    random = np.random.RandomState(3)
    for number in range(2):
        images = random.rand(BATCH, *SHAPE).astype(np.float32)
        labels = random.randint(0, CLASSES, BATCH).astype(np.int32)
        ids = tf.range(BATCH, dtype=tf.int64) + BATCH * number
        seeds = image_seeds(7, ids)
        if start == "gaussian":
            begun = images + 0.001 * normal(seeds, SHAPE).numpy()
        else:
            ball = threat.scaled(1.5) if start == "wide" else threat
            drawn = images + uniform_in_ball(seeds, tf.TensorShape(SHAPE), ball)
            begun = ball.project(drawn, images).numpy()
        flat = [v.reshape(BATCH, -1).astype(np.float64) for v in (images, begun)]
        expected = oracle.step(flat[0], labels, flat[1])
        logs = distiller.train_step((tf.constant(images), tf.constant(labels), ids))
        np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)
        arrays = [w for model in distiller.trained_models for w in model.get_weights()]
        ours = np.concatenate([w.ravel() for w in arrays])
        np.testing.assert_allclose(ours, oracle.weights, atol=2e-5)
    if name == "absld":
        np.testing.assert_allclose(distiller.class_temperatures, oracle.state["tau"], atol=1e-5)
        np.testing.assert_array_equal(distiller.class_losses, 0)
