"""Run files: what they build, and one clear line for each mistake."""

from __future__ import annotations

import pathlib
import re

import gin
import pytest

from mtard_tf.config import bindings, gin_files
from mtard_tf.config.gin_errors import ConfigError
from mtard_tf.schedules import Warmup

GIN = pathlib.Path(gin_files.config_folder())
# settings_test.py has the settings, which are no runs of their own; rows go on top of run files.
ELSEWHERE = {"suites", "settings", "rows"}
PLACES = [path.relative_to(GIN) for path in GIN.rglob("*.gin")]
RUN_FILES = sorted(str(path) for path in PLACES if not ELSEWHERE & set(path.parts))


WITH_ROWS = [[f"runs/compare/{of}.gin", "rows/weights.gin"] for of in ("cifar10", "fashion_mnist")]


@pytest.mark.parametrize("files", [[file] for file in RUN_FILES] + WITH_ROWS, ids=" ".join)
def test_every_run_file_builds_its_stages(files):
    gin_files.parse(files)
    experiment = gin_files.experiment()
    data = _Shapes()
    students, built = {}, {}
    for stage in experiment.stages:
        teachers = {role: students[name] for role, name in stage.teachers.items()}
        # A sweep over temperatures and seeds has dozens of stages of the same nets.
        of_teachers = {role: id(teacher) for role, teacher in teachers.items()}
        kind = (stage.scope.partition("/")[0], stage.distiller.__name__, *of_teachers.items())
        if kind not in built:
            built[kind] = stage.build(data, teachers, experiment.threat, seed=0)
        distiller = built[kind]
        students[stage.name] = distiller.student
        assert distiller.student.output_shape == (None, 10 + distiller.extra_classes)
    bindings.check_read(experiment.stages, apart_from="datasets")


class _Shapes:
    """Stands in for a data set that is not there."""

    image_shape = (28, 28, 1)
    num_classes = 10
    train = range(1000)


def test_a_stage_sees_its_own_scope(tiny_run_file):
    gin_files.parse(
        [str(tiny_run_file)],
        [
            "student/Stage.epsilon_schedule = @schedules.Warmup()",
            "schedules.Warmup.epochs = 4",
            "student/distillers.bmtard.temperature_rate = 0.25",
            "robust_teacher/Stage.epsilon = 0.05",
        ],
    )
    experiment = gin_files.experiment()
    clean, robust, student = experiment.stages
    assert student.epsilon_schedule == Warmup(epochs=4)
    radii = [stage.threat(experiment.threat).epsilon for stage in (robust, student)]
    assert radii == pytest.approx([0.05, 0.1], abs=1e-12)
    teachers = {
        role: stage.build(_Shapes(), {}, experiment.threat, 0).student
        for role, stage in (("clean", clean), ("robust", robust))
    }
    distiller = student.build(_Shapes(), teachers, experiment.threat, 0)
    assert distiller.temperature_rate == pytest.approx(0.25)
    assert distiller.student.count_params() < teachers["clean"].count_params()
    gin_files.parse([str(tiny_run_file)])
    assert gin_files.experiment().stages[2].epsilon_schedule != Warmup(epochs=4)


