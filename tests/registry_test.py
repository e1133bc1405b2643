"""Built-ins, third parties by entry point, and what goes wrong with them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mtard_tf import registry


def test_built_ins_are_known_by_name():
    assert {"natural", "pgd_at", "trades", "mtard", "bmtard"} <= set(registry.names("distillers"))
    assert {"fgsm", "pgd"} <= set(registry.names("attacks"))
    assert {"fashion_mini", "tfds"} <= set(registry.names("datasets"))
    assert registry.get("attacks", "pgd")(num_steps=3).num_steps == 3
    assert registry.target("distillers", "bmtard").__name__ == "BMTARD"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("distillers", "bmtrad", "Unknown distiller 'bmtrad'; did you mean 'bmtard'\\? known: "),
        ("atacks", "pgd", "Unknown kind of plugin 'atacks'; did you mean 'attacks'\\? known: "),
    ],
)
def test_unknown_names_name_the_nearest(kind, name, message):
    with pytest.raises(registry.RegistryError, match=message):
        registry.get(kind, name)


def test_an_unknown_name_of_a_module_lists_that_module():
    known = ["Stage", "attacks.pgd", "models.resnet20", "models.small_cnn"]
    assert registry.unknown_name("name", "models.resnet21", known) == (
        "Unknown name 'models.resnet21'; did you mean 'models.resnet20'? "
        "known: models.resnet20, models.small_cnn."
    )
    assert registry.unknown_name("name", "modles.x", known).endswith(f"known: {', '.join(known)}.")


def test_a_name_twice_names_both_modules():
    with pytest.raises(
        registry.RegistryError,
        match=r"attacks\.pgd is registered twice: by mtard_tf\.attacks\.pgd and by .*registry_test",
    ):

        @registry.register("attacks", "pgd")
        def another():
            """Takes a taken name."""


PLUGIN = """
import dataclasses
from mtard_tf.registry import register

@register("attacks", "do_nothing")
@dataclasses.dataclass(frozen=True)
class DoNothing:
    strength: int = 1
    def __call__(self, model_fn, images, labels, *, threat, seeds, objective=None):
        return images
"""
USE = """
from mtard_tf import registry
import gin
gin.parse_config("attacks.do_nothing.strength = 5") if registry.load() is None else None
print(registry.get("attacks", "do_nothing")())
print(registry.broken())
try:
    registry.get("attacks", "lost")
except registry.RegistryError as error:
    print(error)
"""


def test_third_parties_by_entry_point(tmp_path):
    """One that works, one that fails at import, one that takes a built-in's name."""
    for name, code in {
        "good": PLUGIN,
        "bad": "raise RuntimeError('no such\\ndriver')",
        "thief": PLUGIN.replace("do_nothing", "fgsm"),
    }.items():
        (tmp_path / f"{name}_plugin.py").write_text(code)
        info = tmp_path / f"{name}_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[mtard_tf.plugins]\n{name} = {name}_plugin\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", USE],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "DoNothing(strength=5)" in done.stdout
    assert "plugin 'bad' (bad_plugin) was left out: RuntimeError: no such driver" in done.stdout
    assert "attacks.fgsm is registered twice: by mtard_tf.attacks.pgd and by thief_plugin" in (
        done.stdout
    )
    lost = done.stdout.splitlines()[-1]
    assert lost.startswith("Unknown attack 'lost'; known: ") and "do_nothing" in lost
    assert "plugin 'bad' (bad_plugin) was left out" in lost
