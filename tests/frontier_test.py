"""The newer methods' losses, weights, targets and attacks against their official code's, float64.

Where the code is a script without a function, the values are those of its named lines.
"""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import losses, registry
from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.distiller.averaging import TeachingAverage
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.distiller.gradient_matching import GradientMatching
from mtard_tf.plugins.adversarial_distillation.dgad import swapped
from mtard_tf.plugins.adversarial_distillation.saad import renyi_entropy
from mtard_tf.plugins.adversarial_training import n_fgsm
from mtard_tf.plugins.adversarial_training.ikl import distance
from mtard_tf.schedules import Cyclic, ScheduledRate
from mtard_tf.threat import ThreatModel

DATA = np.load(pathlib.Path(__file__).parent / "reference" / "frontier.npz")
VIEWS = {"clean": "clean", "adversarial": "adv", "mirrored": "mirror"}
STUDENT = {view: tf.constant(DATA[f"s_{key}"]) for view, key in VIEWS.items()}
TEACHER = {view: tf.constant(DATA[f"t_{key}"]) for view, key in VIEWS.items()}
LABELS = tf.constant(DATA["labels"], tf.int32)
EPSILON = 8 / 255


def _linear() -> keras.Model:
    return keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )


def _make(
    name: str,
    student=_linear,
    epoch: int = 1,
    epochs: int | None = None,
    steps: int = 1,
    **settings,
):
    """A distiller in an epoch, counted from 1."""
    cls = registry.target("distillers", name)
    context = TrainingContext(
        ThreatModel(epsilon=EPSILON), epochs=epochs, steps_per_epoch=steps, attack_shards=1
    )
    teachers = {role: student() for role in cls.teacher_views}
    distiller = cls(student(), teachers, context=context, **settings)
    distiller.compile(optimizer="sgd", jit_compile=False)
    distiller.steps_done.assign(epoch - 1)
    return distiller


def _loss_and_gradients(distiller, answers=()):
    teachers = {f"robust_{view}": logits for view, logits in TEACHER.items()} | dict(answers)
    with tf.GradientTape() as tape:
        tape.watch(STUDENT)
        terms = distiller.terms(LABELS, STUDENT, teachers)
        means = {name: tf.reduce_mean(values) for name, values in terms.items()}
        weights, _ = distiller.weigh(means, teachers)
        loss = tf.add_n([weights[name] * mean for name, mean in means.items()])
    return loss, tape.gradient(loss, STUDENT, unconnected_gradients="zero")


def _assert_reference(found, name: str) -> None:
    loss, gradients = found
    np.testing.assert_allclose(loss, DATA[name], rtol=1e-5)
    for view, key in VIEWS.items():
        if f"{name}_grad_s_{key}" in DATA:
            expected = DATA[f"{name}_grad_s_{key}"]
            np.testing.assert_allclose(gradients[view], expected, rtol=1e-5, atol=1e-6)


def _matched(student):
    teacher = TEACHER["adversarial"], TEACHER["mirrored"]
    return losses.gradient_matching(*teacher, student["adversarial"], student["mirrored"])


@pytest.mark.parametrize(
    ("name", "base", "alpha", "epoch"),
    [("term", 0, 1, None), ("e50_a1", 1, 1, 50), ("e150_a10", 1, 10, 150)],
)
def test_gradient_matching(name, base, alpha, epoch) -> None:
    context = TrainingContext(epochs=200 if epoch else None, gradient_matching=alpha)
    teachers, weight = {"robust": _linear()}, alpha
    if epoch:
        distiller = registry.target("distillers", "rslad")(_linear(), teachers, context=context)
        distiller.steps_done.assign(epoch - 1)  # an epoch has one step
        weight = GradientMatching(distiller).weight
    with tf.GradientTape() as tape:
        tape.watch(STUDENT)
        kl = losses.kl_divergence(TEACHER["adversarial"], STUDENT["adversarial"])
        loss = tf.reduce_mean(base * kl + weight * _matched(STUDENT))
    _assert_reference((loss, tape.gradient(loss, STUDENT)), f"igdm_{name}")


