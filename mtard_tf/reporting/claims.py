"""An audit in the form in which RobustBench takes claims (its issue template for new models)."""

from __future__ import annotations

from collections.abc import Mapping

from mtard_tf.reporting import advice, notation

_DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
_EPSILONS = {"linf": "8/255", "l2": "0.5"}  # of its leaderboards for CIFAR
_TEST_IMAGES = 10_000


def robustbench(report: Mapping) -> str:
    """The fields of the claim form; what the audit cannot know is left as TODO.

    Args:
      report: content of a `report.json`.
    """
    threat, name = report["threat"], report["dataset"]
    standard = "autoattack" in report["attacks"]
    robust = report["attacks"]["autoattack"] if standard else report["worst_case"]
    method = "AutoAttack" if standard else f"worst case of {', '.join(report['attacks'])}"
    lines = [
        "# Paper Information",
        "",
        "- **Paper Title**: TODO",
        "- **Paper URL**: TODO",
        "- **Paper Authors**: TODO",
        "",
        "# Leaderboard Claim(s)",
        "",
        f"- **Architecture**: {report['model']} ({report['parameters']:,} parameters)",
        f"- **Dataset**: {_DATASETS.get(name, name)}",
        f"- **Threat Model**: {threat['norm'].capitalize()}",
        f"- **eps**: {notation.radius(threat['epsilon'], threat['norm'])}",
        f"- **Clean accuracy**: {report['clean']:.2%}",
        f"- **Robust accuracy**: {robust['robust_accuracy']:.2%}",
        "- **Additional data**: TODO",
        f"- **Evaluation method**: {method}",
        "- **Checkpoint and code**: TODO",
    ]
    wanting = missing(report)
    if wanting:
        lines += ["", "RobustBench would not accept this claim:"]
        lines += [f"* {sentence}" for sentence in wanting]
    return "\n".join(lines)


def missing(report: Mapping) -> list[str]:
    """What RobustBench asks for beyond this audit, one sentence each."""
    threat, found = report["threat"], []
    epsilon = notation.radius(threat["epsilon"], threat["norm"])
    if report["dataset"] not in _DATASETS:
        names = ", ".join(_DATASETS.values())
        found.append(f"The data set is {report['dataset']}; its leaderboards are of {names}.")
    elif epsilon != _EPSILONS[threat["norm"]] and report["dataset"] != "imagenet":
        found.append(f"Epsilon is {epsilon}; its leaderboard has {_EPSILONS[threat['norm']]}.")
    if "autoattack" not in report["attacks"]:
        found.append("The claim is of AutoAttack: mtard-eval --suite=autoattack.")
    if report["split"] != "test" or report["examples"] < _TEST_IMAGES:
        found.append(
            f"It is of {report['examples']:,} images of the {report['split']} split, not of all "
            "test images: leave out --examples."
        )
    if advice.severity(report) in ("masked", "void"):
        found.append(f"The audit is {advice.severity(report)}: {report['verdict']}")
    return found
