"""Chains and sweeps in run files, the table of soft labels, and stages side by side."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from mtard_tf import registry
from mtard_tf.config import gin_files
from mtard_tf.config.gin_errors import ConfigError
from mtard_tf.experiment.stage_lists import flat
from mtard_tf.models import model_files
from mtard_tf.models.defensive_cnn import defensive_cnn
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.processes.jobs import Job, JobError
from mtard_tf.processes.jobs import run as run_jobs
from mtard_tf.running import experiment_run, side_by_side, soft_labels
from mtard_tf.running.run_directory import RunError

CHAIN = """
Experiment.stages = (@chain(),)
chain.distiller = @distillers.defensive
chain.temperature = 5
chain.first_temperature = 5
teacher/Stage.validation_attack = None
step/Stage.validation_attack = None
"""


def _experiment(tiny_run_file, *lines):
    gin_files.parse(
        [str(tiny_run_file)], [line for text in lines for line in text.split("\n") if line]
    )
    return gin_files.experiment()


@pytest.fixture(scope="module")
def chain_run(tiny_run_text, tmp_path_factory):
    """A finished chain of one step, to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "tiny.gin").write_text(tiny_run_text, encoding="utf-8")
    described = _experiment(folder / "tiny.gin", CHAIN, "chain.length = 1")
    experiment_run.run(described, folder / "run", gin_files.text())
    return folder / "run"


def _weights(run_dir):
    path = run_dir / "chain_step1" / "student.keras"
    return keras.models.load_model(path, compile=False).get_weights()