def test_gradient_matching_of_equals_of_no_perturbation_and_of_shifted_logits() -> None:
    plus, minus = TEACHER["adversarial"], TEACHER["mirrored"]
    with tf.GradientTape() as tape:
        tape.watch([plus, minus])
        same = losses.gradient_matching(
            tf.stop_gradient(plus), tf.stop_gradient(minus), plus, minus
        )
    np.testing.assert_allclose(same, np.zeros(16), atol=1e-6)
    for gradient in tape.gradient(same, [plus, minus]):
        np.testing.assert_allclose(gradient, np.zeros((16, 10)), atol=1e-6)
    still = STUDENT["clean"]
    np.testing.assert_array_equal(losses.gradient_matching(plus, plus, still, still), np.zeros(16))
    moved = {view: logits + 3.0 for view, logits in STUDENT.items()}
    np.testing.assert_allclose(_matched(moved), _matched(STUDENT), rtol=1e-4)


def test_gradient_matching_adds_its_term_and_nothing_else() -> None:
    """At a weight that rounding drops, a step is the one without it, to the bit."""
    batch = IMAGES, tf.constant(DATA["atk_labels"], tf.int32), tf.range(8, dtype=tf.int64)
    weights = []
    for alpha in (0.0, 1e-30, 1.0):
        context = TrainingContext(epochs=4, gradient_matching=alpha, attack_shards=1)
        cls, net = registry.target("distillers", "adaad"), _net("s")
        distiller = cls(net, {"robust": _net("t")}, context=context, attack=PGD(2))
        distiller.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
        logs = [distiller.train_step(batch) for _ in range(2)]
        assert ("gradient_matching" in logs[0]) == (alpha > 0)
        for epoch, row in enumerate(logs, 1):
            matched = alpha * epoch / 4 * row["gradient_matching"] if alpha else 0.0
            np.testing.assert_allclose(row["loss"], row["kl_adversarial"] + matched, rtol=1e-6)
        weights.append(np.concatenate([w.ravel() for w in net.get_weights()]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 1e-4


TAUGHT = "ard iad iad2 rslad absld adaad adaiad dgad mtard bmtard".split()


@pytest.mark.parametrize("name", TAUGHT)
def test_every_distiller_with_a_robust_teacher_matches_gradients(name) -> None:
    cls = registry.target("distillers", name)
    batch = IMAGES, tf.constant(DATA["atk_labels"], tf.int32), tf.range(8, dtype=tf.int64)
    losses = []
    for alpha in (0.0, 2.0):
        context = TrainingContext(epochs=4, gradient_matching=alpha, attack_shards=1)
        teachers = {role: _net("t") for role in cls.teacher_views}
        distiller = cls(_net("s"), teachers, context=context, attack=PGD(1, start="none"))
        distiller.compile(optimizer="sgd", jit_compile=False)
        logs = distiller.train_step(batch)
        losses.append(float(logs["loss"]))
    np.testing.assert_allclose(
        losses[1], losses[0] + 2 / 4 * float(logs["gradient_matching"]), rtol=1e-5
    )
    assert logs["gradient_matching"] > 1e-4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("natural", "is 1.0, but Natural has no student on adversarial images with a teacher"),
        ("pgd_at", "PGDAdversarialTraining has no student on adversarial images with a teacher"),
        ("saad", "SAAD matches gradients itself; set its own alpha, and leave Stage.gradient_m"),
    ],
)
def test_gradient_matching_where_it_cannot_be(name, message) -> None:
    cls = registry.target("distillers", name)
    teachers = {role: _linear() for role in cls.teacher_views}
    with pytest.raises(ValueError) as caught:
        cls(_linear(), teachers, context=TrainingContext(gradient_matching=1.0))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("gamma", [1, 2])
def test_saad_weights(gamma) -> None:
    found = renyi_entropy(TEACHER["adversarial"], gamma)
    np.testing.assert_allclose(found, DATA[f"saad_entropy_g{gamma}"], rtol=1e-5)
    distiller = _make("saad", gamma=gamma)
    for order in (np.arange(16), np.arange(16)[::-1]):
        pair = distiller.image_weights(tf.gather(TEACHER["adversarial"], order))
        for weight, name in zip(pair, ("weight", "weight_norm"), strict=True):
            expected = DATA[f"saad_{name}_g{gamma}"][order]
            np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-5)
            assert weight.numpy().min() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("gamma", "beta", "epoch", "alpha"), [(1, 0, 50, 1), (1, 1, 150, 1), (2, 0.5, 200, 10)]
)
def test_saad(gamma, beta, epoch, alpha) -> None:
    distiller = _make("saad", epoch=epoch, epochs=200, gamma=gamma, beta=beta, alpha=alpha)
    found = _loss_and_gradients(distiller)
    _assert_reference(found, f"saad_g{gamma}_b{beta}_e{epoch}_a{alpha}")


