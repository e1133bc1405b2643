"""A rebuilt net runs in a model's place only where it is the same; what is attacked is counted."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks.apgd import APGD
from mtard_tf.attacks.pgd import PGD
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.data.image_data import Split
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.plugins.adversarial_training.pgd_at import PGDAdversarialTraining
from mtard_tf.threat import ThreatModel

L = keras.layers
IMAGES = tf.random.stateless_uniform((8, 8, 8, 1), (0, 1))


class AlwaysNoise(L.Layer):
    """Noise at inference as well, as a randomised defence adds it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + 0.3 * keras.random.normal(keras.ops.shape(x), seed=self.seeds)


class OpNoise(L.Layer):
    """The same from TensorFlow's own generator, which no variable shows."""

    def call(self, x):
        return x + 0.3 * tf.random.normal(tf.shape(x))


class Nameless(L.Layer):
    """Its config has no name: the copy is called otherwise."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = self.add_weight(shape=(), initializer="ones")

    def get_config(self):
        return {}

    def call(self, x):
        return x * self.scale


class Forgetful(L.Layer):
    """Its config lacks an argument that matters."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def get_config(self):
        return {"name": self.name}

    def call(self, x):
        return x * self.factor


class NoConfig(L.Layer):
    """Cannot be made again."""

    def __init__(self, needed):
        super().__init__()
        self.needed = needed

    def get_config(self):
        raise NotImplementedError("no config")

    def call(self, x):
        return x


def _net(layer=None, batch_norm=True):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(4, 3)(inputs if layer is None else layer(inputs))
    x = L.BatchNormalization(name="bn")(x) if batch_norm else x
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(L.ReLU()(x))))
    for variable in model.variables:
        if "moving_variance" in variable.path:
            variable.assign(np.random.RandomState(1).uniform(0.5, 2, variable.shape))
    return model


def test_a_net_of_plain_layers_has_its_twins():
    model = _net(L.Dropout(0.5))
    fold, fused = FoldedInference(model), FusedTraining(model)
    before = [np.array(v) for v in model.variables]
    fold.prove(IMAGES)
    fused.prove(IMAGES)
    assert fold._twin is not None and fused._twin is not None
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable)  # a probe leaves no trace


@pytest.mark.parametrize("layer", [Nameless, lambda: Forgetful(3.0), lambda: NoConfig(1), OpNoise])
def test_what_has_no_equal_twin_runs_as_it_is(layer):
    model = _net(layer())
    fold, fused = FoldedInference(model), FusedTraining(model)
    fold.prove(IMAGES)
    assert fold._twin is None
    answer = tf.function(lambda x: fold()(x))(IMAGES)
    if not isinstance(model.layers[1], OpNoise):
        np.testing.assert_allclose(answer, model(IMAGES, training=False), rtol=1e-5, atol=1e-6)
    trained = tf.function(lambda x: fused(x))(IMAGES)
    if not isinstance(model.layers[1], OpNoise):
        np.testing.assert_allclose(trained, model(IMAGES, training=True), rtol=1e-3, atol=1e-4)
    # A name is nothing to a fused twin, which goes by the order of variables.
    assert (fused._twin is not None) == isinstance(model.layers[1], Nameless)


@pytest.mark.parametrize("noise", [AlwaysNoise, OpNoise])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_net_that_draws_numbers_draws_anew_at_each_call(noise, batch_norm):
    fold = FoldedInference(_net(noise(), batch_norm))

    @tf.function
    def two(x):
        model_fn = fold()
        return model_fn(x), model_fn(x)

    (first, second), (later, _) = two(IMAGES), two(IMAGES)
    for other in (second, later):
        assert np.abs(first - other).max() > 0.1


def test_expectation_over_transformation_sees_fresh_noise():
    net = _net(AlwaysNoise())
    labels = np.argmax(net(IMAGES), axis=1).astype(np.int32)
    evaluator = Evaluator(net, ThreatModel("linf", 0.01))
    state = net.layers[1].seeds.state
    evaluator.correct(IMAGES, labels)
    before = np.array(state)
    ids = tf.range(8, dtype=tf.int64)
    evaluator.perturb(APGD("ce", num_steps=1, eot_samples=4), IMAGES, labels, ids)
    # The clean logits, and 4 samples at the start and at the step.
    np.testing.assert_array_equal((np.array(state) - before).max(), 9)


def test_the_evaluator_attacks_what_it_counts():
    net = _net(lambda x: Forgetful(3.0)(x))
    labels = np.argmax(net(IMAGES), axis=1).astype(np.int32)
    split = Split(np.array(IMAGES * 255).astype(np.uint8), labels)
    evaluator = Evaluator(net, ThreatModel("linf", 0.05))
    own = evaluator.attacked(PGD(num_steps=3, start="none"), split)
    assert evaluator.compiled.inference._twin is None
    plain = Evaluator(_net(), ThreatModel("linf", 0.05))
    plain.attacked(PGD(num_steps=3, start="none"), split)
    assert plain.compiled.inference._twin is not None
    images = tf.cast(split.images, tf.float32) / 255
    perturbed = PGD(num_steps=3, start="none")(
        net, images, labels, threat=ThreatModel("linf", 0.05), seeds=tf.zeros((8, 2), tf.int32)
    )
    np.testing.assert_array_equal(own, np.argmax(net(perturbed), axis=1) == labels)


def test_images_fix_the_size_that_a_model_leaves_open():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 1))
    x = L.BatchNormalization()(L.Conv2D(4, 3)(inputs))
    net = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    labels = np.argmax(net(IMAGES), axis=1).astype(np.int32)
    split = Split(np.array(IMAGES * 255).astype(np.uint8), labels)
    evaluator = Evaluator(net, ThreatModel("l2", 0.5))
    for attack in (PGD(num_steps=2), APGD(num_steps=2)):
        assert evaluator.attacked(attack, split).shape == (8,)
    assert evaluator.compiled.inference._twin is not None
    distiller = PGDAdversarialTraining(net)
    distiller.compile(optimizer="sgd", jit_compile=False)
    batch = (IMAGES, labels, tf.range(8, dtype=tf.int64))
    distiller.fit(tf.data.Dataset.from_tensors(batch), shuffle=False, verbose=0)


@pytest.mark.parametrize("blind", [keras.ops.stop_gradient, lambda x: keras.ops.round(x * 9) / 9])
def test_training_refuses_a_student_without_gradients(blind):
    net = _net(blind)
    message = "no gradient of the student .* reaches its images .*train with @attacks.square"
    with pytest.raises(ValueError, match=message):
        PGDAdversarialTraining(net).prove(IMAGES)
    PGDAdversarialTraining(_net()).prove(IMAGES)
