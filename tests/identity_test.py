"""What a stage is: changed data, code and settings are named, and nothing else is."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import files, registry
from mtard_tf.config import gin_files
from mtard_tf.data.image_data import Split
from mtard_tf.experiment.stage import Stage
from mtard_tf.processes import jobs
from mtard_tf.running import checkpoints, identity, machine, run_directory, stage_sources
from mtard_tf.running.checkpoints import Checkpoints, State
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


def _of(stage: Stage, data=None, seed: int = 0):
    return identity.of_stage(stage, identity.of_data(data) if data else {}, THREAT, seed)


def _of_run(run_file, *bindings: str, name: str = "robust_teacher"):
    gin_files.parse([str(run_file)], bindings)
    described = gin_files.experiment()
    stage = next(stage for stage in described.stages if stage.name == name)
    return identity.of_stage(stage, {}, described.threat, described.seed)


BASE = (
    "SIZE = 16",
    "robust_teacher/distillers.trades.attack = @attacks.pgd()",
    "attacks.pgd.num_steps = 7",
)


@pytest.mark.parametrize(
    "bindings, expected",
    [
        ((), []),
        (("Stage.checkpoint_every = 7", "Stage.keep_checkpoints = 5"), []),
        (("distillers.bmtard.temperature_rate = 0.5",), []),  # what another stage uses
        (("student/Stage.epochs = 9", "student/models.small_cnn.dense = 2"), []),
        (("Stage.epochs = 3",), ["Stage.epochs was 2 and is 3"]),
        (("robust_teacher/Stage.batch_size = %SIZE",), []),  # the same, said otherwise
        (
            ("robust_teacher/Stage.batch_size = %SIZE", "SIZE = 8"),
            ["Stage.batch_size was 16 and is 8"],
        ),
        (
            ("robust_teacher/models.small_cnn.dense = 9",),
            [
                "Stage.model was small_cnn(dense=8, widths=(4, 4)) and is "
                "small_cnn(dense=9, widths=(4, 4))"
            ],
        ),
        (
            ("attacks.pgd.num_steps = 8",),
            [
                "Stage.distiller was Trades(attack=PGD(num_steps=7)) and is "
                "Trades(attack=PGD(num_steps=8))"
            ],
        ),
        (("optimizers.adam.beta_1 = 0.5",), ["Stage.optimizer was adam() and is adam(beta_1=0.5)"]),
        (
            ("Experiment.epsilon = 0.2",),
            ["the threat model was ThreatModel(epsilon=0.1) and is ThreatModel(epsilon=0.2)"],
        ),
        (("Experiment.seed = 3",), ["Experiment.seed was 0 and is 3"]),
        (
            (
                "robust_teacher/Stage.epsilon_schedule = @schedules.Warmup()",
                "schedules.Warmup.epochs = 2",
            ),
            ["Stage.epsilon_schedule was not set and is Warmup(epochs=2)"],
        ),
    ],
)
def test_settings_that_a_stage_uses_and_no_others(tiny_run_file, bindings, expected) -> None:
    before, now = _of_run(tiny_run_file, *BASE), _of_run(tiny_run_file, *BASE, *bindings)
    assert identity.changes(json.loads(json.dumps(before)), now) == expected


def test_the_scope_of_a_reference_counts(tiny_run_file) -> None:
    bindings = ("robust_teacher/Stage.model = @wide/models.small_cnn",)
    before = _of_run(tiny_run_file, *bindings)
    now = _of_run(tiny_run_file, *bindings, "wide/models.small_cnn.dense = 9")
    assert identity.changes(before, now) == [
        "Stage.model was small_cnn(dense=8, widths=(4, 4)) and is small_cnn(dense=9, widths=(4, 4))"
    ]


def test_many_changes_are_counted(tiny_run_file) -> None:
    now = _of_run(tiny_run_file, "Stage.epochs = 3", "Stage.batch_size = 8", "Experiment.seed = 2",
                  "Stage.learning_rate = 0.5", "Experiment.epsilon = 0.2")  # fmt: skip
    found = identity.changes(_of_run(tiny_run_file), now)
    assert len(found) == 4 and found[-1] == "2 more"


def test_the_images_and_labels_of_each_split(data) -> None:
    before = identity.of_data(data)
    for role in ("train", "validation", "test"):
        split = getattr(data, role)
        other = Split(split.images, split.labels[::-1].copy())
        now = identity.of_data(dataclasses.replace(data, **{role: other}))
        assert identity.changes({"data": before}, {"data": now}) == [f"the {role} split"]
    flipped = identity.of_data(dataclasses.replace(data, augmentation="crop_flip"))
    assert identity.changes({"data": before}, {"data": flipped}) == ["the augmentation"]


LAYERS = "def act(x):\n    return x\n"
NET = """
import keras
import identity_layers