def test_saad_of_one_image_a_batch_is_zero() -> None:
    teachers = {f"robust_{view}": logits[:1] for view, logits in TEACHER.items()}
    student = {view: logits[:1] for view, logits in STUDENT.items()}
    terms = _make("saad").terms(LABELS[:1], student, teachers)
    assert set(terms) == {"kl_adversarial", "gradient_matching"}
    np.testing.assert_array_equal(list(terms.values()), [[0.0], [0.0]])


def test_dgad() -> None:
    for view, key in (("clean", "clean"), ("adversarial", "adv")):
        found = swapped(TEACHER[view], LABELS)
        np.testing.assert_allclose(found, DATA[f"dgad_t_{key}_swapped"], rtol=1e-6)
    found = _loss_and_gradients(_make("dgad"))
    _assert_reference(found, "dgad")
    wrong = np.argmax(TEACHER["clean"], axis=1) != DATA["labels"]
    np.testing.assert_array_equal(wrong, DATA["dgad_partition"].astype(bool))
    assert 0 < wrong.sum() < 16


def test_swapped_worked_example() -> None:
    logits = tf.constant([[1.0, 3, 2], [3, 1, 2], [3, 3, 2]])  # wrong, right, a tie
    expected = [[3.0, 1, 2], [3, 1, 2], [3, 3, 2]]
    np.testing.assert_array_equal(swapped(logits, tf.constant([0, 0, 1])), expected)


