"""The audit of one model: a suite's attacks and measures, the diagnostics, and their report."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mtard_tf import files
from mtard_tf.auditing import costs, eight_bit, evidence, indirect, measurements, shown
from mtard_tf.auditing.batch_results import BatchRunner, ResultsFile
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.auditing.report import compose, write
from mtard_tf.auditing.suite import Suite
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.distribute.strategies import local_devices
from mtard_tf.files import digest
from mtard_tf.models import model_files
from mtard_tf.processes.locking import locked
from mtard_tf.reporting import pages
from mtard_tf.reporting.run_files import sound_report
from mtard_tf.threat import ThreatModel

SPLITS = ("test", "validation", "train")
PROGRESS = "progress.jsonl"
SHARE = "progress-{}-of-{}.jsonl"


@dataclasses.dataclass(frozen=True)
class Audit:
    """What is common to the audits of several models.

    Attributes:
      data: the set; label names come from it.
      suite: attacks.
      threat: ball and box.
      split: "test", "validation" or "train".
      examples: audits only the first N images of the split; None, or more than there are: all.
      batch_size: images at a time.
      seed: of the attacks and of the bootstrap.
      share: (i, n) attacks every n-th batch, from the i-th on, and writes no report; an audit of
        the whole (the default) then takes the results of all shares that it finds, and computes
        the rest.
      temperature: at which the model was trained, see `at_temperature`; `tempered` attacks and
        measures use it.
      strategy: each of this process' devices under it attacks a batch at a time; models are made
        within its scope. Default one device.

    Raises:
      DataError: images without a label.
    """

    data: ImageData
    suite: Suite
    threat: ThreatModel
    split: str = "test"
    examples: int | None = None
    batch_size: int = 250
    seed: int = 0
    share: tuple[int, int] = (0, 1)
    temperature: float = 1.0
    strategy: tf.distribute.Strategy = dataclasses.field(default_factory=tf.distribute.get_strategy)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"The split is {self.split!r}; use one of {', '.join(SPLITS)}.")
        self.data.labelled(self.split, self.examples)  # before anything is loaded or trained

    @property
    def whole(self) -> bool:
        """Whether this is the audit of the whole, not of a share."""
        return self.share[1] == 1

    @property
    def chosen(self) -> Split:
        """The examples that are attacked."""
        return self.data.labelled(self.split, self.examples)

    def __call__(
        self,
        model: Any,
        name: str,
        out: pathlib.Path,
        surrogate: Any = None,
        origin: Mapping[str, str] | None = None,
    ) -> dict:
        """Audits a model; writes `report.json`, `.md` and `.html`, `examples.npz` and figures.

        A preempted audit resumes at the batch where it stopped; one that was finished on the same
        inputs is not repeated.

        Args:
          model: from float32 images in [0, 1] to logits.
          name: what reports call it.
          out: folder.
          surrogate: model on which the suite's transfer attacks are crafted; None leaves them out.
          origin: where the model comes from; kept in `report.json`.

        Returns:
          The content of `report.json`; of a share, only a `verdict` that says what to do next.

        Raises:
          LockedError: another process is at the same audit.
        """
        with indirect.told(model):
            model_files.check(model, self.chosen, self.data.label_names)
        inputs = self._inputs(model, surrogate)
        before = self._finished(out, inputs)
        if before is not None:
            _say(f"{name}: audited before on the same inputs; {out / 'report.json'} is kept.")
            report = {**before, **(origin or {})}  # the same net may lie in another file by now
            if report != before:
                files.write_json(out / "report.json", report)
            pages.refresh(out)
            return report
        path = out / (PROGRESS if self.whole else SHARE.format(*self.share))
        out.mkdir(parents=True, exist_ok=True)
        with locked(out, f".{path.stem}.lock"), indirect.told(model):
            return self._run(model, name, path, surrogate, inputs, origin or {})

    def before(self, model: Any, out: pathlib.Path, surrogate: Any = None) -> dict | None:
        """The report of a finished audit on the same inputs; None if there is none in `out`."""
        return self._finished(out, self._inputs(model, surrogate))

    def _finished(self, out: pathlib.Path, inputs: Mapping[str, str]) -> dict | None:
        if not (out / "report.json").exists() or not (out / "examples.npz").exists():
            return None
        found = sound_report(out / "report.json", _say)
        return found if found.get("fingerprint") == self._fingerprint(inputs) else None

    def _run(
        self,
        model: Any,
        name: str,
        path: pathlib.Path,
        surrogate: Any,
        inputs: Mapping[str, str],
        origin: Mapping[str, str],
    ) -> dict:
        split, out = self.chosen, path.parent
        evaluator = Evaluator(model, self.threat, batch_size=self.batch_size, seed=self.seed)
        shares = sorted(out.glob(SHARE.format("*", "*"))) if self.whole else []
        stored = ResultsFile(path, inputs, lambda line: _say(f"{name}: {line}"), shares)
        with contextlib.closing(stored):
            devices = local_devices(self.strategy)
            runner = BatchRunner(evaluator, split, stored, name, self.share, devices)
            way = indirect.of(model, surrogate, split.images, runner.predictions)
            blind = way is None and evaluator.blind(split)
            classes, given = model.output_shape[-1], self.suite
            suite, changed = way.suite(given, classes) if way else given.fitted(classes, blind)
            attacks = suite.all_attacks(surrogate)
            crafted_on = None if surrogate is None else inputs["surrogate"]
            correct, rounded = eight_bit.after_all(runner, suite, attacks, crafted_on)
            measured = measurements.gather(runner, suite.measures, self.temperature)
            if not self.whole:
                verdict = "this share is done; once all are, run the same without --share."
                return {"model": name, "verdict": verdict}
            names, through = self.data.label_names, way.through if way else None
            found = evidence.gather(runner, suite, correct, names, blind, through)
            mixed = indirect.mixture(runner, suite.compiled_probe, found.iterated)
            pictures = shown.arrays(runner, suite.compiled_probe, found.predictions)
        about = {"model": name, **self._conditions(model, suite, crafted_on)}
        further = [*mixed, *([way.finding(correct)] if way else [])]
        report = compose(about, correct, split.labels, names, found, attacks, further)
        report |= {eight_bit.NAME: eight_bit.entry(correct, rounded, self.threat, self.seed)}
        report |= {"artefact": way.entry(correct)} if way else {}
        report |= {"changed": changed} if changed else {}
        report |= measurements.entries(measured, correct, suite.measures, self.temperature)
        report |= {**origin, "fingerprint": self._fingerprint(inputs)}
        timing = costs.content({attack: runner.costs[attack] for attack in attacks})
        pictures |= eight_bit.arrays(rounded)
        write(report, {**correct, **measured, **pictures}, found.examples, timing, out)
        for used in (path, *shares):
            used.unlink(missing_ok=True)
        return report

    def at_temperature(self, temperature: float) -> Audit:
        """The audit of a model that was trained at a temperature, given as above 0.

        Raises:
          ValueError: it is not above 0.
        """
        if not temperature > 0:
            raise ValueError(f"The training temperature is {temperature}; give a number above 0.")
        suite = self.suite.at_temperature(temperature)
        return dataclasses.replace(self, suite=suite, temperature=float(temperature))

    def _fingerprint(self, inputs: Mapping[str, str]) -> str:
        # Without measures, that of a suite that could not have any.
        measured = [self.suite.measures] if self.suite.measures else []
        return digest(dict(inputs), self.suite, eight_bit.NAME, *measured)

    def _inputs(self, model: Any, surrogate: Any) -> dict[str, str]:
        """What every result depends on, by fingerprint."""
        split, temperature = self.chosen, self.temperature
        inputs = {
            "model": model_files.fingerprint(model),
            "surrogate": model_files.fingerprint(surrogate) if surrogate is not None else "none",
            "images": digest(split.images, split.labels),
            "threat model": digest(self.threat),
            "batch size": digest(self.batch_size),
            "seed": digest(self.seed),
        }
        return inputs if temperature == 1 else inputs | {"temperature": digest(temperature)}

    def _conditions(self, model: Any, suite: Suite, crafted_on: str | None) -> dict:
        return {
            "dataset": self.data.name,
            "split": self.split,
            "label_names": list(self.data.label_names),
            "parameters": model_files.parameters(model),
            "threat": {"norm": self.threat.norm, "epsilon": float(self.threat.epsilon)},
            "seed": self.seed,
            "suite": suite.settings(),
            "left_out": list(suite.transfer) if crafted_on is None else [],
            "crafted_on": {} if crafted_on is None else dict.fromkeys(suite.transfer, crafted_on),
        }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
