"""Sets that stay on disk give the batches, and the weights, of the same sets in memory."""

from __future__ import annotations

import dataclasses
import gc
import os
import pathlib
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets
from preempted import PreemptedAt
from tensorflow_datasets.core.utils.shard_utils import FileInstruction

from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.commands import data as data_command
from mtard_tf.commands import requests
from mtard_tf.data import tfds_sets, writing
from mtard_tf.data.batches import evaluation_batches, to_float, training_batches, training_tensors
from mtard_tf.data.extra import Extra, check_extra
from mtard_tf.data.image_data import DataError, ImageData
from mtard_tf.data.streaming import array_records, conversion
from mtard_tf.data.streaming.served import served
from mtard_tf.data.streaming.stored_images import StoredImages
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.processes.preemption import Preempted, Preemption
from mtard_tf.running import identity
from mtard_tf.running.context import RunContext
from mtard_tf.running.stage_run import train
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A set in TFRecord in `folder`, and the same one in ArrayRecord in `folder/converted`."""
    root = tmp_path_factory.mktemp("sets")
    data = tiny_data(train=47, test=20)
    splits = {"train": data.train, "test": data.test}
    writing.write_tfds(root / "tiny" / "1.0.0", "tiny", splits, label_names=data.label_names)
    said = conversion.convert("tiny", str(root / "converted"), str(root))
    assert (
        said
        == f"tiny is in {root}/converted/tiny/1.0.0; use it with data_dir = '{root}/converted'."
    )
    return root


def _read(folder: pathlib.Path, stream: bool, **settings) -> ImageData:
    return tfds_sets.tfds("tiny", str(folder / "converted"), stream=stream, **settings)


def _elements(dataset: tf.data.Dataset) -> list[tuple[np.ndarray, ...]]:
    return list(dataset.as_numpy_iterator())


def _assert_equal(ours: list, theirs: list) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_images_on_disk_are_those_in_memory(folder) -> None:
    stored, held = _read(folder, True), _read(folder, False)
    assert stored.image_shape == (8, 8, 3) and stored.augmentation == "crop_flip"
    for role in ("train", "validation", "test"):
        ours, theirs = getattr(stored, role), getattr(held, role)
        assert isinstance(ours.images, StoredImages) and isinstance(theirs.images, np.ndarray)
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.images[3], theirs.images[3])
        np.testing.assert_array_equal(to_float(ours.images[:2]), to_float(theirs.images[:2]))
        np.testing.assert_array_equal(list(ours.images), list(theirs.images))
        chosen = np.array([1, 0, 3])
        np.testing.assert_array_equal(ours.take(chosen).images, theirs.images[chosen])
    assert len(np.asarray(stored.train.images[:0])) == 0


@pytest.mark.parametrize("start_step", [0, 2, 7])
def test_training_batches_are_those_in_memory(folder, start_step: int) -> None:
    settings = dict(batch_size=10, epochs=2, seed=3, start_step=start_step)
    stored, held = (training_batches(_read(folder, s), **settings) for s in (True, False))
    assert stored.cardinality() == held.cardinality() == 10 - start_step
    assert stored.element_spec == held.element_spec
    _assert_equal(_elements(stored), _elements(held))


def test_extra_images_and_tables_beside_images_on_disk(folder) -> None:
    stored, held = _read(folder, True), _read(folder, False)
    for split in (held.test, stored.test):  # in memory, and on disk
        extra = Extra(split, 0.5)
        found = []
        for data in (stored, held):
            table = tf.range(len(data.train) + len(split))
            tensors = [*training_tensors(data, extra), table]
            settings = dict(batch_size=10, epochs=2, seed=3, tensors=tensors, extra=extra)
            found.append(_elements(training_batches(data, **settings)))
        _assert_equal(*found)


def test_workers_read_each_image_of_an_epoch_once(folder) -> None:
    """Each reads its half of a batch; together they are the batches of one process."""
    data = _read(folder, True)
    settings = dict(batch_size=10, epochs=1, seed=3)
    whole = _elements(training_batches(data, **settings))
    first, second = (
        _elements(training_batches(data, parts=(part,), replicas=2, **settings)) for part in (0, 1)
    )
    halves = [
        tuple(np.concatenate(both) for both in zip(a, b, strict=True))
        for a, b in zip(first, second, strict=True)
    ]
    _assert_equal(halves, whole)
    ids = [np.concatenate([batch[2] for batch in side]) for side in (first, second)]
    assert not set(ids[0]) & set(ids[1])
    assert sorted(np.concatenate(ids)) == list(range(len(data.train)))


@pytest.mark.parametrize("examples", [None, 13])
def test_evaluation_batches_are_those_in_memory(folder, examples: int | None) -> None:
    stored, held = (evaluation_batches(_read(folder, s).test, 6, examples) for s in (True, False))
    assert stored.cardinality() == held.cardinality()
    _assert_equal(_elements(stored), _elements(held))


def test_an_evaluator_on_images_on_disk(folder) -> None:
    model = small_cnn((8, 8, 3), 3, widths=(4,), dense=4)
    evaluator = Evaluator(model, THREAT, batch_size=8)
    stored, held = _read(folder, True).labelled("test", 17), _read(folder, False).test
    assert evaluator.blind(stored) is False
    np.testing.assert_array_equal(evaluator.clean(stored), evaluator.clean(held, 17))


def test_fingerprints_tell_content_and_selection_apart(folder, tmp_path) -> None:
    data = _read(folder, True)
    assert identity.of_data(data) == identity.of_data(_read(folder, True))
    assert repr(data.train.images) != repr(_read(folder, True, split_seed=1).train.images)
    assert repr(data.test.images[:5]) != repr(data.test.images[1:6])
    other = tiny_data(train=47, test=21)
    writing.write_tfds(
        tmp_path / "tiny" / "1.0.0",
        "tiny",
        {"train": other.train, "test": other.train},
        label_names=other.label_names,
    )
    conversion.convert("tiny", str(tmp_path / "converted"), str(tmp_path))
    changed = identity.changes(
        {"data": identity.of_data(data)}, {"data": identity.of_data(_read(tmp_path, True))}
    )
    assert "the test split" in changed


def test_records_of_several_files_of_which_some_are_left_out(tmp_path) -> None:
    instructions = []
    for number, (skip, take) in enumerate(((0, 4), (1, 2), (3, -1))):
        path = str(tmp_path / f"x.array_record-{number}")
        with writing.record_writer(path, writing.ARRAY_RECORD) as writer:
            for place in range(5):
                writer.write(bytes([10 * number + place]))
        instructions.append(FileInstruction(path, skip, take, 5))
    records = array_records.Records(instructions)
    assert len(records) == 8
    wanted = np.array([7, 0, 4, 5, 6, 0, 3])
    content = [0, 1, 2, 3, 11, 12, 23, 24]
    assert records.read(wanted) == [bytes([content[place]]) for place in wanted]
    assert records.read(wanted[:0]) == []


def test_training_images_in_another_split_are_refused(folder) -> None:
    data = _read(folder, True)
    data.check_trainable()
    with pytest.raises(DataError, match="the test images are training images"):
        dataclasses.replace(data, test=data.train.take(np.arange(3))).check_trainable()
    with pytest.raises(DataError, match="has 20 of the test images of tiny"):
        check_extra("student", Extra(data.test, 0.5), data, 10)


def _train(data: ImageData, folder: pathlib.Path, preemption: Preemption | None = None) -> list:
    stage = Stage(
        "student",
        Natural,
        lambda shape, classes: small_cnn(shape, classes, widths=(4,), dense=4),
        epochs=2,
        batch_size=16,
        validation_attack=None,
        checkpoint_every=1,
    )
    context = RunContext(data, THREAT, preemption=preemption or Preemption())
    train(stage, {}, folder, context, seed=7)
    return keras.models.load_model(folder / "student.keras", compile=False).get_weights()


def test_a_stage_that_is_cut_off_ends_in_the_bits_of_one_that_was_not(folder, tmp_path) -> None:
    """And in those of one in memory."""
    whole = _train(_read(folder, True), tmp_path / "whole")
    with pytest.raises(Preempted):  # in the second epoch of three steps
        _train(_read(folder, True), tmp_path / "cut", PreemptedAt(4))
    resumed = _train(_read(folder, True), tmp_path / "cut")
    held = _train(_read(folder, False), tmp_path / "held")
    for expected, *others in zip(whole, resumed, held, strict=True):
        for other in others:
            np.testing.assert_array_equal(other, expected)


def test_what_stays_on_disk(folder) -> None:
    # 67 images of 192 bytes, 4 of them held out and copied: 13,632.
    root = str(folder / "converted")
    in_memory = tfds_sets.tfds("tiny", root, max_bytes=13_632)
    assert isinstance(in_memory.train.images, np.ndarray)
    assert isinstance(tfds_sets.tfds("tiny", root, max_bytes=13_631).train.images, StoredImages)
    with pytest.raises(DataError) as caught:
        tfds_sets.tfds("tiny", root, max_bytes=13_631, stream=False)
    assert str(caught.value) == (
        "tiny takes 0.00 GiB in memory, over the limit of 0.00 GiB; raise max_bytes if there is "
        "room, or do not give stream=False."
    )
    with pytest.raises(DataError) as caught:
        tfds_sets.tfds("tiny", str(folder), stream=True)
    assert str(caught.value) == (
        "tiny is in tfrecord format, and stream=True needs array_record; convert it once with "
        "`mtard-data convert tiny --out=DIR`, and give data_dir=DIR."
    )


def test_a_damaged_set_is_one_line(folder, tmp_path) -> None:
    target = tmp_path / "converted" / "tiny" / "1.0.0"
    target.mkdir(parents=True)
    for path in (folder / "converted" / "tiny" / "1.0.0").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    damaged = target / "tiny-test.array_record-00000-of-00001"
    content = bytearray(damaged.read_bytes())
    content[content.index(b"\x89PNG") + 20] ^= 0xFF
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"^TFDS cannot read .*; prepare it again\.$") as caught:
        _read(tmp_path, True)
    assert "\n" not in str(caught.value)


_READS_IN_VAIN = """
import numpy as np
from mtard_tf import bin as binary