def test_a_chain_without_assistant_is_one_stage_to_the_bit(chain_run, tiny_run_file, tmp_path):
    plain = """
Experiment.stages = ('chain_teacher', 'chain_step1')
Stage.validation_attack = None
chain_teacher/Stage.distiller = @distillers.natural
chain_teacher/distillers.natural.temperature = 5
chain_step1/Stage.distiller = @distillers.defensive
chain_step1/distillers.defensive.temperature = 5
chain_step1/Stage.teachers = {'teacher': 'chain_teacher'}
"""
    described = _experiment(tiny_run_file, plain)
    experiment_run.run(described, tmp_path / "plain", gin_files.text())
    for ours, expected in zip(_weights(chain_run), _weights(tmp_path / "plain"), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert not list(chain_run.rglob("soft_labels*"))


def test_a_chain_is_a_list_of_stages(tiny_run_file):
    described = _experiment(tiny_run_file, CHAIN, "chain.length = 3", "chain.suffix = '_s1'")
    assert [(s.name, dict(s.teachers)) for s in described.stages] == [
        ("chain_teacher_s1", {}),
        ("chain_step1_s1", {"teacher": "chain_teacher_s1"}),
        ("chain_step2_s1", {"teacher": "chain_step1_s1"}),
        ("chain_step3_s1", {"teacher": "chain_step2_s1"}),
    ]


def test_all_ancestors_teach(tiny_run_file):
    lines = (
        "chain.length = 2\nchain.all_ancestors = True\nchain.distiller = @distillers.densely_guided"
    )
    last = _experiment(tiny_run_file, CHAIN, lines).stages[-1]
    assert dict(last.teachers) == {"link0": "chain_teacher", "link1": "chain_step1"}


def test_a_robust_chain_of_shrinking_nets_from_a_stage_that_is_there(tiny_run_file):
    lines = """
Experiment.stages = ('clean_teacher', 'robust_teacher', @chain())
chain.length = 2
chain.distiller = @distillers.bmtard
chain.first = 'robust_teacher'
chain.role = 'robust'
chain.teachers = {'clean': 'clean_teacher'}
chain.models = @models.small_cnn
chain.widths = ((4, 4), (2, 2))
"""
    no_teacher = CHAIN.replace("teacher/Stage.validation_attack = None\n", "")
    described = _experiment(tiny_run_file, no_teacher, lines)
    assistant, student = described.stages[-2:]
    assert dict(student.teachers) == {"robust": assistant.name, "clean": "clean_teacher"}
    assert dict(assistant.teachers) == {"robust": "robust_teacher", "clean": "clean_teacher"}
    sizes = [
        s.model((8, 8, 3), 3).get_layer("conv1").kernel.shape[-1] for s in (assistant, student)
    ]
    assert sizes == [4, 2]
    assert student.model.__name__ == "small_cnn"  # what a model card shows


def test_a_sweep_trains_shared_stages_once(tiny_run_file):
    lines = """
Experiment.stages = (@temperature_sweep(), @again/temperature_sweep())
temperature_sweep.temperatures = (1, 40)
temperature_sweep.length = 2
again/temperature_sweep.temperatures = (40,)
again/temperature_sweep.seeds = (1,)
"""
    described = _experiment(tiny_run_file, lines)
    assert [s.name for s in described.stages] == [
        "init_s0", "t1_teacher_s0", "t1_step1_s0", "t1_step2_s0",
        "t40_teacher_s0", "t40_step1_s0", "t40_step2_s0",
        "init_s1", "t40_teacher_s1", "t40_step1_s1", "t40_step2_s1",
    ]  # fmt: skip
    assert {s.initial for s in described.stages[8:]} == {"init_s1"}
    net = small_cnn((8, 8, 3), 3)
    assert described.stages[5].distiller(net, {"teacher": net}).temperature == pytest.approx(40)


@pytest.mark.parametrize(
    "line, message",
    [
        ("chain.length = 0", "chain.length is 0; give a whole number, at least 1."),
        (
            "chain.length = 2\nchain.widths = ((4, 4),)",
            "chain.widths has 1 entries for 3 nets; give one for each, the largest first.",
        ),
    ],
)
def test_a_chain_that_means_nothing_is_refused(tiny_run_file, line, message):
    with pytest.raises(ConfigError, match=message):
        _experiment(tiny_run_file, CHAIN, line)


def test_a_temperature_below_one_makes_names_too(tiny_run_file):
    lines = """
Experiment.stages = (@temperature_sweep(),)
temperature_sweep.temperatures = (0.5,)
temperature_sweep.length = 1
"""
    names = [s.name for s in _experiment(tiny_run_file, lines).stages]
    assert names == ["init_s0", "t0_5_teacher_s0", "t0_5_step1_s0"]


def test_run_files_of_the_paper():
    gin_files.parse(["runs/defensive/mnist.gin"])
    stages = gin_files.experiment().stages
    assert len(stages) == 3 * (1 + 9 * 7)  # seeds x (start + temperatures x (teacher + six steps))
    assert {s.epochs for s in stages} == {1, 50}
    gin_files.parse(["runs/defensive/cifar10.gin"])
    stage = gin_files.experiment().stages[1]
    assert stage.model((32, 32, 3), 10).count_params() == 1_147_978
    gin_files.parse(["runs/defensive/fashion_mnist.gin"])
    assert len(gin_files.experiment().stages) == 2 + 6 * 7
    assert flat(stages[0]) == [stages[0]]


@pytest.mark.parametrize(
    "form, shape, widths, dense, parameters",
    [
        ("carlini", (28, 28, 1), (32, 64), 200, 312_202),
        ("carlini", (32, 32, 3), (64, 128), 256, 1_147_978),
        ("bethgelab", (28, 28, 1), (32, 64), 200, 734_602),
    ],
)
def test_the_papers_nets(form, shape, widths, dense, parameters):
    net = defensive_cnn(shape, 10, widths=widths, dense=dense, form=form)
    assert net.count_params() == parameters
    grey = np.full((1, *shape), 0.5, np.float32)  # 0 behind the first layer, and biases are 0
    np.testing.assert_allclose(net(grey), np.zeros((1, 10)), atol=1e-6)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form is 'vgg'; use 'carlini' or 'bethgelab'"):
        defensive_cnn((28, 28, 1), 10, form="vgg")


def test_a_table_is_kept_for_its_key_only(tmp_path):
    path = tmp_path / "labels.npz"
    first = soft_labels.kept(path, "one", lambda: np.eye(3, dtype=np.float32))
    again = soft_labels.kept(path, "one", lambda: pytest.fail("computed again"))
    np.testing.assert_array_equal(again, first)
    other = soft_labels.kept(path, "two", lambda: np.ones((3, 3), np.float32))
    np.testing.assert_array_equal(other, np.ones((3, 3)))
    path.write_bytes(path.read_bytes()[:100])
    assert soft_labels.kept(path, "two", lambda: np.zeros(2)).shape == (2,)


def test_the_table_of_a_teacher_is_its_logits(tiny_run_file):
    split = _experiment(tiny_run_file).dataset().train
    student, teacher = (small_cnn((8, 8, 3), 3, widths=(4, 4), dense=4) for _ in range(2))
    distiller = registry.target("distillers", "defensive")(student, {"teacher": teacher})
    np.testing.assert_allclose(
        distiller.table("teacher", teacher, split),
        teacher(split.images.astype(np.float32) / 255),
        atol=1e-6,
    )


def _job(name, code, needs=()):
    return Job(name, [sys.executable, "-c", code], needs)


def test_jobs_wait_for_what_they_need_and_run_side_by_side(tmp_path):
    both = "import pathlib,time; p=pathlib.Path({!r}); p.touch(); t=time.time()\n"
    both += "while not pathlib.Path({!r}).exists(): assert time.time()-t<60; time.sleep(.05)"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    lines = []
    jobs = [
        _job("last", f"assert __import__('os').path.exists({a!r}); print('ok')", ("first", "else")),
        _job("first", both.format(a, b)),
        _job("second", both.format(b, a)),
    ]
    run_jobs(jobs, 2, tmp_path / "logs", lines.append)
    assert [line for line in lines if line.startswith("last")][0] == "last: started"
    assert lines.index("last: started") > 2 and lines[-1].endswith("(3 of 3)")
    assert (tmp_path / "logs" / "last.log").read_text() == "ok\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere jobs outlive a killed parent")
