"""The flags of the gate: requirements are read before an audit and checked after it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from mtard_tf import files
from mtard_tf.auditing import gate, junit, requirements
from mtard_tf.auditing.requirements import Requirement
from mtard_tf.auditing.suite import Suite
from mtard_tf.commands import requests
from mtard_tf.experiment.stage import Stage


@dataclasses.dataclass(frozen=True)
class Gate:
    """Requirements that were read.

    Attributes:
      wanted: all of them, the suite's first.
      default: stages that those without a stage are of.
      confident: whether intervals have to hold.
      junit: file for the XML; None for none.
    """

    wanted: Sequence[Requirement]
    default: Sequence[str]
    confident: bool
    junit: str | None

    def close(self, text: str, reports: Mapping[str, Mapping]) -> str:
        """What the command prints at its end, once the XML is written.

        Args:
          text: what it has to say anyway.
          reports: stage or model -> its `report.json`.

        Raises:
          Unmet: a requirement is not met.
        """
        judged = gate.judge_all(self.wanted, reports, self.default, self.confident)
        if self.junit is not None:
            files.write_text(pathlib.Path(self.junit), junit.xml(judged, reports))
        return gate.closing(text, judged)


def students(stages: Sequence[Stage]) -> list[str]:
    """Names of the stages that no other stage learns or starts from."""
    taught = {source for stage in stages for source in stage.sources}
    return [stage.name for stage in stages if stage.name not in taught]


def read(
    flags: requests.Eval | requests.Compare,
    suite: Suite,
    classes: int,
    stages: Sequence[str],
    default: Sequence[str],
) -> Gate:
    """The requirements of the suite and of the flags.

    Args:
      flags: of the command.
      suite: of the audit.
      classes: of the data set; which attacks run depends on it.
      stages: all that is audited.
      default: of these, what requirements without a stage are of.

    Raises:
      RequirementError: one that cannot be judged, with the nearest name.
    """
    texts = [*suite.require, *flags.require] if flags.gate else []
    wanted = [requirements.parse(text) for text in texts]
    requirements.check(wanted, suite.names_for(classes), stages)
    return Gate(wanted, default, flags.require_confident, flags.junit)