def test_a_teaching_average_follows_updates_once_and_statistics_too() -> None:
    layers = [keras.layers.Flatten(), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    student = keras.Sequential([keras.Input((2, 2, 1)), *layers])
    average = TeachingAverage(student, _make("natural"), 0.75)
    images, random = tf.random.stateless_uniform([4, 2, 2, 1], [1, 2]), np.random.RandomState(0)
    expected = seen = None
    # The third call has seen its update: a step that accumulated gradients, or was skipped.
    for updates in (0, 1, 1, 2):
        weights = [random.rand(*w.shape) for w in student.get_weights()]
        student.set_weights(weights)
        average.follow(tf.constant(updates))
        if expected is None:
            expected = weights
        elif seen != updates:
            expected = [0.75 * a + 0.25 * w for a, w in zip(expected, weights, strict=True)]
        seen = updates
        found = average(images)
        student.set_weights(expected)
        np.testing.assert_allclose(found, student(images, training=False), rtol=1e-5)


SCHEDULES = {"": ((2.5, 2.0), (0.7, 0.95)), "_awp": ((2.5, 1.5), (0.7, 0.85))}


@pytest.mark.parametrize("run", SCHEDULES)
def test_adr_schedules(run) -> None:
    temperatures, interpolations = SCHEDULES[run]
    distiller = _make("adr", epochs=20, temperatures=temperatures, interpolations=interpolations)
    for step in range(20):  # of 20 epochs of one step, where the reference has 2 of 10
        distiller.steps_done.assign(step)
        for name in ("temperature", "interpolation"):
            found = distiller.annealed(getattr(distiller, f"{name}s"))
            np.testing.assert_allclose(found, DATA[f"adr_{name}{run}"][step], rtol=1e-5)


@pytest.mark.parametrize("step", [0, 5, 10, 19])
def test_adr(step) -> None:
    own = {"own": tf.constant(DATA["ema_clean"])}
    for name, beta in (("pgd_at", 0.0), ("trades", 6.0)):
        distiller = _make("adr", epoch=step + 1, epochs=20, beta=beta)
        target = distiller.target(LABELS, own)
        np.testing.assert_allclose(target, DATA[f"adr_target_{step}"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tf.reduce_sum(target, axis=1), np.ones(16), rtol=1e-6)
        _assert_reference(_loss_and_gradients(distiller, own), f"adr_{name}_{step}")


def test_adr_that_trusts_labels_alone_is_adversarial_training() -> None:
    own = {"own": tf.constant(DATA["ema_clean"])}
    loss, _ = _loss_and_gradients(_make("adr", interpolations=(0.0, 0.0)), own)
    hard = losses.cross_entropy(STUDENT["adversarial"], LABELS)
    np.testing.assert_allclose(loss, tf.reduce_mean(hard), rtol=1e-6)


def _ikl(alpha=4.0, beta=20.0, weights=None, **settings):
    distiller = _make("ikl", alpha=alpha, beta=beta, **settings)
    if weights is not None:
        distiller.class_weights.assign(DATA["ikl_class_weights"])
    return distiller


def test_ikl_class_weights_are_means_of_an_epoch() -> None:
    distiller = _ikl(steps=3)
    labels = tf.constant(DATA["ikl_epoch_labels"], tf.int32)
    for step in range(3):
        distiller.steps_done.assign(step)
        uniform = distiller.class_weights.numpy()
        np.testing.assert_allclose(uniform, np.full((10, 10), 0.1), rtol=1e-6)
        rows = slice(20 * step, 20 * step + 20)
        student = dict.fromkeys(("clean", "adversarial"), DATA["ikl_epoch_logits"][rows])
        distiller.weigh(distiller.terms(labels[rows], student, {}), {})
    found = distiller.class_weights.numpy()
    np.testing.assert_allclose(found, DATA["ikl_class_weights"], rtol=1e-5)
    np.testing.assert_array_equal(distiller.class_sums, np.zeros((10, 10)))
    # An epoch with class 3 alone leaves the other rows.
    alone = {view: logits[:1] for view, logits in STUDENT.items()}
    for step in range(3, 6):
        distiller.steps_done.assign(step)
        distiller.weigh(distiller.terms(tf.constant([3]), alone, {}), {})
    moved = np.abs(distiller.class_weights.numpy() - found).max(axis=1)
    assert moved[3] > 0.01
    np.testing.assert_array_equal(np.delete(moved, 3), 0)


@pytest.mark.parametrize("when", ["first", "later"])
def test_ikl(when) -> None:
    weights = DATA["ikl_class_weights"] if when == "later" else None
    cases = {
        f"ikl_{when}": {},
        f"ikl_{when}_mse": {"alpha": 0.0, "beta": 1.0},
        "ikl_sce": {"alpha": 1.0, "beta": 0.0},
        f"gkl_{when}_g1": {"gamma": 1.0},
        f"gkl_{when}_g0.4": {"gamma": 0.4},
    }
    with tf.GradientTape() as tape:
        tape.watch(STUDENT)
        hard = tf.reduce_mean(losses.cross_entropy(STUDENT["clean"], LABELS))
    of_hard = tape.gradient(hard, STUDENT["clean"])
    for name, settings in cases.items():
        loss, gradients = _loss_and_gradients(_ikl(weights=weights, **settings))
        if name == "ikl_later":
            _assert_reference((loss, gradients), "ikl_at_total")
        gradients["clean"] -= of_hard
        _assert_reference((loss - hard, gradients), name)


def test_ikl_distance_is_the_sum_over_pairs_and_completes_the_kl() -> None:
    clean, adversarial = STUDENT["clean"], STUDENT["adversarial"]
    random = np.random.RandomState(0)
    apart, weights = random.randn(5, 10), random.rand(5, 10)
    pairs = (apart[:, :, None] - apart[:, None]) ** 2
    expected = (weights[:, :, None] * weights[:, None] * pairs).sum((1, 2)) / 4
    found = distance(tf.constant(apart), tf.constant(weights))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(distance(tf.zeros([1, 3]), tf.ones([1, 3])), [0.0])
    # With s = p(x) and the other side fixed, the two terms have the gradients of the KL.
    with tf.GradientTape() as tape:
        tape.watch([clean, adversarial])
        fixed = tf.stop_gradient(clean)
        parts = distance(clean - tf.stop_gradient(adversarial), tf.nn.softmax(fixed))
        total = tf.reduce_mean(parts + losses.soft_cross_entropy(fixed, adversarial))
    gradients = tape.gradient(total, [clean, adversarial])
    for gradient, key in zip(gradients, ("clean", "adv"), strict=True):
        np.testing.assert_allclose(gradient, DATA[f"kl_batchmean_grad_s_{key}"], atol=1e-6)


def _net(which: str) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(24, "tanh"),
            keras.layers.Dense(10),
        ]
    )
    model.set_weights([DATA[f"net_{which}_{part}"] for part in ("w1", "b1", "w2", "b2")])
    return model