class Squash:
    def __init__(self, power):
        self.power = power

def net(image_shape, num_classes, squash=None):
    images = keras.Input(image_shape)
    return keras.Model(images, keras.layers.Dense(num_classes)(keras.layers.Flatten()(images)))
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Code of a third party: two files in a folder on the path."""
    (tmp_path / "identity_layers.py").write_text(LAYERS)
    (tmp_path / "identity_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("identity_net")
    for name in ("identity_net", "identity_layers"):
        sys.modules.pop(name)


def test_code_that_others_registered_counts_by_its_text(modules, tmp_path) -> None:
    stage = Stage("net", registry.get("distillers", "natural"), modules.net)
    before = _of(stage)
    assert sorted(before["code"]) == ["identity_layers", "identity_net"]
    assert identity.changes(before, _of(stage)) == []
    (tmp_path / "identity_layers.py").write_text(LAYERS.replace("return x", "return x + 1"))
    assert identity.changes(before, _of(stage)) == ["the code of identity_layers"]


def test_code_of_the_package_counts_by_its_version(tiny_run_file) -> None:
    assert _of_run(tiny_run_file)["code"] == {}


def test_arguments_without_a_text_of_their_own(modules) -> None:
    def model(power):
        return functools.partial(modules.net, squash=modules.Squash(power))

    texts = [_of(Stage("net", modules.net, model(p)))["settings"]["Stage.model"] for p in (2, 3)]
    assert texts == ["net()(squash=Squash(power=2))", "net()(squash=Squash(power=3))"]


def _begun(folder, **notes) -> None:
    Checkpoints(folder / "checkpoints").save(State(3, {}, {"sources": {}, **notes}))


class _Holds:
    """An attack of a user's that keeps whatever it is given."""

    def __init__(self, **held) -> None:
        vars(self).update(held)


class _Prints(_Holds):
    def __repr__(self) -> str:
        return f"Prints({self.what!r})"


def test_objects_of_any_kind_are_told_alike_in_every_process() -> None:
    def tell(value):
        return identity._Describer("net").describe(value)

    def double(images):
        return 2 * images

    name = f"{double.__qualname__}()"
    itself = _Holds()
    itself.me = itself
    assert tell(_Holds(f=tf.function(double), g=len)) == f"_Holds(f={name}, g=len())"
    assert tell(itself) == "_Holds(me=_Holds(...))"
    assert tell(_Prints(what=double)) == f"Prints(<function {double.__qualname__}>)"
    assert tell({"b", "a", "c"}) == "{'a', 'b', 'c'}"


@pytest.mark.parametrize("ended", [False, True])
def test_a_stage_that_was_begun_as_another(tmp_path, data, capsys, ended) -> None:
    stage = Stage("net", registry.get("distillers", "natural"), registry.get("models", "small_cnn"))
    now = _of(stage, data)
    before = _of(dataclasses.replace(stage, epochs=5, checkpoint_every=9), data)
    folder = tmp_path / "net"
    if ended:
        best = {"epoch": 1, "validation_clean": 0.5}
        ended = {"selected": "best", "best": best, "temperature": 1.0, "identity": before}
        ended |= {"stage": "net", "teachers": {}, "sources": {}}
        files.write_json(folder / "stage.json", ended)
    else:
        _begun(folder, identity=before)
    line = (
        f"{folder} has changed since it began: Stage.epochs was 5 and is not set. Undo that, "
        "choose another --run_dir, or restart the stage with mtard-train --restart=net."
    )
    with pytest.raises(stage_sources.Changed) as caught:
        stage_sources.finished(stage, tmp_path, now)
    assert str(caught.value) == line and isinstance(caught.value, run_directory.RunError)

    stage_sources.restart(stage, tmp_path, now)
    assert stage_sources.finished(stage, tmp_path, now) is None and not folder.exists()
    aside = tmp_path / "net.before"
    assert (
        list(aside.iterdir())
        and f"the old files are in {aside} ({folder} has changed" in capsys.readouterr().out
    )
    _begun(folder, identity=now)  # the same command, repeated, goes on with it
    stage_sources.restart(stage, tmp_path, now)
    assert Checkpoints(folder / "checkpoints").any()


