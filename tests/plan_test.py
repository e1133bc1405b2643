"""The cost planner: FLOPs against numbers derived by hand, times against a clock."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks.pgd import input_gradient
from mtard_tf.commands import plan as command
from mtard_tf.commands import requests
from mtard_tf.config import gin_files
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.resnet_cifar import resnet20
from mtard_tf.planning import plan, rates, tune
from mtard_tf.planning.flops import PlanError, count


def _images(*shape):
    return tf.TensorSpec(shape, tf.float32)


def _total(function, *signature):
    return sum(count(function, *signature).flops.values())


@pytest.mark.parametrize(
    ("layer", "shape", "multiply_adds"),
    [
        # 2 x 5 x 7 x 4 outputs, each a sum over 3 x 3 x 2.
        (keras.layers.Conv2D(4, 3, padding="same"), (2, 5, 7, 2), 280 * 18),
        # Height (5 - 3) / 2 + 1 = 2, width (7 - 3) / 2 + 1 = 3.
        (keras.layers.Conv2D(4, 3, strides=2), (2, 5, 7, 2), 2 * 2 * 3 * 4 * 18),
        # Two groups: each output sees half of the 6 channels.
        (keras.layers.Conv2D(4, 1, groups=2), (1, 5, 5, 6), 5 * 5 * 4 * 3),
        # 5 x 5 x 6 outputs, each a sum over 3 x 3 of its own channel.
        (keras.layers.DepthwiseConv2D(3, padding="same"), (1, 5, 5, 6), 150 * 9),
        # Every one of 3 x 3 x 2 inputs is multiplied by the 2 x 2 x 5 kernel.
        (keras.layers.Conv2DTranspose(5, 2, strides=2), (1, 3, 3, 2), 18 * 20),
        (keras.layers.Dense(7), (3, 11), 3 * 11 * 7),
        (keras.layers.ReLU(), (3, 11), 0),
    ],
    ids=["conv", "strided", "grouped", "depthwise", "transposed", "dense", "relu"],
)
def test_a_layer_counts_its_multiply_adds_twice(layer, shape, multiply_adds):
    layer.build(shape)
    assert _total(layer, _images(*shape)) == 2 * multiply_adds


def _resnet20_multiply_adds():
    """Option A for 32 x 32 x 3 and 10 classes: 3x3 convolutions and one matrix, no more."""
    stem = 32 * 32 * 16 * 27
    # (side, channels, channels before); the first of the six convolutions has the old channels.
    stages = sum(
        side**2 * width * 9 * (before + 5 * width)
        for side, width, before in ((32, 16, 16), (16, 32, 16), (8, 64, 32))
    )
    return stem, stem + stages + 64 * 10


def test_resnet20_is_the_papers():
    model = resnet20((32, 32, 3), 10, shortcut="A")
    _, forward = _resnet20_multiply_adds()
    assert forward == 40_551_040
    assert _total(lambda x: model(x, training=False), _images(1, 32, 32, 3)) == 2 * forward


def test_a_training_pass_takes_no_gradient_of_the_images_and_an_attack_none_of_the_weights():
    model = resnet20((32, 32, 3), 10, shortcut="A")
    fold = FoldedInference(model)
    labels = tf.zeros([2], tf.int32)
    stem, forward = _resnet20_multiply_adds()

    def train(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(losses.cross_entropy(model(images, training=True), labels))
        return tape.gradient(loss, model.trainable_variables)

    def climb(images):
        return input_gradient(fold(), images, lambda _, y: losses.cross_entropy(y, labels))

    images = _images(2, 32, 32, 3)
    assert _total(train, images) == 2 * 2 * (3 * forward - stem)
    assert _total(climb, images) == 2 * 2 * 2 * forward


def test_the_count_is_tensorflows_own():
    """TensorFlow's profiler counts forward passes without calls and loops, additions included."""
    layers = [
        keras.layers.Conv2D(4, 3, 2, use_bias=False),
        keras.layers.DepthwiseConv2D(3, use_bias=False),
        keras.layers.Flatten(),
        keras.layers.Dense(7, use_bias=False),
    ]
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers])
    graph = tf.function(model, autograph=False).get_concrete_function(_images(2, 16, 16, 3)).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    profile = tf.compat.v1.profiler.profile(graph, options=options)
    assert _total(model, _images(2, 16, 16, 3)) == profile.total_float_ops > 0


