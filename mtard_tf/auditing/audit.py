"""The audit of one model: a suite's attacks and measures, the diagnostics, and their report."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtard_tf import files
from mtard_tf.auditing import accuracies, diagnostics, measurements, probes
from mtard_tf.auditing.batch_results import BatchRunner, Record
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.auditing.suite import Suite
from mtard_tf.auditing.text import markdown, verdict
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.files import digest
from mtard_tf.models import model_files
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.processes.locking import locked
from mtard_tf.reporting import plots
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
      examples: first so many of the split; None, or more than there are, for all.
      batch_size: images at a time.
      seed: of the attacks and of the bootstrap.
      share: (i, n) attacks every n-th batch, from the i-th on, and writes no report: an audit of
        the whole (the default) then takes the results of all shares that it finds, and computes
        the rest.
      temperature: at which the model was trained, see `at_temperature`; `tempered` attacks and
        measures use it.

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
        """Audits a model; writes `report.json`, `report.md`, `examples.npz` and figures to `out`.

        An audit that was cut off goes on at the batch it was cut off in; one that was finished on
        the same inputs is not repeated.

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
        split = self.chosen
        model_files.check(model, split, self.data.label_names)
        before = self.before(model, out, surrogate)
        if before is not None:
            _say(f"{name}: audited before on the same inputs; {out / 'report.json'} stands.")
            report = {**before, **(origin or {})}  # the same net may lie in another file by now
            if report != before:
                files.write_json(out / "report.json", report)
            return report
        path = out / (PROGRESS if self.whole else SHARE.format(*self.share))
        out.mkdir(parents=True, exist_ok=True)
        with locked(out, f".{path.stem}.lock"):
            return self._run(model, name, path, surrogate, origin)

    def _run(
        self,
        model: Any,
        name: str,
        path: pathlib.Path,
        surrogate: Any,
        origin: Mapping[str, str] | None,
    ) -> dict:
        split, out = self.chosen, path.parent
        inputs = self._inputs(model, split, surrogate)
        evaluator = Evaluator(model, self.threat, batch_size=self.batch_size, seed=self.seed)
        shares = sorted(out.glob(SHARE.format("*", "*"))) if self.whole else []
        record = Record(path, inputs, lambda line: _say(f"{name}: {line}"), shares)
        finished = False
        try:
            runner = BatchRunner(evaluator, split, len(split), record, name, self.share)
            blind = evaluator.blind(split)
            suite, notes = self.suite.fitted(model.output_shape[-1], blind)
            fitted = dataclasses.replace(self, suite=suite)
            outcomes = fitted._attack(runner, surrogate)
            measured = measurements.gather(runner, suite.measures, self.temperature)
            if not self.whole:
                return {
                    "model": name,
                    "verdict": "this share is done; once all are, run the same without --share.",
                }
            looked = probes.gather(runner, suite, outcomes, self.data.label_names, blind)
            report = fitted._report(name, model, outcomes, looked, split, surrogate)
            report |= {"changed": notes} if notes else {}
            report |= measurements.entries(measured, outcomes, suite.measures, self.temperature)
            report |= {**(origin or {}), "fingerprint": self._fingerprint(inputs)}
            self._write(report, {**outcomes, **measured}, looked, out)
            finished = True
        finally:
            record.close(remove=finished)
        for share in shares:
            share.unlink(missing_ok=True)
        return report

    def before(self, model: Any, out: pathlib.Path, surrogate: Any = None) -> dict | None:
        """The report of a finished audit on the same inputs; None if there is none in `out`."""
        if not (out / "report.json").exists() or not (out / "examples.npz").exists():
            return None
        report = sound_report(out / "report.json", _say)
        known = self._fingerprint(self._inputs(model, self.chosen, surrogate))
        return report if report.get("fingerprint") == known else None

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
        return digest(dict(inputs), self.suite, *measured)

    def _inputs(self, model: Any, split: Split, surrogate: Any) -> dict[str, str]:
        temperature = self.temperature
        inputs = {
            "model": model_files.fingerprint(model),
            "surrogate": model_files.fingerprint(surrogate) if surrogate is not None else "none",
            "images": digest(split.images, split.labels),
            "threat model": digest(self.threat),
            "batch size": digest(self.batch_size),
            "seed": digest(self.seed),
        }
        return inputs if temperature == 1 else inputs | {"temperature": digest(temperature)}

    def _attack(self, runner: BatchRunner, surrogate: Any) -> dict[str, np.ndarray]:
        outcomes = {"clean": runner.clean()}
        known = model_files.fingerprint(surrogate) if surrogate is not None else ""
        for name, attack in self.suite.all_attacks(surrogate).items():
            # A surrogate prints as an address; its weights say what it is.
            settings = f"{self.suite.transfer.get(name)!r} {known}"
            label = digest(settings) if name in self.suite.transfer else None
            try:
                outcomes[name] = runner.attacked(name, attack, label=label)
            except EvaluationError as error:
                raise EvaluationError(
                    f"The attack {name} failed: {error} Leave it out with --skip={name}."
                ) from error
        for name, members in self.suite.ensembles.items():
            outcomes[name] = accuracies.worst_case({key: outcomes[key] for key in members})
        return outcomes

    def _report(
        self,
        name: str,
        model: Any,
        outcomes: Mapping[str, np.ndarray],
        looked: probes.Probes,
        split: Split,
        surrogate: Any,
    ) -> dict:
        attacks = self.suite.all_attacks(surrogate)
        found = diagnostics.findings(looked, outcomes, attacks)
        numbers = accuracies.summarise(outcomes, self.seed)
        report = {
            "verdict": verdict(found, numbers, self.threat.epsilon, attacks=len(attacks)),
            "model": name,
            "dataset": self.data.name,
            "split": self.split,
            "parameters": model_files.parameters(model),
            "threat": {"norm": self.threat.norm, "epsilon": float(self.threat.epsilon)},
            "seed": self.seed,
            "suite": self.suite.settings(),
            "left_out": [] if surrogate is not None else list(self.suite.transfer),
            "crafted_on": dict.fromkeys(self.suite.transfer, model_files.fingerprint(surrogate))
            if surrogate is not None
            else {},
            **numbers,
            "findings": [dataclasses.asdict(finding) for finding in found],
            "epsilon_curve": looked.points(),
        }
        return report | accuracies.by_class(outcomes, split.labels, self.data.label_names)

    def _write(
        self,
        report: dict,
        outcomes: Mapping[str, np.ndarray],
        looked: probes.Probes,
        out: pathlib.Path,
    ) -> None:
        # No report beside outcomes that are not its own, wherever this is cut off.
        for name in ("report.json", "report.md"):
            (out / name).unlink(missing_ok=True)
        with files.replacing(out / "examples.npz") as temporary:
            np.savez_compressed(temporary, **outcomes)  # type: ignore[arg-type]
        plots.epsilon_curve(
            report["epsilon_curve"], report["threat"], looked.examples, out / "epsilon_curve.png"
        )
        files.write_text(out / "report.md", markdown(report))
        files.write_json(out / "report.json", report)  # last: it marks the audit as finished


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
