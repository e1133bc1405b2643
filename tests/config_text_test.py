"""The text of a configuration: complete names, which mean the same whatever comes later."""

from __future__ import annotations

import dataclasses

import gin
import pytest

from mtard_tf import registry
from mtard_tf.config import gin_files
from mtard_tf.config.bindable import BINDABLE

BINDINGS = (
    "late_comer.steps = 5",
    "ROLES = {'robust': 'robust_teacher', 'clean': 'clean_teacher'}",
    "student/Stage.teachers = %ROLES",
    "student/distillers.bmtard.attack = @strong/late_comer()",
    "strong/late_comer.steps = 9",
    "student/Stage.model = @wide/small_cnn",
    "wide/small_cnn.dense = 16",
)


@dataclasses.dataclass(frozen=True)
class LateComer:
    """An attack without a step."""

    kind = "gradient"
    steps: int = 1


@pytest.fixture
def late_comer():
    """An attack, and a function that registers a model of the same name."""

    def model(image_shape, num_classes):
        raise AssertionError("never built")

    if not gin.config._REGISTRY.matching_selectors("late_comer"):
        registry.register("attacks", "late_comer")(LateComer)
    yield lambda: registry.register("models", "late_comer")(model)
    for kind in ("attacks", "models"):
        registry._plugins[kind].pop("late_comer", None)


def test_names_are_complete_and_stay_what_they_were(tiny_run_file, tmp_path, late_comer) -> None:
    gin_files.parse([str(tiny_run_file)], BINDINGS)
    text = gin_files.text()
    for line in (
        "attacks.late_comer.steps = 5",
        "strong/attacks.late_comer.steps = 9",
        "student/distillers.bmtard.attack = @strong/attacks.late_comer()",
        "student/Stage.model = @wide/models.small_cnn",
        "ROLES = {'robust': 'robust_teacher', 'clean': 'clean_teacher'}",  # in their order
        "student/Stage.teachers = %ROLES",
        "models.small_cnn.widths = (4, 4)",
        "Stage.optimizer = @optimizers.adam",
        "Experiment.dataset = @datasets.tiny",
    ):
        assert f"\n{line}\n" in f"\n{text}"

    late_comer()  # a plugin, or a release, with a second name
    path = tmp_path / "config.gin"
    path.write_text(text)
    gin_files.parse([str(path)])
    assert gin_files.text() == text
    with gin.config_scope("strong"):
        assert registry.get("attacks", "late_comer")().steps == 9
    assert gin_files.experiment().stages[2].teachers == {
        "robust": "robust_teacher",
        "clean": "clean_teacher",
    }
    assert list(gin_files.experiment().stages[2].teachers) == ["robust", "clean"]
    # What a user wrote short is one line.
    with pytest.raises(gin_files.ConfigError) as caught:
        gin_files.parse([str(tiny_run_file)], ["late_comer.steps = 5"])
    message = str(caught.value)
    assert message.startswith("late_comer may be any of ") and "\n" not in message
    assert "models.late_comer" in message and "write the whole name" in message


def test_long_values_are_broken_and_read_back(tiny_run_file, tmp_path) -> None:
    names = tuple(f"stage_number_{i}" for i in range(12))
    gin_files.parse([str(tiny_run_file)], [f"NAMES = {names}", "EMPTY = ()", "ONE = (%NAMES,)"])
    text = gin_files.text()
    assert "NAMES = \\\n    ('stage_number_0',\n" in text
    path = tmp_path / "config.gin"
    path.write_text(text)
    gin_files.parse([str(path)])
    assert gin_files.text() == text
    assert gin.query_parameter("NAMES/gin.macro.value") == names


def test_plain_words_of_run_files_are_nobodys_name() -> None:
    assert {name for name in BINDABLE if "." not in name} <= set(registry.RESERVED)
    with pytest.raises(registry.RegistryError) as caught:
        registry.register("models", "Stage")(lambda image_shape, num_classes: None)
    assert str(caught.value) == (
        f"models.Stage, of {__name__}, is a reserved word of run files; rename it."
    )