@pytest.mark.parametrize(
    ("test", "times"),
    [
        (lambda i, x: i < 7, 4),  # 0, 2, 4, 6
        (lambda i, x: i <= 8, 5),
        (lambda i, x: tf.logical_and(tf.reduce_sum(x) < 1.0, i < 6), 3),
        (lambda i, x: i < 0, 0),
    ],
)
def test_a_loop_counts_as_often_as_it_runs(test, times):
    def loop(matrix):
        return tf.while_loop(test, lambda i, x: (i + 2, x @ x), (0, matrix))

    assert _total(loop, _images(3, 3)) == times * 2 * 27


def test_the_dearer_branch_counts_and_what_nobody_needs_does_not():
    def branch(matrix):
        matrix @ matrix  # noqa: B018
        return tf.cond(matrix[0, 0] > 0, lambda: matrix @ matrix @ matrix, lambda: matrix)

    assert _total(branch, _images(3, 3)) == 2 * 2 * 27


def test_what_cannot_be_counted_is_said_in_one_line():
    def search(matrix):
        return tf.while_loop(lambda x: tf.reduce_sum(x) < 9.0, lambda x: (x @ x,), (matrix,))

    with pytest.raises(PlanError, match=r"^The length of the loop 'while' .* fixed length"):
        _total(search, _images(3, 3))
    with pytest.raises(PlanError, match=r"^matmul:0 has the shape \(None, 3\), which is"):
        _total(lambda x: x @ x, _images(None, 3))


def test_what_gradients_read_is_kept():
    model = keras.Sequential(
        [keras.Input((5, 5, 2)), keras.layers.Conv2D(3, 3, activation="relu", padding="same")]
    )

    def train(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images))
        return tape.gradient(loss, model.trainable_variables)

    # ReluGrad reads the rectified outputs, float32; the images are held anyway.
    assert count(train, _images(2, 5, 5, 2)).kept_bytes == {"all": 2 * 5 * 5 * 3 * 4}


@pytest.fixture
def tiny(tiny_run_file):
    """The tiny run's three stages by name, built once: it takes seconds."""
    if not _BUILT:
        gin_files.parse([str(tiny_run_file)])
        experiment = gin_files.experiment()
        for built in plan.stages(experiment, experiment.dataset(), {}):
            _BUILT[built.plan.name] = built
    return _BUILT


_BUILT: dict[str, plan.Built] = {}


def _forward(model):
    """FLOPs of a pass for one image, and those of its first convolution."""
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    return (
        _total(lambda x: model(x, training=False), _images(1, *model.input_shape[1:])),
        _total(first, _images(1, *first.input.shape[1:])),
    )