IMAGES = tf.constant(DATA["atk_x"].reshape(8, 4, 4, 1))


def _started(attack: PGD, start) -> PGD:
    """The attack from the reference's noise."""
    object.__setattr__(attack, "_start", lambda problem: start(problem.images))
    return attack


def _gaussian(images):
    return images + 0.001 * DATA["atk_normal"].reshape(8, 4, 4, 1)


def _uniform(images):
    moved = images + EPSILON * DATA["atk_uniform"].reshape(8, 4, 4, 1)
    return tf.clip_by_value(moved, 0.0, 1.0)


# Name in the file -> distiller, settings, attack, start.
ATTACKS = {
    "saad": ("saad", {}, PGD(), _gaussian),
    "saad_lambda0": ("saad", {"slope": 0.0}, PGD(), _gaussian),
    "adaad": ("adaad", {}, PGD(), _gaussian),
    "fgsm_rs": ("fgsm_rs", {}, PGD(1, 1.25), _uniform),
    "pgd_hard": ("pgd_at", {}, PGD(), _uniform),
    "dkl_c10": ("ikl", {}, PGD(5, 0.5), _gaussian),
    "dkl_c100": ("ikl", {"attack_distance": True}, PGD(5, 0.5), _gaussian),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(name) -> None:
    method, settings, attack, start = ATTACKS[name]
    cls = registry.target("distillers", method)
    # The reference of `ikl` is epoch 100 of 200, in which epsilon is half its last value.
    epsilon = EPSILON / 2 if method == "ikl" else EPSILON
    context = TrainingContext(ThreatModel(epsilon=epsilon), attack_shards=1)
    teachers = {role: _net("t") for role in cls.teacher_views}
    started = _started(attack, start)
    distiller = cls(_net("s"), teachers, context=context, attack=started, **settings)
    if method == "ikl":
        distiller.class_weights.assign(DATA["ikl_class_weights"])
    labels = tf.constant(DATA["atk_labels"], tf.int32)
    answers = distiller.teachers.ask({"clean": IMAGES}, {})
    seeds = image_seeds(0, tf.range(8))
    found = distiller.perturb(IMAGES, labels, seeds, answers)
    expected = DATA[f"atk_out_{name}"].reshape(8, 4, 4, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_n_fgsm(monkeypatch) -> None:
    noise = DATA["atk_uniform"].reshape(8, 4, 4, 1)

    def drawn(seeds, shape, threat):
        assert shape == (4, 4, 1) and float(threat.epsilon) == pytest.approx(2 * EPSILON)
        return threat.epsilon * noise

    monkeypatch.setattr(n_fgsm, "uniform_in_ball", drawn)
    distiller = _make("n_fgsm", lambda: _net("s"))
    labels, seeds = tf.constant(DATA["atk_labels"], tf.int32), image_seeds(0, tf.range(8))
    found = distiller.perturb(IMAGES, labels, seeds, {})
    np.testing.assert_allclose(found, DATA["atk_out_n_fgsm"].reshape(8, 4, 4, 1), atol=1e-6)
    assert EPSILON * 1.5 < np.abs(found - IMAGES).max() <= EPSILON * 3 + 1e-6
    monkeypatch.undo()
    plain = _make("n_fgsm", lambda: _net("s"), noise=0.0).perturb(IMAGES, labels, seeds, {})
    model = _net("s")
    fgsm = FGSM()(model, IMAGES, labels, threat=ThreatModel(epsilon=EPSILON), seeds=seeds)
    np.testing.assert_allclose(plain, fgsm, atol=1e-6)


def test_n_fgsm_is_of_the_maximum_norm() -> None:
    context = TrainingContext(ThreatModel("l2", 0.5))
    with pytest.raises(ValueError, match=r"steps by signs and the threat model is l2; set Exper"):
        n_fgsm.NFGSM(_linear(), context=context)


@pytest.mark.parametrize(("name", "base", "peak"), [("", 0.2, 0.5), ("_svhn", 0.05, 0.4)])
def test_cyclic_rates(name, base, peak) -> None:
    rate = ScheduledRate(base, Cyclic(2, peak), 10)
    found = [float(rate(tf.constant(step))) for step in range(20)]
    np.testing.assert_allclose(found, DATA[f"cyclic{name}_2x10"][:, 0], atol=1e-6)