def test_the_text_of_a_configuration_parses_to_itself(tiny_run_file, tmp_path):
    gin_files.parse([str(tiny_run_file)])
    text = gin_files.text()
    copy = tmp_path / "copy.gin"
    copy.write_text(text)
    gin_files.parse([str(copy)])
    assert gin_files.text() == text


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("student/Stage.distiller = @distillers.bmtrad", "Unknown name 'distillers.bmtrad'; did you mean 'distillers.bmtard'?"),
        ("distillers.bmtrad.exponent = 2", "Unknown name 'distillers.bmtrad'; did you mean 'distillers.bmtard'?"),
        ("distillers.bmtard.temperture_rate = 1.0", "Unknown parameter of distillers.bmtard 'temperture_rate'; did you mean 'temperature_rate'?"),
        ("Stage.epoch = 5", "Unknown parameter of Stage 'epoch'; did you mean 'epochs'?"),
        ("Stage.epochs = %EPOCHS", "The macro %EPOCHS is used but not set; add a line EPOCHS = ..."),
        ("EPOCHS = %gin.REQUIRED", "EPOCHS must be set; add --gin='EPOCHS = ...' or a line to your file."),
        ("EPOCH = 3\nStage.epochs = %EPOCHS", "The macro %EPOCHS is used but not set; did you mean %EPOCH?"),
        ("Stage.epsilon_schedule = @schedules.Constant", "Stage.epsilon_schedule is a factory; write ... = @schedules.Name(), with ()."),
        ("Experiment.epsilon = '8/'", "Experiment.epsilon is '8/'; give a number >= 0 in [0, 1] pixel units, such as '8/255' (0.0313725)."),
        ("Experiment.epsilon = 8", "Experiment.epsilon is 8, but pixels run from 0 to 1: every image would be free to become any other; give '8/255' (0.0313725)."),
        ("student/Stage.epsilon = 16.0", "student/Stage.epsilon is 16.0, but pixels run from 0 to 1: every image would be free to become any other; give '16/255' (0.0627451)."),
        ("Experiment.epsilon = 1e400", "Experiment.epsilon holds inf; give finite numbers."),
        ("Experiment.epsilon = None", "Experiment.epsilon is None; give a number >= 0"),
        ("Experiment.epsilon = 8/255", "binding, line 1: 8/255 is a Python expression, which gin does not evaluate; write the number 0.03137254901960784, or for an epsilon '8/255' in quotes."),
        ("Stage.validation_examples = 0", "clean_teacher/Stage.validation_examples is 0; give a whole number, at least 1, or None for all."),
        ("Stage.validation_examples = 10.5", "Stage.validation_examples is 10.5; give a whole number"),
        ("Stage.learning_rate = '0.1'", "Stage.learning_rate is '0.1'; give a number, without quotes."),
        ("Stage.learning_rate = -0.01", "clean_teacher/Stage.learning_rate is -0.01; give a number above 0"),
        ("Experiment.seed = -1", "Experiment.seed is -1; give a whole number from 0 to 2147483647."),
        ("Experiment.seed = 1.5", "Experiment.seed is 1.5; give a whole number."),
        ("Experiment.seed = None", "Experiment.seed is None; give a whole number."),
        ("Stage.epochs = True", "Stage.epochs is True; give a number."),
        ("EPOCHS = '3'\nStage.epochs = %EPOCHS", "Stage.epochs is '3'; give a whole number, without quotes."),
        ("attacks.pgd.num_steps = '10'", "attacks.pgd.num_steps is '10'; give a whole number, without quotes."),
        ("robust_teacher/distillers.trades.beta = '6'", "robust_teacher/distillers.trades.beta is '6'; give a number, without quotes."),
        ("models.small_cnn.widths = (4, 1e999)", "models.small_cnn.widths holds (4, inf); give finite numbers."),
        ("models.small_cnn.batch_normalization = 'no'", "models.small_cnn.batch_normalization is 'no'; give True or False, without quotes."),
        ("Stage.validation_attack = @attacks.pgd", "robust_teacher/Stage.validation_attack is @attacks.pgd; give an attack, such as @attacks.pgd() with its brackets, or None."),
        ("Stage.model = @distillers.trades", "clean_teacher/Stage.model is @distillers.trades; give a factory of models: @models.NAME, without ()."),
        ("Experiment.dataset = @models.small_cnn", "Experiment.dataset is @models.small_cnn; give a factory of datasets"),
        ("Stage.rate_schedule = 0.5", "clean_teacher/Stage.rate_schedule is 0.5; give a schedule, such as @schedules.Constant()."),
        ("Stage.synchronized_batch_norm = 1", "Stage.synchronized_batch_norm is 1; give True or False."),
        ("Stage.model = @models.small_cnn()", "@models.small_cnn() is called before there is image_shape and num_classes; leave the brackets out: @models.small_cnn."),
        ("Stage.optimizer = @optimizers.adam()", "@optimizers.adam() is called before there is learning_rate; leave the brackets out: @optimizers.adam."),
        ("Experiment.stages = ('net',)", "Stage.distiller is not set for net; add Stage.distiller = @distillers.NAME (net/Stage.distiller for it alone) to the run file, or with --gin."),
        ("Stage.epsilon_schedule = @schedules.Warmup()", "schedules.Warmup.epochs is not set for clean_teacher; add schedules.Warmup.epochs = ..."),
        ("Experiment.stages = ('clean-net',)", "Experiment.stages has 'clean-net'; a stage's name is the scope of its bindings: give letters, digits and _ only: clean_net."),
        ("Experiment.stages = (@replicates,)", "Experiment.stages holds @replicates; give names of stages in quotes, and lists as @replicates() with brackets."),
        ("student/Stage.teachers = 'x.keras'", "student/Stage.teachers is 'x.keras'; give each its role: {'robust': 'x.keras'}."),
        ("student/Stage.initial = 3", "student/Stage.initial is 3; give the name of an earlier stage, or a path, in quotes."),
        ("import my_models", "No module named 'my_models'; the run file imports it: put the folder it is in on PYTHONPATH, or install it."),
        ("Experiment.norm = 'l1'", "ThreatModel.norm is 'l1'; use one of linf, l2."),
        ("report/Stage.distiller = @distillers.natural\nExperiment.stages = ('report',)", "Experiment.stages has 'report'; a stage's name is a folder of the run"),
        ("student/distillers.bmtard.seed = 9", "distillers.bmtard.seed is set by the stage; set Stage or Experiment instead"),
        ("Stage.epochs = 0", "clean_teacher/Stage.epochs is 0; give a whole number, at least 1."),
        ("student/Stage.select = 'worst'", "student/Stage.select is 'worst'; use 'best' or 'last'."),
        ("student/Stage.teachers = {'clean': 'claen_teacher'}", "Stage 'student' names 'claen_teacher', which is neither an earlier stage nor a path (that ends in .keras or has a '/'); did you mean 'clean_teacher'?"),
        ("Experiment.stages = ('student', 'student')", "Experiment.stages has student twice; give each stage a name of its own."),
        ("Experiment.stages = ()", "Experiment.stages is empty; name at least one stage."),
        ("Stage.epochs = [1", "A value does not end: EOF in multi-line statement, line 2."),
    ],
)  # fmt: skip
def test_mistakes_give_one_line(tiny_run_file, binding, message):
    with pytest.raises(ConfigError) as caught:
        gin_files.parse([str(tiny_run_file)], [binding])
        gin_files.experiment()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


