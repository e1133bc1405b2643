"""What a distiller has: inner attack, teachers, context, each alone; and a stranger's whole one."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import mtard_tf
from mtard_tf import registry
from mtard_tf.attacks.autoattack import AutoAttack
from mtard_tf.attacks.pgd import FGSM
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.distiller.inner_attack import InnerAttack
from mtard_tf.distiller.teachers import Teachers, logits_table
from mtard_tf.models.fused import FusedTraining
from mtard_tf.schedules import Warmup
from mtard_tf.testing import DistillerContract, tiny_data
from mtard_tf.threat import ThreatModel

KERNEL = np.array([[1.0, -1], [2, 0], [0, 3], [1, 2]])
IMAGES = tf.fill([2, 2, 2, 1], 0.5)
LABELS = tf.constant([0, 1])
SEEDS = tf.zeros([2, 2], tf.int32)


def _linear(kernel=KERNEL) -> keras.Model:
    layers = [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.set_weights([kernel, np.zeros(2)])
    return model


def _attack(context: TrainingContext, attack=None, **settings) -> InnerAttack:
    student = _linear()
    return InnerAttack(attack or FGSM(), student, FusedTraining(student), context, **settings)


def _moves(images) -> np.ndarray:
    return (images - IMAGES).numpy().reshape(2, 4)


@pytest.mark.parametrize("shards", [1, 2])
def test_the_attack_climbs_on_cross_entropy_or_an_objective_as_far_as_the_epoch_allows(shards):
    # Of class 0 cross-entropy rises along column 1 minus column 0: -2, -2, 3, 1. Of class 1, back.
    context = TrainingContext(ThreatModel(epsilon=0.1), Warmup(2), attack_shards=shards)
    attack = _attack(context)
    for epoch, epsilon in ((0.5, 0.025), (1.0, 0.05), (2.0, 0.1)):
        moved = _moves(attack(IMAGES, LABELS, SEEDS, tf.constant(epoch)))
        expected = epsilon * np.array([[-1, -1, 1, 1], [1, 1, -1, -1]])
        np.testing.assert_allclose(moved, expected, atol=1e-6)

    def logit(_, logits, rows):  # that of class 0 for the first image, of class 1 for the second
        return tf.gather(logits, LABELS[rows], batch_dims=1)

    moved = _moves(attack(IMAGES, LABELS, SEEDS, tf.constant(2.0), logit))
    np.testing.assert_allclose(moved, 0.1 * np.array([[1, 1, 0, 1], [-1, 0, 1, 1]]), atol=1e-6)


def test_the_step_size_has_a_schedule_of_its_own():
    context = TrainingContext(ThreatModel(epsilon=0.1), step_size_schedule=Warmup(4))
    moved = _moves(_attack(context)(IMAGES, LABELS, SEEDS, tf.constant(1.0)))
    np.testing.assert_allclose(np.abs(moved), np.full((2, 4), 0.025), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_norm": "train"}, "Mine.attack_batch_norm is 'train'; use one of inference, batch"),
        ({"attack": AutoAttack()}, "Mine's attack has no relative_step_size for Stage.step_size"),
    ],
)
def test_an_attack_that_cannot_be_used_is_refused(settings, message):
    with pytest.raises(ValueError) as caught:
        _attack(TrainingContext(step_size_schedule=Warmup(2)), owner="Mine", **settings)
    assert str(caught.value).startswith(message)
    with pytest.raises(ValueError, match="^Mine trains on adversarial images; give it an attack"):
        student = _linear()
        InnerAttack(None, student, FusedTraining(student), TrainingContext(), owner="Mine")


@pytest.mark.parametrize(
    ("mode", "moves"), [("inference", False), ("batch", False), ("training", True)]
)
def test_only_the_mode_training_moves_the_running_statistics(mode, moves):
    layers = [keras.Input((2, 2, 1)), keras.layers.BatchNormalization(), keras.layers.Flatten()]
    student = keras.Sequential([*layers, keras.layers.Dense(2)])
    attack = InnerAttack(
        FGSM(), student, FusedTraining(student), TrainingContext(), batch_norm=mode
    )
    before = student.layers[0].moving_mean.numpy()
    seen = []

    def perturb(seeds):
        seen.append(seeds.numpy())
        return attack(IMAGES, LABELS, seeds, tf.constant(0.0))

    attack.view(perturb, tf.constant([3, 4], tf.int64))
    assert bool(np.any(student.layers[0].moving_mean.numpy() != before)) == (mode == "training")
    np.testing.assert_array_equal(seen[0], [[0, 3], [0, 4]])


def test_each_teacher_is_asked_about_its_views_once_and_only_what_is_not_known():
    teachers = Teachers(
        {"robust": _linear(), "clean": _linear(2 * KERNEL)},
        {"robust": ("clean", "adversarial"), "clean": "clean"},
    )
    assert teachers.seen == ("clean", "adversarial", "clean")
    clean = teachers.ask({"clean": IMAGES}, {"clean": tf.constant([[7.0, 7.0]])})
    assert list(clean) == ["clean", "robust_clean"]
    np.testing.assert_array_equal(clean["clean"][0], [7.0, 7.0])  # known
    np.testing.assert_array_equal(clean["robust_clean"][0], [2.0, 2.0])  # sums of columns / 2
    both = teachers.ask({"clean": IMAGES, "adversarial": 2 * IMAGES}, clean)
    np.testing.assert_array_equal(both["robust_adversarial"][0], [4.0, 4.0])
    assert both["robust_clean"] is clean["robust_clean"]


def test_gradients_reach_the_images_through_a_teacher_and_its_answers_have_none():
    teachers = Teachers({"robust": _linear()}, {"robust": "clean"})
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(IMAGES)
        through = teachers.fn("robust")(IMAGES)[:, 0]
        answer = teachers.ask({"clean": IMAGES}, {})["robust"]
    np.testing.assert_allclose(
        tf.reshape(tape.gradient(through, IMAGES), [2, 4]), [KERNEL[:, 0]] * 2
    )
    assert tape.gradient(answer, IMAGES) is None


def test_labels_are_cached_or_asked_for():
    teachers = Teachers({"teacher": _linear()}, {"teacher": "clean"}, "Mine")
    teachers.label("cached")
    assert teachers.cached == ("teacher",)
    teachers.label("online")
    assert teachers.cached == ()
    with pytest.raises(ValueError, match="^Mine.labels is 'soft'; use 'cached' or 'online'.$"):
        teachers.label("soft")
    split = tiny_data(train=7).train
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    expected = split.images.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(logits_table(model, split), expected, rtol=1e-5)


class Mine(mtard_tf.Distiller):
    """loss = CE(f(x'), y) + weight KL(T(x) || f(x')), T the teacher "robust"."""

    student_views = ("adversarial",)
    teacher_views = {"robust": "clean"}

    def __init__(self, student, teachers=None, *, context=None, weight: float = 2.0, attack=None):
        super().__init__(student, teachers, context=context, attack=attack or mtard_tf.PGD(2))
        self.weight = weight

    def terms(self, labels, student, teachers):
        logits = student["adversarial"]
        return {
            "cross_entropy": mtard_tf.losses.cross_entropy(logits, labels),
            "kl": mtard_tf.losses.kl_divergence(teachers["robust"], logits),
        }

    @property
    def term_weights(self):
        return {"kl": self.weight}


@pytest.fixture(scope="module", autouse=True)
def _registered():
    # Not on import: other test files list the registered names on theirs.
    mtard_tf.register("distillers", "mine")(Mine)


class TestMine(DistillerContract):
    """A whole distiller of somebody else's keeps the contract of the built-in ones."""

    names = ("mine",)