def main(argv):
    from mtard_tf.data import DataError, Split, evaluation_batches
    from mtard_tf.data.streaming.stored_images import StoredImages

    def read(places):
        raise DataError("TFDS cannot read ['t\u00f6y'] (gone); prepare it again.")

    images = StoredImages(read, np.arange(9), (4, 4, 1), "")
    list(evaluation_batches(Split(images, np.zeros(9, np.int32)), 5))

binary.run(main)
"""


def test_a_file_that_is_damaged_while_it_is_read_is_one_line() -> None:
    command = [sys.executable, "-c", _READS_IN_VAIN]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, env=_environment())
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == "-c: TFDS cannot read ['t\u00f6y'] (gone); prepare it again.\n"


def test_no_thread_of_tensorflow_needs_python(folder) -> None:
    """It would wait for the interpreter's lock for ever where the interpreter ends meanwhile."""
    data = _read(folder, True)
    for batches in (
        training_batches(data, batch_size=10, epochs=1, seed=0),
        evaluation_batches(data.test, 10),
    ):
        graph = tf.raw_ops.DatasetToGraphV2(input_dataset=batches._variant_tensor).numpy()
        assert b"QueueDequeue" in graph and b"PyFunc" not in graph


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class TestServed:
    """`served` gives what a generator would, of which nothing runs in TensorFlow's threads."""

    @staticmethod
    def _served(count: int = 6, fails: int = -1) -> tuple[tf.data.Dataset, list[str]]:
        seen: list[str] = []

        def elements(first: int):
            try:
                for place in range(first, count):
                    seen.append(threading.current_thread().name)
                    if place == fails:
                        raise DataError("a 'b' [c]")
                    yield np.full(place, place, np.int64), np.int64(place)
            finally:
                seen.append("closed")

        signature = tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int64)
        return served(elements, signature, count), seen

    def test_passes_one_after_another_and_side_by_side(self) -> None:
        dataset, seen = self._served()
        assert dataset.cardinality() == 6
        for _ in range(2):
            found = [(list(many), int(one)) for many, one in dataset.prefetch(4)]
            assert found == [([place] * place, place) for place in range(6)]
        pairs = tf.data.Dataset.zip((dataset, dataset.skip(1)))
        assert [(int(a[1]), int(b[1])) for a, b in pairs] == [(i, i + 1) for i in range(5)]
        assert set(seen) == {"mtard-reader", "closed"}

    def test_a_pass_that_is_left_and_one_that_fails(self) -> None:
        dataset, seen = self._served(fails=4)
        for _ in range(50):
            left = iter(dataset.prefetch(2))
            assert int(next(left)[1]) == 0
            del left
        for _ in range(2):
            places = []
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[DataError: a .*c\]"):
                for _, place in dataset:
                    places.append(int(place))
            assert places == [0, 1, 2, 3]
        assert seen.count("closed") >= 52

    def test_the_thread_ends_with_its_dataset(self) -> None:
        before = set(threading.enumerate())
        dataset, seen = self._served()
        (reader,) = set(threading.enumerate()) - before
        children = iter(dataset.map(lambda many, one: one))
        del dataset
        gc.collect()
        assert int(next(children)) == 0 and reader.is_alive()
        del children
        gc.collect()
        reader.join(10)
        assert not reader.is_alive() and seen[-1] == "closed"


