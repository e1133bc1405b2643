"""The base of attacks and measures: what their call checks, and other callables beside it."""

from __future__ import annotations

import ast
import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.attacks import attack as base
from mtard_tf.attacks import shrinking_batches
from mtard_tf.attacks.attack import Attack, Problem, kind_of
from mtard_tf.attacks.autoattack import AutoAttack
from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.spsa import SPSA
from mtard_tf.attacks.square import Square
from mtard_tf.attacks.tempered import AtTemperature
from mtard_tf.attacks.transfer import Transfer
from mtard_tf.measuring import measure
from mtard_tf.measuring.sensitivity import LogitJacobian
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel("linf", 0.25)
IMAGES = tf.constant([[[[0.5], [0.5]]], [[[0.0], [1.0]]]])  # [2, 1, 2, 1]
LABELS = tf.constant([0, 1])
SEEDS = image_seeds(0, tf.range(2))


def _model(images):
    """Logits 2 p and 3 q of pixels p and q."""
    return tf.reshape(images, [-1, 2]) * [2.0, 3.0]


@dataclasses.dataclass(frozen=True)
class Darken(Attack):
    """Subtracts epsilon from every pixel: a whole attack in one line."""

    share: float = 1.0

    def run(self, problem: Problem) -> tf.Tensor:
        threat = problem.threat
        return tf.maximum(problem.images - self.share * threat.epsilon, threat.minimum)


def _darken(model_fn, images, labels, *, threat, seeds, objective=None):
    return Darken().run(Problem(model_fn, images, labels, threat, seeds, objective))


def test_an_attack_is_its_algorithm() -> None:
    # 0.5 - 0.25 and max(0 - 0.25, 0), 1 - 0.25.
    found = Darken()(_model, IMAGES, LABELS, threat=THREAT, seeds=SEEDS)
    np.testing.assert_array_equal(tf.reshape(found, [2, 2]), [[0.25, 0.25], [0.0, 0.75]])
    assert repr(Darken(0.5)) == "Darken(share=0.5)" and kind_of(Darken()) == "gradient"


def test_no_gradient_flows_back_through_an_attack() -> None:
    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        found = Darken()(_model, IMAGES, LABELS, threat=THREAT, seeds=SEEDS)
    assert tape.gradient(found, IMAGES) is None


@pytest.mark.parametrize(
    "wrapper", [lambda a: AtTemperature(a, 2.0), lambda a: Transfer(_model, a)]
)
def test_any_callable_with_the_call_is_an_attack(wrapper) -> None:
    run = {"threat": THREAT, "seeds": SEEDS}
    ours, theirs = (wrapper(a)(_model, IMAGES, LABELS, **run) for a in (Darken(), _darken))
    np.testing.assert_array_equal(ours, theirs)
    assert kind_of(_darken) == "gradient"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"images": tf.cast(IMAGES, tf.float16)},
            r"images are float16 \(2, 1, 2, 1\); give float32",
        ),
        ({"images": IMAGES[0]}, r"images are float32 \(1, 2, 1\); give float32 \[batch, height, w"),
        ({"labels": LABELS[None]}, r"labels are int32 \(1, 2\); give integers \[batch\]"),
        ({"labels": tf.one_hot(LABELS, 2)}, r"labels are float32 \(2, 2\); give integers"),
        ({"seeds": SEEDS[:1]}, r"seeds are int32 \(1, 2\); give int32 \[batch, 2\]"),
        ({"seeds": tf.cast(SEEDS, tf.int64)}, r"seeds are int64 \(2, 2\); give int32"),
    ],
)
@pytest.mark.parametrize("called", [PGD(1), LogitJacobian()])
def test_shapes_and_types_are_checked_once_for_all(called, given, message) -> None:
    call = {"images": IMAGES, "labels": LABELS, "threat": THREAT, "seeds": SEEDS} | given
    call |= {"temperature": 1.0} if isinstance(called, measure.Measure) else {}
    with pytest.raises(ValueError, match=f"^{type(called).__name__}: {message}"):
        called(_model, **call)


def test_numpy_arrays_are_taken_as_they_are() -> None:
    as_arrays = [np.asarray(given) for given in (IMAGES, LABELS, SEEDS)]
    images, labels, seeds = as_arrays
    ours = PGD(2)(_model, images, labels, threat=THREAT, seeds=seeds)
    theirs = PGD(2)(_model, IMAGES, LABELS, threat=THREAT, seeds=SEEDS)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", registry.names("attacks"))
def test_every_attack_takes_an_objective_or_rejects_it_in_one_line(name) -> None:
    attack = registry.target("attacks", name)
    made = attack(_model) if name == "transfer" else attack()
    call = {"threat": THREAT, "seeds": SEEDS, "objective": lambda x, z: z[:, 1]}
    fixed = ("autoattack", "cw_l2", "deepfool", "fab", "fab_t", "jsma", "spsa", "square")
    assert bool(made.fixed_loss) == (name in fixed)
    if made.fixed_loss:
        with pytest.raises(ValueError, match=rf"^{made.fixed_loss}; give no objective \(PGD and"):
            made(_model, IMAGES, LABELS, **call)
    else:
        made(_model, IMAGES, LABELS, **call)


def test_what_an_attack_uses() -> None:
    kinds = [kind_of(a) for a in (PGD(), FGSM(), PGD(1), SPSA(), Square(), AutoAttack())]
    assert kinds == ["gradient", *["single_step"] * 2, *["black_box"] * 2, "ensemble"]


def test_a_loop_ends_at_its_number_of_steps_or_its_condition() -> None:
    def step(i, total, rows):
        return total + i, (rows[0][1:],)

    state = (0, (tf.constant([5, 6, 7, 8]),))
    total, (rows,) = shrinking_batches.loop(3, step, state)
    np.testing.assert_array_equal([total, *rows], [0 + 1 + 2, 8])
    total, (rows,) = shrinking_batches.loop(
        9, step, state, going=lambda total, rows: tf.size(rows[0]) > 2
    )
    np.testing.assert_array_equal([total, *rows], [0 + 1, 7, 8])


@pytest.mark.parametrize(("module", "owner"), [(base, "Attack"), (measure, "Measure")])
def test_the_call_is_written_once(module, owner) -> None:
    """No other class of the package has a `__call__` with a `threat`."""
    folder = pathlib.Path(module.__file__).parent
    found = [
        node.name
        for path in sorted(folder.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__call__"
        if "threat" in [argument.arg for argument in method.args.kwonlyargs]
    ]
    assert found == [owner]