def test_a_student_of_a_teacher_that_begins_anew_is_refused_before_anything_is_trained(
    tmp_path, data
) -> None:
    natural, net = registry.get("distillers", "natural"), registry.get("models", "small_cnn")
    teacher, student = Stage("teacher", natural, net), Stage("student", natural, net, epochs=5)
    student = dataclasses.replace(student, teachers={"clean": "teacher"})
    now = {stage.name: _of(stage, data) for stage in (teacher, student)}
    before = now | {"teacher": _of(dataclasses.replace(teacher, epochs=5), data)}
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "student.keras").write_bytes(b"a net")
    prints = stage_sources.fingerprints(student, tmp_path)
    _begun(tmp_path / "teacher", identity=before["teacher"])
    _begun(tmp_path / "student", identity=now["student"], sources=prints)
    stages = [teacher, student]
    with pytest.raises(stage_sources.Changed, match="teacher has changed since it began: Stage"):
        stage_sources.check_begun(stages, tmp_path, now)
    with pytest.raises(stage_sources.Changed) as caught:
        stage_sources.check_begun(stages, tmp_path, now, ["teacher"])
    assert str(caught.value) == (
        f"{tmp_path / 'student'} learned from teacher, which is to be trained again; restart "
        "it as well with --restart=student, or choose another --run_dir."
    )
    stage_sources.check_begun(stages, tmp_path, now, ["teacher", "student"])
    stage_sources.check_begun(stages, tmp_path, before, ["teacher"])  # nothing begins anew


def test_another_number_of_threads_is_said_once() -> None:
    said: list[str] = []
    before = ["mtard_tf 0.1.0, TensorFlow 2.21.0, CPU x 1, cores: 2, threads: 2"]
    now = before[0].replace("cores: 2", "cores: 1")
    assert machine.gone_on(before, before[0], said.append) == before and not said
    assert machine.gone_on(before, now, said.append) == [*before, now]
    assert machine.gone_on([*before, now], now, said.append) == [*before, now]
    assert said == [
        f"begun on: {before[0]}; resumed on: {now}. Its weights will not be those of an "
        "uninterrupted run to the bit; for those, resume with the --jobs, cores and versions of "
        "before."
    ]


def test_threads_are_those_of_the_process(monkeypatch) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert machine.threads() == 3
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    assert machine.threads() == machine.cores()
    assert run_directory.environment()["process"] == {
        "cores": machine.cores(),
        "threads": machine.cores(),
    }


def _unnamed() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model.compile(optimizer=keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    return model


def test_paths_do_not_depend_on_what_was_built_before() -> None:
    first, second = _unnamed(), _unnamed()
    assert [v.path for v in first.variables] != [v.path for v in second.variables]
    paths = list(checkpoints.named(second))
    assert paths == list(checkpoints.named(first))
    assert [path for path in paths if path.endswith("kernel")] == [
        "sequential/dense/kernel",
        "sequential/dense_1/kernel",
    ]
    assert "adam/sequential_dense_kernel_momentum" in paths and len(set(paths)) == len(paths)
    checkpoints.restore(second, checkpoints.values(first))
    np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])


@pytest.mark.parametrize(
    "cores, count, places",
    [
        ({0, 1, 2, 5}, 2, [{0, 1}, {2, 5}]),
        ({0, 1, 2}, 2, [{0}, {1}]),  # as many for each
        ({3, 4}, 3, [{3}, {4}, {3}]),  # more jobs than cores: two of them share one
        ({3}, 1, [{3}]),
    ],
)
def test_all_jobs_have_as_many_cores(tmp_path, monkeypatch, cores, count, places) -> None:
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda process: cores, raising=False)
    assert list(jobs.LocalPool(count, tmp_path)._places.values()) == places