ONE_STAGE = """
Experiment.dataset = @datasets.tiny
Experiment.stages = ('net',)
Stage.model = @models.small_cnn
models.small_cnn.widths = (2,)
models.small_cnn.dense = 2
net/Stage.distiller = @distillers.pgd_at
"""


def _built(tmp_path, line, *given):
    """Parses a run file of one stage with one more line, and builds all of it."""
    path = tmp_path / "one.gin"
    path.write_text(f"{ONE_STAGE}\n{line}\n")
    gin_files.parse([str(path)], given)
    experiment = gin_files.experiment()
    data = experiment.dataset()
    for stage in experiment.stages:
        stage.build(data, {}, experiment.threat, 0)
    bindings.check_read(experiment.stages)


@pytest.mark.parametrize("given", [False, True], ids=["in the file", "given"])
@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("ent/Stage.epochs = 3", "ent/Stage.epochs configures nothing: no stage has the scope 'ent'; did you mean 'net'? scopes: net."),
        ("attacks.pgd.num_steps = 1", "attacks.pgd.num_steps has no effect: nothing uses attacks.pgd; bind net/distillers.pgd_at.attack = @attacks.pgd()."),
        ("net/attacks.pgd.num_steps = 1", "net/attacks.pgd.num_steps has no effect: nothing uses attacks.pgd; bind net/distillers.pgd_at.attack = @attacks.pgd()."),
        ("net/distillers.trades.label_smoothing = 0.1", "net/distillers.trades.label_smoothing has no effect: nothing uses distillers.trades; did you mean net/distillers.pgd_at.label_smoothing?"),
        ("net/distillers.trades.beta = 6.0", "net/distillers.trades.beta has no effect: nothing uses distillers.trades; bind net/Stage.distiller = @distillers.trades, or leave it out."),
        ("models.resnet20.shortcut = 'A'", "models.resnet20.shortcut has no effect: nothing uses models.resnet20; bind Stage.model = @models.resnet20, or leave it out."),
        ("schedules.Cosine.epochs = 3", "schedules.Cosine.epochs has no effect: nothing uses schedules.Cosine; bind Stage.learning_rate_schedule = @schedules.Cosine(), or leave it out."),
        ("datasets.fashion_mini.split_seed = 1", "datasets.fashion_mini.split_seed has no effect: nothing uses datasets.fashion_mini; bind Experiment.dataset = @datasets.fashion_mini, or leave it out."),
        ("replicates.count = 2", "replicates.count has no effect: nothing uses replicates; bind Experiment.stages = (@replicates(),), or leave it out."),
        ("Suite.probe_examples = 5", "Suite.probe_examples has no effect on a run; mtard-eval reads it: --suite=FILE.gin."),
        ("EPOCHS = 3", "The macro EPOCHS is set and %EPOCHS is used nowhere; leave it out."),
    ],
)  # fmt: skip
def test_bindings_without_effect(tiny_run_file, tmp_path, binding, message, given):
    with pytest.raises(ValueError) as caught:
        _built(tmp_path, "", binding) if given else _built(tmp_path, binding)
    assert str(caught.value) == message


