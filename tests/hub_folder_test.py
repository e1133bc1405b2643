"""A folder for Hugging Face's hub: read by the hub's own client, loaded by Keras, and whole."""

from __future__ import annotations

import pathlib

import huggingface_hub
import keras
import numpy as np
import pytest
import yaml
from model_card_test import METADATA

from mtard_tf import files, models
from mtard_tf.exporting import hub_folder, model_card
from mtard_tf.exporting.formats import ExportError


@pytest.fixture(scope="module")
def student() -> keras.Model:
    return models.small_cnn((8, 8, 1), 2, widths=(4,), dense=0)


@pytest.fixture
def version(tmp_path) -> pathlib.Path:
    """What `export` writes, with a stand-in for the model."""
    folder = tmp_path / "export" / "3"
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "assets").mkdir()  # a SavedModel has one, empty
    (folder / "saved_model.pb").write_bytes(b"graph")
    files.write_json(folder / "assets.extra" / "metadata.json", {"stage": {"stage": "student"}})
    (folder / "README.md").write_text(model_card.text(METADATA), "utf-8")
    return folder


@pytest.fixture
def audit(tmp_path) -> pathlib.Path:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "report.html").write_text("<p>page", "utf-8")
    (folder / "report.json").write_text("{}", "utf-8")
    return folder


def test_keras_loads_it_as_it_loads_a_repository(tmp_path, student, version, audit) -> None:
    out = tmp_path / "hub"
    hub_folder.lay_out(version, student, audit, out)
    # keras.saving.load_model("hf://...") downloads a repository and reads it as this folder.
    loaded = keras.saving.load_model(out)
    images = np.random.default_rng(0).random((3, 8, 8, 1), "float32")
    np.testing.assert_array_equal(loaded(images), student(images))
    assert (out / "saved_model.pb").read_bytes() == b"graph"
    assert (out / "audit" / "report.html").read_text("utf-8") == "<p>page"
    assert (out / "assets.extra" / "metadata.json").exists()
    assert [path.name for path in tmp_path.iterdir() if "hub" in path.name] == ["hub"]


def test_the_hubs_client_reads_the_card_and_takes_every_file(tmp_path, student, version) -> None:
    (out := tmp_path / "hub").mkdir()  # an empty folder is as good as none
    hub_folder.lay_out(version, student, None, out)
    card = huggingface_hub.ModelCard.load(out / "README.md")
    assert card.data.library_name == "keras" and card.data.license == "other"
    assert len(card.data.eval_results) == 3
    assert yaml.safe_load(card.data.to_yaml()) == card.data.to_dict()
    assert huggingface_hub.metadata_load(out / "README.md")["pipeline_tag"] == (
        "image-classification"
    )
    assert 'keras.saving.load_model("hf://NAMESPACE/NAME")' in card.text
    paths = [p.relative_to(out).as_posix() for p in sorted(out.rglob("*")) if p.is_file()]
    added = [huggingface_hub.CommitOperationAdd(path, out / path) for path in paths]
    assert sum(one.upload_info.size for one in added) == sum(
        p.stat().st_size for p in out.rglob("*") if p.is_file()
    )
    assert {"config.json", "metadata.json", "model.weights.h5", ".gitattributes"} <= set(paths)
    assert not (out / "audit").exists()


def test_a_folder_with_something_in_it_is_refused_and_left(tmp_path, student, version) -> None:
    (out := tmp_path / "hub").mkdir()
    (out / "mine.txt").write_text("kept", "utf-8")
    for refuse in (hub_folder.check, lambda path: hub_folder.lay_out(version, student, None, path)):
        with pytest.raises(ExportError, match="hub exists and is not empty; name a new folder"):
            refuse(out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing(tmp_path, student, version) -> None:
    with pytest.raises(FileNotFoundError):
        hub_folder.lay_out(version, student, tmp_path / "no_audit", tmp_path / "hub")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
