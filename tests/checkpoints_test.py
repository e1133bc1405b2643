"""Training states: what is in them, what becomes of a damaged one, and runs that go on."""

from __future__ import annotations

import io
import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest

from mtard_tf import files
from mtard_tf.config import gin_files
from mtard_tf.processes import preemption
from mtard_tf.processes.locking import LockedError, locked
from mtard_tf.running import checkpoints, experiment_run, run_directory
from mtard_tf.running.checkpoints import Checkpoints, State

STAGES = ("clean_teacher", "robust_teacher", "student")


def _state(step: int) -> State:
    values = {"net/kernel": np.full((3, 2), step, np.float32), "steps": np.array(step, np.int64)}
    return State(step, values, {"best": {"score": 0.1 + 0.2}})


def test_the_newest_few_stay(tmp_path) -> None:
    kept = Checkpoints(tmp_path, keep=2)
    assert kept.newest() is None
    for step in (5, 10, 15):
        kept.save(_state(step))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["state-000000010.npz", "state-000000015.npz"]
    newest = kept.newest()
    assert newest.step == 15
    np.testing.assert_array_equal(newest.notes["best"]["score"], 0.1 + 0.2)  # to the bit
    np.testing.assert_array_equal(newest.values["net/kernel"], np.full((3, 2), 15, np.float32))
    assert newest.values["steps"].dtype == np.int64 and newest.values["steps"].shape == ()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _noted(content: bytes, notes: object) -> bytes:
    """The archive with other notes."""
    stream = io.BytesIO()
    arrays = dict(np.load(io.BytesIO(content)))
    np.savez(stream, **arrays | {"notes": np.frombuffer(json.dumps(notes).encode(), np.uint8)})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("truncated", "it is no archive"),
        ("empty", "it is no archive"),
        ("a flipped bit", "Bad CRC-32"),
        ("not an archive", "it is no archive"),
        ("an array", "it is no archive"),
        ("notes of a number", "its notes are '3'"),
        ("notes of lists", "it has '[]' where names and values are needed"),
    ],
)
def test_a_damaged_state_is_passed_over(tmp_path, damage, reason) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(_state(5))
    kept.save(_state(10))
    path = tmp_path / "state-000000010.npz"
    content = path.read_bytes()
    place = content.index(np.full((3, 2), 10, np.float32).tobytes())
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "a flipped bit": content[:place] + b"\xff" + content[place + 1 :],
            "not an archive": b"hello\n",
            "an array": _npy(np.zeros(3)),
            "notes of a number": _noted(content, 3),
            "notes of lists": _noted(content, {"identity": []}),
        }[damage]
    )
    said: list[str] = []
    assert kept.newest(said.append).step == 5
    assert len(said) == 1 and "\n" not in said[0]
    assert said[0].startswith(f"{path} is damaged ({reason}")
    assert said[0].endswith("); it is skipped for the state before it.")
    assert kept.notes() == {"best": {"score": 0.1 + 0.2}}


@pytest.mark.parametrize("notes", [{}, {"validation": 3}, {"validation": {"best": []}}])
def test_notes_that_no_training_wrote(tmp_path, notes) -> None:
    kept = Checkpoints(tmp_path)
    state = State(7, {}, notes)
    with pytest.raises(checkpoints.CheckpointError) as caught, kept.noted(state):
        dict(state.notes["validation"]["best"])["score"]
    path = tmp_path / "state-000000007.npz"
    assert str(caught.value).startswith(f"{path} has invalid notes (")
    assert str(caught.value).endswith(
        "); remove the file, and the stage resumes from the state before it."
    )


def _weights(run_dir: pathlib.Path, stage: str) -> list[np.ndarray]:
    return keras.models.load_model(run_dir / stage / "student.keras").get_weights()


def _run(run_file, run_dir, *bindings, **options):
    gin_files.parse([str(run_file)], ["Stage.checkpoint_every = 2", *bindings])
    return experiment_run.run(gin_files.experiment(), run_dir, gin_files.text(), **options)


class _Preempted(preemption.Preemption):
    """Preempted when asked for the `n`th time."""

    def __init__(self, n: int) -> None:
        self._left = n

    @property
    def received(self) -> bool:
        self._left -= 1
        return self._left < 0

    @received.setter
    def received(self, value: bool) -> None:
        pass


