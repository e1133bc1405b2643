"""The page of the Python API, whose text mkdocstrings takes from the docstrings, unimported."""

from __future__ import annotations

import mtard_tf

# Beside the public names: what a part of one's own is made of.
PARTS = {
    "Attacks of your own": ("mtard_tf.attacks.attack.Attack", "mtard_tf.attacks.attack.Problem"),
    "Tests of your own parts": (
        "mtard_tf.testing.attack_contract.AttackContract",
        "mtard_tf.testing.distiller_contract.DistillerContract",
        "mtard_tf.testing.tiny.tiny_data",
    ),
    "Drift of what is served": ("mtard_tf.monitor.compare", "mtard_tf.monitor.Reference"),
    "What a run file makes": (
        "mtard_tf.experiment.experiment.Experiment",
        "mtard_tf.experiment.stage.Stage",
        "mtard_tf.auditing.suite.Suite",
        "mtard_tf.auditing.report.Report",
    ),
}


def page() -> str:
    """The page as Markdown."""
    lines = [
        "# Python API",
        "",
        "`import mtard_tf as mt`, and then `mt.train`: the public names.",
        "",
    ]
    for name in sorted(mtard_tf._PUBLIC, key=str.lower):
        home = mtard_tf._PUBLIC[name]
        path = home if home == f"mtard_tf.{name}" else f"{home}.{name}"
        lines += [f"## mt.{name} {{#{name}}}", "", f"::: {path}", ""]
    for title, paths in PARTS.items():
        lines += [f"## {title}", ""]
        for path in paths:
            lines += [f"### {path} {{#{path.rpartition('.')[2]}-part}}", "", f"::: {path}", ""]
    return "\n".join(lines)