def test_jobs_go_when_who_started_them_is_killed(tmp_path):
    ready, told = tmp_path / "ready", tmp_path / "told"
    job = (
        "import pathlib, signal, time\n"
        "from mtard_tf.processes.preemption import go_with_parent\n"
        f"def go(*_): pathlib.Path({str(told)!r}).touch(); raise SystemExit\n"
        "signal.signal(signal.SIGTERM, go)\n"
        f"go_with_parent(); pathlib.Path({str(ready)!r}).touch(); time.sleep(100)"
    )
    driver = (
        "import pathlib\n"
        "from mtard_tf.processes.jobs import Job, run\n"
        f"job = Job('long', [{sys.executable!r}, '-c', {job!r}])\n"
        f"run([job], 1, pathlib.Path({str(tmp_path)!r}))"
    )
    root = pathlib.Path(__file__).parent.parent
    with subprocess.Popen([sys.executable, "-c", driver], cwd=root) as process:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    end = time.monotonic() + 30
    while not told.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_failed_job_stops_only_what_needs_it(tmp_path):
    lines = []
    jobs = [
        _job("wrong", "raise SystemExit('mtard-train: what was wrong')"),
        _job("long", "import time; time.sleep(0.5)"),
        _job("after", "pass", ("wrong",)),
        _job("last", "pass", ("after",)),
        _job("other", "print('ok')", ("long",)),
    ]
    with pytest.raises(JobError) as caught:
        run_jobs(jobs, 2, tmp_path, lines.append)
    assert str(caught.value) == (
        "wrong failed (mtard-train: what was wrong); not started, as they need it: after, last; "
        f"see {tmp_path}/<name>.log. The same command resumes after what is finished."
    )
    assert "wrong failed (mtard-train: what was wrong)" in lines
    assert (tmp_path / "other.log").read_text() == "ok\n"
    assert not (tmp_path / "after.log").exists() and not (tmp_path / "last.log").exists()
    with pytest.raises(JobError, match="^a failed .exit code 3.; b failed .exit code 4.; see "):
        codes = [_job(name, f"raise SystemExit({code})") for name, code in (("a", 3), ("b", 4))]
        run_jobs(codes, 1, tmp_path, lines.append)
    round_about = [_job("a", "pass", ("b",)), _job("b", "pass", ("a",))]
    with pytest.raises(JobError, match="^These jobs wait for one another: [ab], [ab], [ab][.]$"):
        run_jobs(round_about, 1, tmp_path, lines.append)