def test_a_run_that_is_preempted_again_and_again(
    tiny_run_file, tiny_run, tmp_path, monkeypatch, capsys
):
    broken = tmp_path / "broken"
    preempted = 0
    for _ in range(20):
        with monkeypatch.context() as patch:
            patch.setattr(experiment_run, "Preemption", lambda: _Preempted(6))
            try:
                _run(tiny_run_file, broken)
                break
            except preemption.Preempted as error:
                preempted += 1
                assert str(error).endswith("The same command resumes.")
    assert preempted >= 3
    assert "resumes at step" in capsys.readouterr().err
    for stage in STAGES:
        for ours, theirs in zip(_weights(broken, stage), _weights(tiny_run, stage), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for name in ("metrics.jsonl", "stage.json"):
            assert (broken / stage / name).read_text() == (tiny_run / stage / name).read_text()
        assert not list((broken / stage / "checkpoints").glob("state-*"))


def test_a_teacher_that_was_replaced(tiny_run_file, tiny_run) -> None:
    teacher = tiny_run / "clean_teacher" / "student.keras"
    model = keras.models.load_model(teacher)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.save(teacher)
    with pytest.raises(run_directory.RunError) as caught:
        _run(tiny_run_file, tiny_run)
    folder = tiny_run / "student"
    line = (
        f"{folder} has changed since it began: the file of the teacher clean. Undo that, "
        "choose another --run_dir, or restart the stage with mtard-train --restart=student."
    )
    assert str(caught.value) == line
    # The same, for a student that has not ended.
    result = files.read_json(folder / "stage.json")
    (folder / "stage.json").unlink()
    kept = Checkpoints(folder / "checkpoints")
    notes = {name: result[name] for name in ("sources", "identity", "computed_on")}
    kept.save(State(2, {}, notes))
    with pytest.raises(run_directory.RunError) as caught:
        _run(tiny_run_file, tiny_run)
    assert str(caught.value) == line
    # Begun anew if asked, and only once.
    for _ in range(2):
        gin_files.parse([str(tiny_run_file)], ["Stage.checkpoint_every = 2"])
        experiment_run.run(gin_files.experiment(), tiny_run, gin_files.text(), restart=["student"])
    assert Checkpoints(tiny_run / "student.before" / "checkpoints").any()
    assert (folder / "stage.json").exists()


def test_a_vanished_teacher(tiny_run, tmp_path) -> None:
    (tiny_run / "robust_teacher" / "student.keras").rename(tmp_path / "gone.keras")
    files.remove(tiny_run / "student")
    with pytest.raises(run_directory.RunError) as caught:
        gin_files.parse([str(tiny_run / "config.gin")])
        described = gin_files.experiment()
        experiment_run.run(described, tiny_run, gin_files.text(), only=["student"])
    assert str(caught.value) == (
        f"{tiny_run}/robust_teacher/student.keras is missing; run the stage 'robust_teacher' "
        "first, or name another teacher."
    )


def test_a_checkpoint_of_another_student(tiny_run_file, tmp_path, monkeypatch) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setattr(experiment_run, "Preemption", lambda: _Preempted(1))
    with pytest.raises(preemption.Preempted):
        _run(tiny_run_file, run_dir)
    kept = Checkpoints(run_dir / "clean_teacher" / "checkpoints")
    state = kept.newest()
    values = dict(state.values)
    values["conv9/kernel"] = values.pop("conv2/kernel")  # of the same shape
    kept.save(State(state.step, values, state.notes))
    with pytest.raises(checkpoints.CheckpointError) as caught:
        _run(tiny_run_file, run_dir)
    assert str(caught.value) == (
        "The checkpoint is of another student or optimizer: the variable conv2/kernel is missing "
        "there and float32 [3, 3, 4, 4] here; put the former one back, or remove the stage's "
        "folder to begin anew."
    )


def test_two_trainers_in_one_directory(tmp_path) -> None:
    with locked(tmp_path):
        with pytest.raises(
            LockedError, match=r"in use \(lock is held by process \d+ on .+\); wait"
        ):
            with locked(tmp_path):
                pass
    with locked(tmp_path):  # freed again
        pass


def test_a_disk_that_is_full_leaves_the_states_before(tmp_path, monkeypatch) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(_state(5))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        kept.save(_state(10))
    assert kept.newest().step == 5
    assert [path.name for path in tmp_path.iterdir()] == ["state-000000005.npz"]


def test_rows_that_were_written_after_the_checkpoint_are_not_doubled(
    tiny_run_file, tiny_run, tmp_path, monkeypatch
):
    """Killed between the row of an epoch and the checkpoint that counts it."""
    save = Checkpoints.save

    def killed(self, state):
        if state.step == 3:
            raise KeyboardInterrupt
        save(self, state)

    folder = tmp_path / "broken" / "clean_teacher"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", killed)
        _run(tiny_run_file, folder.parent, only=["clean_teacher"])
    assert Checkpoints(folder / "checkpoints").newest().step == 2
    kinds = [(row["kind"], row["step"]) for row in _rows(folder / "metrics.jsonl")]
    assert kinds == [("step", 1), ("epoch", 3)]
    _run(tiny_run_file, folder.parent, only=["clean_teacher"])
    rows = _rows(folder / "metrics.jsonl")
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("step", 1),
        ("epoch", 3),
        ("epoch", 6),
    ]
    assert rows == _rows(tiny_run / "clean_teacher" / "metrics.jsonl")
    # Its second half was timed twice, and says that it is a half.
    timing = _rows(folder / "timing.jsonl")
    assert [(row["epoch"], row["partial"]) for row in timing] == [
        (1, False),
        (1, True),
        (2, False),
    ]


def _rows(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"notes": np.frombuffer(b"3", np.uint8)}, "its notes are '3'"),
        ({"notes": np.frombuffer(b"[" * 100_000, np.uint8)}, "maximum recursion depth"),
        ({"notes": np.array([print], object)}, "Object arrays cannot be loaded"),
    ],
)
def test_a_state_of_another_kind_is_passed_over(change, reason, tmp_path):
    kept, said = Checkpoints(tmp_path), []
    kept.save(State(1, {"a": np.ones(2)}, {"n": 1}))
    with np.load(tmp_path / "state-000000001.npz") as held:
        np.savez(tmp_path / "state-000000002.npz", **(dict(held) | change))
    (tmp_path / "state-x.npz").write_bytes(b"")  # nobody's
    state = kept.newest(said.append)
    assert state is not None and state.step == 1 and state.notes == {"n": 1}
    assert len(said) == 1 and reason in said[0] and "\n" not in said[0]
    kept.save(State(3, {"a": np.ones(2)}, {}))
    assert (tmp_path / "state-x.npz").exists()


def test_a_state_with_a_member_that_is_no_array(tmp_path):
    said: list[str] = []
    with zipfile.ZipFile(tmp_path / "state-000000001.npz", "w") as archive:
        archive.writestr("values/a.npy", b"nothing")
        archive.writestr("notes.npy", b"{}")
    assert Checkpoints(tmp_path).newest(said.append) is None
    assert "'a' is no array" in said[0]