def _longer_back(model):
    """What the gradient of a strided 3x3 stem to an image costs beyond the stem: its 2x2 blocks
    of pixels are the outputs of a 2x2 convolution over what is sent back (`cpu_kernels`)."""
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    _, height, width, channels = first.input.shape
    blocks = -(-height // 2) * -(-width // 2)
    return 2 * blocks * (2 * 2 * first.filters) * (4 * channels) - _forward(model)[1]


@pytest.mark.parametrize(
    ("stage", "views", "attack_passes"),
    [
        ("clean_teacher", 1, 0),
        # Ten steps forward and back, and the clean reference of TRADES.
        ("robust_teacher", 2, 21),
        ("student", 2, 20),
    ],
)
def test_a_step_is_the_sum_of_its_passes(tiny, stage, views, attack_passes):
    built = tiny[stage]
    forward, first = _forward(built.distiller.student)
    expected = {
        "student": views * (3 * forward - first),
        "attack": attack_passes * forward
        + attack_passes // 2 * _longer_back(built.distiller.student),
        "teachers": sum(_forward(teacher)[0] for teacher in built.teachers.values()),
    }
    assert {part: built.plan.flops_per_image(part) for part in plan.PARTS} == expected


def test_a_stage_has_its_steps_and_validations(tiny):
    built = tiny["student"].plan
    # 40 images in batches of 16 are 3 steps, of which the last is half full.
    found = (built.steps, built.full_steps, built.validations)
    assert found == pytest.approx((6, 5, 2))
    forward, _ = _forward(tiny["student"].distiller.student)
    # 12 images: clean, clean again, ten steps forward and back, attacked.
    attacked = 23 * forward + 10 * _longer_back(tiny["student"].distiller.student)
    assert built.validation_flops == 12 * attacked
    forward, _ = _forward(tiny["clean_teacher"].distiller.student)
    assert tiny["clean_teacher"].plan.validation_flops == 12 * forward


def test_an_averaged_students_statistics_cost_a_pass_before_each_validation(tiny_run_file):
    flops = []
    for averaging in (
        (),
        ("student/Stage.averaging = @averaging.EMA()",),
        ("student/Stage.averaging = @averaging.EMA()", "averaging.EMA.batch_norm_examples = 20"),
    ):
        alone = (
            "Experiment.stages = ('student',)",
            "student/Stage.distiller = @distillers.natural",
            "student/Stage.teachers = {}",
            "student/models.small_cnn.batch_normalization = True",
        )
        gin_files.parse([str(tiny_run_file)], [*alone, *averaging])
        experiment = gin_files.experiment()
        (built,) = plan.stages(experiment, experiment.dataset(), {})
        flops.append(built.plan.validation_flops)
    forward, _ = _forward(built.distiller.student)
    # Whole batches of 16: two of the 40 images, one of 20.
    assert [flops[1] - flops[0], flops[2] - flops[0]] == [32 * forward, 16 * forward]


def test_memory_holds_the_weights_and_grows_with_the_batch(tiny, tiny_run_file):
    before = tiny["student"].plan.memory_bytes
    # Three copies, gradients and Adam's two slots; two copies of each teacher.
    weights = 6 * tiny["student"].plan.parameters
    weights += sum(2 * teacher.count_params() for teacher in tiny["student"].teachers.values())
    assert before > 4 * weights
    gin_files.parse([str(tiny_run_file)], ["Stage.batch_size = 32"])
    experiment = gin_files.experiment()
    *_, built = plan.stages(experiment, experiment.dataset(), {})
    # The slots hold a counter and a learning rate, too.
    assert built.plan.memory_bytes - before == pytest.approx(before - 4 * weights, abs=64)


def test_hours_are_work_over_throughput(tiny):
    built = tiny["student"].plan
    total = built.full_steps * sum(built.step.flops.values()) + 2 * built.validation_flops
    assert rates.given(2.0).hours(built) == pytest.approx(total / 2e12 / 3600)
    fast = rates.Rates({"student": 1e9, "attack": 2e9, "teachers": 4e9}, update_seconds=0.5)
    student, attack, teachers = (built.step.flops[part] for part in plan.PARTS)
    expected = student / 1e9 + attack / 2e9 + teachers / 4e9 + 0.5
    assert fast.step_seconds(built) == pytest.approx(expected)


def _run(tiny_run_file, *bindings, **flags):
    return command.run(requests.Plan(config=[str(tiny_run_file)], gin=bindings, **flags))


def test_the_table_has_a_row_for_each_stage_and_a_total(tiny_run_file):
    text = _run(tiny_run_file, throughput=1e-3)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == [
        *("stage", "clean_teacher", "robust_teacher", "student", "total"),
    ]
    hours = [float(row[10]) for row in rows[1:]]
    assert sum(hours[:3]) == pytest.approx(hours[3], rel=0.01)
    assert "At 0.001 TFLOP/s, as given." in text


def test_a_check_times_whole_steps(tiny_run_file, monkeypatch):
    for name in ("_MAX_ROUNDS", "_MIN_ROUNDS", "_SECONDS_PER_CALL"):
        monkeypatch.setattr(rates, name, 1 if "ROUNDS" in name else 0.0)
    # Two stages have passes of all kinds: of student, attack and teacher.
    taught = (
        "Experiment.stages = ('clean_teacher', 'student')",
        "student/Stage.distiller = @distillers.rslad",
        "student/Stage.teachers = {'robust': 'clean_teacher'}",
    )
    text = _run(tiny_run_file, *taught, check=True)
    assert "| stage | s/step, measured | predicted over measured |" in text
    assert "Measured here, " in text


def test_a_binding_that_nothing_reads_is_refused(tiny_run_file):
    line = "clean_teacher/distillers.natural.label_smooth = 0.1"
    with pytest.raises(ValueError, match="label_smooth"):
        _run(tiny_run_file, line, throughput=1.0)
    line = "student/distillers.trades.beta = 3.0"  # the student's distiller is another one
    with pytest.raises(ValueError, match="^student/distillers.trades.beta has no effect") as error:
        _run(tiny_run_file, line, throughput=1.0)
    assert "\n" not in str(error.value)


TEACHER_FILES = "student/Stage.teachers = {'clean': 'clean_teacher', 'robust': 'big.keras'}"


def test_a_model_stands_in_for_a_file_and_flags_for_a_set(tiny_run_file):
    size = {"image_shape": "64,64,3", "classes": 200, "examples": 100_000}
    flags = size | {"stand_ins": ["big.keras=@models.resnet20"], "throughput": 1.0}
    lines = _run(tiny_run_file, TEACHER_FILES, **flags).splitlines()
    # 95,000 training images in batches of 16, twice.
    assert lines[2].split(" | ")[8] == lines[4].split(" | ")[8] == f"{2 * 5938:,}"


def test_a_set_that_is_not_prepared_has_its_known_size(tiny_run_file, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    gin_files.parse([str(tiny_run_file)], ["Experiment.dataset = @datasets.cifar100"])
    data = command.sizes(gin_files.experiment(), requests.Plan())
    assert (data.image_shape, data.num_classes) == ((32, 32, 3), 100)
    assert (len(data.train), len(data.validation)) == (45_000, 5_000)


FLAGS = "--image_shape, --classes and --examples are"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"throughput": 0.0}, "--throughput is 0; give TFLOP/s above 0"),
        ({"check": True}, "--throughput is 1; give .* neither --check"),
        ({"classes": 10}, f"{FLAGS} None, 10, None; give all three"),
        (
            {"image_shape": "64x64", "classes": 10, "examples": 100},
            f"{FLAGS} 64x64, 10, 100; give all three",
        ),
        (
            {"image_shape": "8,8,3", "classes": 10, "examples": 9},
            r"Images \(8, 8, 3\), 10 classes and 9 examples are no data set; give at least",
        ),
        ({}, "^big.keras is missing; name a model of its size: --stand_in=big.keras=resnet18"),
        ({"stand_ins": ["big.keras=resnet19"]}, "Unknown model 'resnet19'; did you mean 'resnet1"),
        (
            {"stand_ins": ["a.keras=resnet18"]},
            "--stand_in is a.keras=resnet18, and no stage has .* 'a.keras'; files: big.keras",
        ),
    ],
)
def test_flags_that_mean_nothing_give_one_line(tiny_run_file, flags, message):
    with pytest.raises(ValueError, match=message) as caught:
        _run(tiny_run_file, TEACHER_FILES, **{"throughput": 1.0} | flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        (
            "Experiment.dataset = @datasets.tfds\ndatasets.tfds.name = 'none'",
            "none is not prepared: .* Or give its size: --image_shape=64,64,3",
        ),
        # JSMA goes on with the images that still stand: as many as there happen to be.
        (
            "clean_teacher/Stage.validation_attack = @attacks.jsma()",
            "^Stage 'clean_teacher': while.* which is not known before it runs",
        ),
    ],
)
def test_runs_that_cannot_be_planned_give_one_line(
    tiny_run_file, binding, message, monkeypatch, tmp_path
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=message) as caught:
        _run(tiny_run_file, binding, throughput=1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_predicted_step_takes_as_long_as_a_real_one():
    """Roughly: a shared machine's speed wanders. `mtard-plan --check` is held to 20 % by hand."""
    gin_files.parse(["quickstart.gin"])
    experiment = gin_files.experiment()
    data = experiment.dataset()
    for built in plan.stages(experiment, data, {}):
        ratios = []
        while len(ratios) < 3 and not any(0.6 <= ratio <= 1.6 for ratio in ratios):
            _, check = rates.measure(built, data, check=True)
            ratios.append(check.ratio)
        assert 0.6 <= ratios[-1] <= 1.6, f"{built.plan.name}: {ratios}"


def test_tuning_writes_what_is_faster_and_trains_nothing(
    monkeypatch, tiny_run_file, tmp_path, capsys
):
    """Two parts are slower, ten steps a call faster, bfloat16 faster but of fewer bits."""
    found = {"attack_shards": (0.2, 1.3, False), "steps_per_execution": (0.1, 0.8, True)}
    found |= dict.fromkeys(("attack_precision", "precision"), (0.05, 0.5, True))
    monkeypatch.setattr(tune, "native_bfloat16", lambda: True)
    monkeypatch.setattr(tune, "_steps", lambda stage, *_: stage)
    seen = []

    def paired(one, other):
        (name,) = (n for n in found if getattr(one, n) != getattr(other, n))
        seen.append((one.name, name, one.steps_per_execution))
        return found[name]

    monkeypatch.setattr(tune, "paired", paired)
    monkeypatch.setattr(rates, "measure", lambda *_: (rates.given(1.0), None))
    out = tmp_path / "here.gin"
    request = requests.Plan(config=[str(tiny_run_file)], tune=str(out))
    printed = command.run(request)
    lines = out.read_text().splitlines()
    assert lines[0].startswith("# Timed by mtard-plan --tune. Measured here")
    tail = "0.50 of the time of a step"
    assert lines[1:] == [
        line
        for stage in ("clean_teacher", "robust_teacher", "student")
        for line in (
            f"{stage}/Stage.steps_per_execution = 10  # 0.80 of the time of a step",
            *(
                f"# In bfloat16: {stage}/Stage.{name} = 'mixed_bfloat16'  # {tail}"
                for name in ("attack_precision", "precision")
                if stage != "clean_teacher" or name == "precision"
            ),
        )
    ]
    # What is exact stays for what is tried after it; a stage without an attack tries less.
    assert seen[:2] == [
        ("clean_teacher", "steps_per_execution", 1),
        ("clean_teacher", "precision", 10),
    ]
    assert len(seen) == 2 + 5 + 5
    assert "student/Stage.steps_per_execution = 10 | 100.0 | 0.80 | faster |" in printed
    gin_files.parse([str(tiny_run_file), str(out)])  # is a gin file
    assert [s.steps_per_execution for s in gin_files.experiment().stages] == [10, 10, 10]
    with pytest.raises(plan.PlanError, match="here.gin is there; give the name of a new gin file"):
        command.run(request)


def test_a_setting_is_faster_if_rounds_agree():
    turns = iter([1.0, 0.8, 1.0, 0.9, 1.0, 0.7, 1.0, 2.0, 1.0, 0.8])
    assert tune.paired(lambda: next(turns), lambda: next(turns)) == pytest.approx((0.8, 0.8, True))
    turns = iter([1.0, 0.8, 1.0, 1.1, 1.0, 0.7, 1.0, 2.0, 1.0, 0.8])
    assert tune.paired(lambda: next(turns), lambda: next(turns)) == pytest.approx((0.8, 0.8, False))