def test_a_new_field_of_the_context_breaks_nobody():
    @dataclasses.dataclass(frozen=True)
    class Later(TrainingContext):
        new_option: float = 0.5

    distiller = Mine(_linear(), {"robust": _linear()}, context=Later())
    distiller.compile(optimizer="sgd", jit_compile=False)
    logs = distiller.train_step((IMAGES, LABELS))
    assert float(logs["loss"]) == pytest.approx(float(logs["cross_entropy"] + 2 * logs["kl"]))


def test_a_distiller_that_no_stage_could_call_is_refused():
    with pytest.raises(
        registry.RegistryError, match=r"distillers\.deaf, of .*, does not take cont"
    ):

        @mtard_tf.register("distillers", "deaf")
        def deaf(student, teachers):
            """Takes no context."""


def _stranger(**parts):
    """A distiller with a beginner's mistake in one part."""

    class Stranger(mtard_tf.Distiller):
        student_views = parts.get("views", ("clean",))

        def terms(self, labels, student, teachers):
            loss = self.cross_entropy(student["clean"], labels)
            return {"hard": tf.reduce_mean(loss) if parts.get("scalar") else loss}

    return Stranger(_linear())


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"views": ("adversary",)}, "Stranger has the view 'adversary'; use 'clean' and 'adversar"),
        ({"views": "clean"}, "Stranger.student_views is the text 'clean'; give a tuple: .'clean',"),
        ({"scalar": True}, "Stranger.terms: 'hard' has the shape .*; give one value per example"),
    ],
)
def test_a_beginner_s_mistake_is_one_line(parts, line) -> None:
    with pytest.raises(ValueError, match=line):
        distiller = _stranger(**parts)
        distiller.compile(optimizer="sgd")
        distiller.train_step((IMAGES, LABELS))