def test_a_scope_that_uses_another_selector_is_named(tiny_run_file, tmp_path):
    lines = "net/Stage.validation_attack = @weak/attacks.pgd()\nnet/attacks.pgd.num_steps = 2"
    with pytest.raises(ValueError) as caught:
        _built(tmp_path, lines)
    assert str(caught.value) == (
        "net/attacks.pgd.num_steps has no effect: attacks.pgd is not used there; did you mean "
        "weak/attacks.pgd.num_steps?"
    )


def test_a_given_binding_that_scoped_ones_overrule_is_refused(tiny_run_file, tmp_path):
    with pytest.raises(ValueError) as caught:
        _built(tmp_path, "net/models.small_cnn.dense = 3", "models.small_cnn.dense = 4")
    assert str(caught.value) == (
        "models.small_cnn.dense has no effect, overridden by net/models.small_cnn.dense; give that "
        "instead."
    )
    _built(tmp_path, "net/models.small_cnn.dense = 3", "net/models.small_cnn.dense = 4")


def test_shared_lines_need_not_be_read(tiny_run_file, tmp_path):
    """Those of a file that is included, of stages left out, and of a part that was swapped."""
    (tmp_path / "shared.gin").write_text(
        "distillers.trades.beta = 3.0\nother/distillers.trades.beta = 4.0\nUNUSED = 1\n"
    )
    _built(tmp_path, "include 'shared.gin'")
    _built(tmp_path, "net/distillers.trades.beta = 2.0", "net/Stage.distiller = @distillers.trades")
    _built(
        tmp_path,
        "net/distillers.pgd_at.label_smoothing = 0.1",
        "net/Stage.distiller = @distillers.trades",
    )
    _built(
        tmp_path, "later/Stage.distiller = @distillers.trades\nlater/distillers.trades.beta = 1.0"
    )
    _built(tmp_path, "net/models.small_cnn.dense = 3")  # overrules what holds for all
    (tmp_path / "shared.gin").write_text("nett/Stage.epochs = 3\n")
    with pytest.raises(ValueError, match="no stage has the scope 'nett'; did you mean 'net'?"):
        _built(tmp_path, "include 'shared.gin'")


def test_what_a_run_wrote_is_not_looked_at_again(tiny_run_file, tmp_path):
    (tmp_path / "config.gin").write_text(f"{ONE_STAGE}\nattacks.pgd.num_steps = 3\n")
    bindings.check_read(gin_files.of_run(tmp_path).stages)


