"""What the flags of `mtard-eval` mean: a model file, or a run, against a suite by name."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from mtard_tf.auditing.audit import Audit
from mtard_tf.commands.datasets import dataset
from mtard_tf.config import gin_files
from mtard_tf.data.image_data import ImageData
from mtard_tf.models import model_files
from mtard_tf.running import report
from mtard_tf.threat import ThreatModel, radius


@dataclasses.dataclass(frozen=True)
class Request:
    """The flags; each None where it was not given.

    Attributes:
      model: `.keras` file or SavedModel folder; or
      run_dir: a run.
      stages: of the run; all if empty.
      dataset: name of the data set; a run has its own.
      data_dir: where prepared sets lie.
      split: "test", "validation" or "train".
      examples: first so many of the split.
      suite: name, or a `.gin` file.
      skip: attacks or measures of the suite to leave out.
      epsilon: radius as text, "0.1" or "8/255"; a run has its own.
      norm: "linf" or "l2"; a run has its own.
      surrogate: model file on which transfer attacks are crafted.
      batch_size: images at a time.
      seed: of the attacks; a run has its own.
      out: folder of the reports; a run's is `evaluation/`.
      temperature: at which the model was trained; a run's stages say theirs.
      share: "I/N", this process' part of the batches, I from 0.
    """

    model: str | None = None
    run_dir: str | None = None
    stages: Sequence[str] = ()
    dataset: str | None = None
    data_dir: str | None = None
    split: str = "test"
    examples: int | None = None
    suite: str = "quick"
    skip: Sequence[str] = ()
    epsilon: str | None = None
    norm: str | None = None
    surrogate: str | None = None
    batch_size: int = 250
    seed: int | None = None
    out: str | None = None
    temperature: float | None = None
    share: str = "0/1"


def run(request: Request) -> str:
    """Does what the flags ask for; returns the lines to print.

    Raises:
      ValueError: flags that do not go together or mean nothing; the message is one line.
    """
    if (request.model is None) == (request.run_dir is None):
        raise ValueError("Give --model=FILE (with --dataset, --epsilon, --out) or --run_dir=DIR.")
    return _run_model(request) if request.model is not None else _run_stages(request)


def part(text: str) -> tuple[int, int]:
    """A share of the work: "1/4" is the second of four.

    Raises:
      ValueError: anything else.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f"--share is {text!r}; give I/N with I from 0 to N - 1, such as 0/4.")
    return int(index), int(count)


def _run_model(request: Request) -> str:
    needed = {"dataset": request.dataset, "epsilon": request.epsilon, "out": request.out}
    missing = [f"--{name}" for name, value in needed.items() if value is None]
    if missing:
        raise ValueError(f"--model needs {' and '.join(missing)} as well, such as --epsilon=8/255.")
    norm = request.norm or "linf"
    threat = ThreatModel(norm, radius(request.epsilon, "--epsilon", norm))
    model = model_files.load(str(request.model))
    surrogate = model_files.load(request.surrogate) if request.surrogate else None
    data = dataset(str(request.dataset), request.data_dir)
    out = pathlib.Path(str(request.out))
    path = pathlib.Path(str(request.model))
    name = path.stem if path.is_file() else model.name
    temperature = 1.0 if request.temperature is None else request.temperature
    audit = _audit(request, data, threat, request.seed or 0).at_temperature(temperature)
    result = audit(model, name, out, surrogate, {"file": str(request.model)})
    return f"{result['verdict']}\nReport: {out / 'report.md'}"


def _run_stages(request: Request) -> str:
    if request.temperature is not None:
        raise ValueError("--temperature is of --model; a run's stages say their own.")
    run_dir = pathlib.Path(str(request.run_dir))
    experiment = gin_files.of_run(run_dir)
    if request.dataset is not None:
        data = dataset(request.dataset, request.data_dir)
    else:
        data = experiment.dataset()
    threat = experiment.threat
    norm = request.norm or threat.norm
    given = threat.epsilon if request.epsilon is None else request.epsilon
    threat = ThreatModel(norm, radius(given, "--epsilon", norm))
    seed = experiment.seed if request.seed is None else request.seed
    out = pathlib.Path(request.out) if request.out else None
    results = report.evaluate_run(
        run_dir,
        experiment,
        _audit(request, data, threat, seed),
        request.stages,
        surrogate=request.surrogate,
        out=out,
    )
    lines = [f"{result['model']}: {result['verdict']}" for result in results]
    lines.append(f"Report: {out or run_dir / 'report' / 'report.md'}")
    lines.append(f"Next: mtard-export --run_dir={run_dir} --stage={experiment.stages[-1].name}")
    return "\n".join(lines)


def _audit(request: Request, data: ImageData, threat: ThreatModel, seed: int) -> Audit:
    # After the run's own data were made: a suite replaces the configuration that made them.
    suite = gin_files.suite(request.suite).without(request.skip)
    size, share = request.batch_size, part(request.share)
    return Audit(data, suite, threat, request.split, request.examples, size, seed, share)