@pytest.mark.slow
def test_side_by_side_equals_one_after_the_other(tiny_run_file, tmp_path):
    lines = [
        *("--gin=" + line for line in CHAIN.split("\n") if line),
        "--gin=chain.length = 2",
        "--gin=Stage.batch_size = 512",
        "--gin=Stage.epochs = 1",
    ]
    # Other processes do not know the tests' own data set.
    text = tiny_run_file.read_text().replace("@datasets.tiny", "@datasets.fashion_mini")
    tiny_run_file.write_text(text)
    run_file = [f"--config={tiny_run_file}", *lines]
    weights = []
    for name, jobs in (("alone", 1), ("parts", 2)):
        command = [sys.executable, "-m", "mtard_tf.bin.train", f"--run_dir={tmp_path / name}"]
        done = subprocess.run([*command, *run_file, f"--jobs={jobs}"], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        net = keras.models.load_model(tmp_path / name / "chain_step2/student.keras", compile=False)
        weights.append(net.get_weights())
    for ours, expected in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, expected)
    again = subprocess.run([*command, "--jobs=2"], capture_output=True, text=True)
    assert again.returncode == 0 and "started" not in again.stderr


def test_only_defensive_distillation_trains_the_first_teacher_at_the_temperature(tiny_run_file):
    lines = (
        "Experiment.stages = (@chain(),)\nchain.length = 1\nchain.temperature = 5\n"
        "chain.distiller = @distillers.knowledge_distillation"
    )
    teacher, student = _experiment(tiny_run_file, lines).stages
    net = small_cnn((8, 8, 3), 3)
    made = (teacher.distiller(net), student.distiller(net, {"teacher": net}))
    assert [distiller.temperature for distiller in made] == pytest.approx([1, 5])
    assert student.distiller.__name__ == "KnowledgeDistillation"


def test_a_start_of_another_size_is_refused_before_anything_is_trained(tiny_run_file, tmp_path):
    lines = "student/Stage.initial = 'clean_teacher'"
    described = _experiment(tiny_run_file, lines)
    with pytest.raises(RunError, match="Stage 'student' starts from 'clean_teacher', whose 8 wei"):
        experiment_run.run(described, tmp_path / "run", gin_files.text())
    assert not (tmp_path / "run").exists()


def test_finished_stages_are_checked_side_by_side_too(chain_run, tiny_run_file, tmp_path):
    described = _experiment(tiny_run_file, CHAIN, "chain.length = 1")
    run_dir = pathlib.Path(shutil.copytree(chain_run, tmp_path / "run"))
    known = experiment_run.identities_of(described, described.dataset())
    assert side_by_side.training_jobs(described.stages, run_dir, known) == []
    student = run_dir / "chain_teacher" / "student.keras"
    small_cnn((8, 8, 3), 3).save(student)
    with pytest.raises(RunError, match="chain_step1 has changed since it began: the file of "):
        side_by_side.training_jobs(described.stages, run_dir, known)
    asked = ["chain_teacher"]
    with pytest.raises(RunError, match="chain_step1 has changed since it began: the file of "):
        side_by_side.training_jobs(described.stages, run_dir, known, restart=asked)
    # To be begun anew: its process asks once more, as that of a stage that learns from it does.
    asked = ["chain_teacher", "chain_step1"]
    todo = side_by_side.training_jobs(described.stages, run_dir, known, restart=asked)
    assert [job.command[-2:] for job in todo] == [
        ["--only=chain_teacher", "--restart=chain_teacher"],
        ["--only=chain_step1", "--restart=chain_step1"],
    ]
    student.unlink()
    with pytest.raises(RunError, match="student.keras of a finished stage is missing"):
        side_by_side.training_jobs(described.stages, run_dir, known)


def test_a_net_with_dropout_has_one_fingerprint(tmp_path):
    defensive_cnn((28, 28, 1), 10, widths=(2, 2), dense=4).save(tmp_path / "net.keras")
    first, second = (model_files.load(tmp_path / "net.keras") for _ in range(2))
    assert model_files.fingerprint(first) == model_files.fingerprint(second)
