"""Settings shared by all tests: TensorFlow quiet and on few threads, everything seeded."""

from __future__ import annotations

import fcntl
import gc
import os
import pathlib
import shutil
import sys

import hypothesis
import pytest

# Before TensorFlow starts, which reads them once.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

# No deadline: the first example pays for tracing. Derandomised: the suite is deterministic.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """What makes all tests cheaper.

    Attacks run in one part, as on one core, which halves what is traced; tests of two say so.
    """
    sharding = sys.modules.get("mtard_tf.attacks.sharding")
    if sharding is not None:
        sharding.default_shards = lambda: 1
    gc.freeze()  # TensorFlow's modules: half a million objects


@pytest.fixture(scope="module", autouse=True)
def _garbage():
    """What a file leaves is looked at once, not by each collection (one a stage) of later files."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Seeds Python, NumPy and TensorFlow, if the test's modules use Keras at all."""
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def tiny_run_text():
    """A run of three stages that takes seconds, on a data set of coloured squares."""
    from mtard_tf import registry
    from mtard_tf.testing import tiny_data

    registry.register("datasets", "tiny")(tiny_data)
    return TINY_RUN


@pytest.fixture
def tiny_run_file(tiny_run_text, tmp_path):
    """`tiny_run_text` as a file of the test's own."""
    path = tmp_path / "tiny.gin"
    path.write_text(tiny_run_text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def _tiny_run(tiny_run_text, tmp_path_factory):
    """A finished run of the tiny run file, trained by the first worker that asks for it."""
    from mtard_tf.config import gin_files
    from mtard_tf.running import experiment_run

    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (folder / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "tiny").exists():
            (base / "tiny.gin").write_text(tiny_run_text, encoding="utf-8")
            gin_files.parse([str(base / "tiny.gin")], ["Stage.checkpoint_every = 2"])
            experiment_run.run(gin_files.experiment(), base / "trained", gin_files.text())
            (base / "trained").rename(folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def tiny_run(_tiny_run, tmp_path):
    """A copy of a finished run of `tiny_run_file`, with a checkpoint every second step."""
    return pathlib.Path(shutil.copytree(_tiny_run, tmp_path / "run"))


TINY_RUN = """
Experiment.dataset = @datasets.tiny
Experiment.stages = ('clean_teacher', 'robust_teacher', 'student')
Experiment.epsilon = 0.1
Stage.model = @models.small_cnn
Stage.optimizer = @optimizers.adam
Stage.learning_rate = 0.01
Stage.batch_size = 16
Stage.epochs = 2
models.small_cnn.widths = (4, 4)
models.small_cnn.dense = 8
student/models.small_cnn.dense = 4
clean_teacher/Stage.distiller = @distillers.natural
clean_teacher/Stage.validation_attack = None
robust_teacher/Stage.distiller = @distillers.trades
student/Stage.distiller = @distillers.bmtard
student/Stage.teachers = {'clean': 'clean_teacher', 'robust': 'robust_teacher'}
"""