def test_an_include_is_looked_for_beside_its_file_first(tmp_path, monkeypatch):
    inner, here = tmp_path / "inner", tmp_path / "here"
    inner.mkdir()
    here.mkdir()
    (inner / "run.gin").write_text("include 'part.gin'\ninclude 'suites/quick.gin'\n")
    (inner / "part.gin").write_text("EPOCHS = 1\ninclude 'deeper/part.gin'\n")
    (inner / "deeper").mkdir()
    (inner / "deeper" / "part.gin").write_text("WIDTH = 1\ninclude 'last.gin'\n")
    (here / "part.gin").write_text("EPOCHS = 2\n")
    (here / "last.gin").write_text("LAST = 2\n")
    monkeypatch.chdir(here)
    gin_files.parse(["../inner/run.gin"])
    assert gin.query_parameter("sat/attacks.pgd.num_steps") == 20
    for line in ("EPOCHS = 1", "WIDTH = 1", "LAST = 2"):
        assert line in gin_files.text().splitlines()
    monkeypatch.setenv("HOME", str(tmp_path))
    gin_files.parse(["~/inner/part.gin"])
    assert "EPOCHS = 1" in gin_files.text()
    gin_files.parse(["part.gin"])
    assert "EPOCHS = 2" in gin_files.text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"include 'part.gin'\n", "part.gin includes itself; leave one of the includes out."),
        (b"include 'quikstart.gin'\n", "Unknown config file 'quikstart.gin'; did you mean 'quickstart.gin'?"),
        (b"EPOCHS = '\xff'\n", "part.gin is not text in UTF-8; give a gin file."),
    ],
)  # fmt: skip
def test_files_that_cannot_be_included(tmp_path, content, message):
    (tmp_path / "part.gin").write_bytes(content)
    (tmp_path / "run.gin").write_text("include 'part.gin'\n")
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        gin_files.parse([str(tmp_path / "run.gin")])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="Unknown config file"):
        gin_files.parse([str(tmp_path)])


def test_unknown_file():
    with pytest.raises(
        ConfigError,
        match="Unknown config file 'quikstart.gin'; did you mean 'quickstart.gin'\\?",
    ):
        gin_files.parse(["quikstart.gin"])
    with pytest.raises(ConfigError, match="use --config=FILE"):
        gin_files.parse([])


REPLICATES = [
    "Experiment.stages = ('clean_teacher', ['robust_teacher', [@replicates()]])",
    "replicates.names = ('student', 'trades')",
    "replicates.count = 2",
    "trades/Stage.distiller = @distillers.trades",
    "trades/Stage.epochs = 3",
    "trades/trades_s1/Stage.epochs = 5",
    "trades/models.small_cnn.dense = 5",
]


def test_replicates_share_a_scope_and_differ_by_name(tiny_run_file):
    gin_files.parse([str(tiny_run_file)], REPLICATES)
    experiment = gin_files.experiment()
    assert [(stage.name, stage.scope, stage.epochs) for stage in experiment.stages] == [
        ("clean_teacher", "clean_teacher", 2),
        ("robust_teacher", "robust_teacher", 2),
        ("student_s0", "student/student_s0", 2),
        ("trades_s0", "trades/trades_s0", 3),
        ("student_s1", "student/student_s1", 2),
        ("trades_s1", "trades/trades_s1", 5),
    ]
    assert experiment.stages[4].teachers == {"clean": "clean_teacher", "robust": "robust_teacher"}
    built = experiment.stages[3].build(_Shapes(), {}, experiment.threat, 0)
    assert built.student.layers[-2].units == 5  # what `trades/` binds, not the 8 of all stages
    only = ["replicates.first = 1", "replicates.count = 1"]
    gin_files.parse([str(tiny_run_file)], [*REPLICATES, *only])
    names = [stage.name for stage in gin_files.experiment().stages]
    assert names == ["clean_teacher", "robust_teacher", "student_s1", "trades_s1"]


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("replicates.count = 0", "replicates.count is 0; give a whole number, at least 1."),
        ("replicates.first = -1", "replicates.first is -1; give a whole number, at least 0."),
        ("trades_s1/Stage.epochs = 4", "trades_s1/... configures nothing: the scope of this stage is trades/trades_s1; write trades/trades_s1/..."),
        ("trades/Stage.epochs = 0", "trades/trades_s0/Stage.epochs is 0; give a whole number, at least 1."),
    ],
)  # fmt: skip
def test_mistakes_in_replicates_give_one_line(tiny_run_file, binding, message):
    gin_files.parse([str(tiny_run_file)], [*REPLICATES, binding])
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        gin_files.experiment()