class TestConversion:
    def test_many_files_keep_their_order(self, tmp_path) -> None:
        """The order in which TFDS reads them, 16 records of each file in turn."""
        features = tensorflow_datasets.features
        described = features.FeaturesDict(
            {
                "image": features.Image(shape=(2, 2, 1)),
                "label": features.ClassLabel(names=["a", "b"]),
                "other": features.Text(),
            }
        )
        source, lengths = tmp_path / "many" / "2.0.0", [19, 40, 3]
        source.mkdir(parents=True)
        template = tensorflow_datasets.core.ShardedFileTemplate(
            data_dir=str(source), dataset_name="many", filetype_suffix="tfrecord"
        )
        infos = []
        for role in ("train", "test"):
            count = 0
            for shard, length in enumerate(lengths):
                name = source / f"many-{role}.tfrecord-{shard:05}-of-00003"
                with tf.io.TFRecordWriter(str(name)) as writer:
                    for _ in range(length):
                        image = np.full((2, 2, 1), count, np.uint8)
                        example = {"image": image, "label": count % 2, "other": str(count)}
                        writer.write(described.serialize_example(described.encode_example(example)))
                        count += 1
            infos.append(
                tensorflow_datasets.core.SplitInfo(
                    name=role,
                    shard_lengths=lengths,
                    num_bytes=1,
                    filename_template=template.replace(split=role),
                )
            )
        tensorflow_datasets.folder_dataset.write_metadata(
            data_dir=str(source), features=described, split_infos=infos, check_data=False
        )
        shown = []
        conversion.convert(
            "many:2.0.0",
            str(tmp_path / "out"),
            str(tmp_path),
            progress=lambda places, role: shown.append((role, len(places))) or places,
        )
        assert shown == [("train", 62), ("test", 62)]
        before = tfds_sets.tfds("many", str(tmp_path))
        after = tfds_sets.tfds("many", str(tmp_path / "out"), stream=True)
        for role in ("train", "validation", "test"):
            ours, theirs = getattr(after, role), getattr(before, role)
            np.testing.assert_array_equal(ours.images, theirs.images)
            np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert before.test.images[16, 0, 0, 0] == 19  # the second file's first record
        written = tmp_path / "out" / "many" / "2.0.0" / "many-train.array_record-00000-of-00001"
        record = array_records.Records([FileInstruction(str(written), 0, 1, 62)]).read(
            np.array([0])
        )
        png = tf.train.Example.FromString(record[0]).features.feature["image"].bytes_list.value[0]
        assert png == writing.png_of(before.train.images[0], writing.ARRAY_RECORD)

    def test_whole_or_not_at_all(self, folder, tmp_path) -> None:
        def interrupted(places, role):
            yield from list(places)[:5]
            raise KeyboardInterrupt

        out = str(tmp_path / "out")
        with pytest.raises(KeyboardInterrupt):
            conversion.convert("tiny", out, str(folder), progress=interrupted)
        assert not list((tmp_path / "out").rglob("*.json"))
        assert not list((tmp_path / "out").rglob("*record*"))
        request = requests.Data(data_dir=str(folder), out=out)
        assert data_command.run(request, ["convert", "tiny"]).startswith(f"tiny is in {out}/tiny/")
        with pytest.raises(DataError, match="tiny/1.0.0 exists already; remove it to write tiny"):
            conversion.convert("tiny", out, str(folder))
        with pytest.raises(DataError, match="is in array_record format; only tfrecord is conv"):
            conversion.convert("tiny", str(tmp_path / "again"), out)

    def test_a_damaged_file(self, folder, tmp_path) -> None:
        source = tmp_path / "tiny" / "1.0.0"
        source.mkdir(parents=True)
        for path in (folder / "tiny" / "1.0.0").iterdir():
            (source / path.name).write_bytes(
                path.read_bytes()[: -1 if "test" in path.name else None]
            )
        with pytest.raises(DataError, match=r"^TFDS cannot read .*prepare it again\.$"):
            conversion.convert("tiny", str(tmp_path / "out"), str(tmp_path))
        assert not list((tmp_path / "out").rglob("*record*"))
