"""`mtard-eval`: audits a model file, or the students of a run, with a suite."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import sys
from typing import Any

import tensorflow as tf

from mtard_tf.auditing import wrong_inputs
from mtard_tf.auditing.audit import Audit
from mtard_tf.commands import audit_parts, gate, requests
from mtard_tf.commands.datasets import dataset
from mtard_tf.config import gin_files
from mtard_tf.data.image_data import ImageData
from mtard_tf.distribute import strategies
from mtard_tf.models import model_files
from mtard_tf.models.adapters import adapted
from mtard_tf.reporting.run_page import PAGE
from mtard_tf.running import report
from mtard_tf.runtimes import loading
from mtard_tf.runtimes.artefact import Artefact
from mtard_tf.runtimes.http_client import Limits
from mtard_tf.threat import ThreatModel, radius

# What `adapted` is given for a model that takes images in [0, 1] and returns logits.
_AS_IT_IS = {
    "from_probabilities": False,
    "input_scale": 1.0,
    "normalization": "raw",
    "channels_first": False,
}


def run(request: requests.Eval) -> str:
    """Does what the flags ask for; returns the lines to print.

    Raises:
      ValueError: flags that do not go together, or a value out of range; one line.
      Unmet: a requirement is not met.
    """
    if (request.model is None) == (request.run_dir is None):
        raise ValueError("Give --model=FILE (with --dataset, --epsilon, --out) or --run_dir=DIR.")
    audit_parts.check(request)
    _check_stages(request) if request.model is None else _check_model(request)
    strategy = audit_parts.strategy(request)
    if strategies.worker_count(strategy) == 1:
        return _audited(request, strategy)
    return _by_workers(request, strategy)


def _by_workers(request: requests.Eval, strategy: tf.distribute.Strategy) -> str:
    """Each worker attacks its share; the chief puts them together, and alone has lines to print."""
    strategies.check_one_folder(strategy, pathlib.Path(str(request.out or request.run_dir)))
    own = strategies.of_process(strategy)
    share = f"{strategies.worker_index(strategy)}/{strategies.worker_count(strategy)}"
    _audited(dataclasses.replace(request, share=share), own)
    strategies.wait_for_all(strategy)
    try:
        return _audited(request, own) if strategies.is_chief(strategy) else ""
    finally:
        strategies.wait_for_all(strategy)  # one that leaves earlier counts as lost


def _audited(request: requests.Eval, strategy: tf.distribute.Strategy) -> str:
    run = _run_model if request.model is not None else _run_stages
    return run(request, strategy)


def _check_model(request: requests.Eval) -> None:
    """Refuses a model without what a run says itself."""
    needed = {"dataset": request.dataset, "epsilon": request.epsilon, "out": request.out}
    missing = [f"--{name}" for name, value in needed.items() if value is None]
    if missing:
        raise ValueError(f"--model needs {' and '.join(missing)} as well, such as --epsilon=8/255.")


def _run_model(request: requests.Eval, strategy: tf.distribute.Strategy) -> str:
    norm = request.norm or "linf"
    threat = ThreatModel(norm, radius(request.epsilon, "--epsilon", norm))
    data = dataset(str(request.dataset), request.data_dir)
    limits = Limits(request.timeout, max_requests=request.max_requests, max_rate=request.max_rate)
    with strategy.scope():
        model = _adapted(request, loading.load(str(request.model), data.image_shape, limits))
        surrogate = loading.surrogate(model, str(request.model), request.surrogate)
    if isinstance(model, Artefact) and len(strategies.local_devices(strategy)) > 1:
        raise ValueError(
            f"{model.name} is {model.kind}, which TensorFlow does not run; leave out "
            "--strategy=mirrored and --devices, and give each process a --share."
        )
    out = pathlib.Path(str(request.out))
    path = pathlib.Path(str(request.model))
    name = path.stem if path.is_file() else model.name
    temperature = 1.0 if request.temperature is None else request.temperature
    audit = _audit(request, data, threat, request.seed or 0, strategy)
    audit = audit.at_temperature(temperature)
    judge = gate.read(request, audit.suite, data.num_classes, [name], [name])
    model_files.check(model, audit.chosen, data.label_names)
    if missing_flag := wrong_inputs.hint(model, audit.chosen):
        print(f"warning: {missing_flag}", file=sys.stderr)
    audit_parts.attack(request, [name], out)
    result = audit(model, name, out, surrogate, {"file": str(request.model)})
    if not audit.whole:
        return str(result["verdict"])
    text = f"{result['verdict']}\nReport: {out / 'report.md'}\nPage: {out / 'report.html'}"
    return judge.close(text, {name: result})


def _adapted(request: requests.Eval, model: Any) -> Any:
    changes = {name: getattr(request, name) for name in _AS_IT_IS}
    if isinstance(model, Artefact):
        model.from_probabilities = request.from_probabilities
        changes["from_probabilities"] = False
        if changes != _AS_IT_IS:
            raise ValueError(
                f"{model.name} is {model.kind}, whose file states its input format; leave out "
                "--input_scale, --normalization and --channels_first."
            )
        return model
    return model if changes == _AS_IT_IS else adapted(model, **changes)


def _check_stages(request: requests.Eval) -> None:
    """Refuses flags that a run has no use for."""
    if request.temperature is not None:
        raise ValueError("--temperature goes with --model; the stages of a run record theirs.")
    for name, value in _AS_IT_IS.items():
        if getattr(request, name) != value:
            raise ValueError(f"--{name} goes with --model; the students of a run do not need it.")
    if request.data_dir is not None and request.dataset is None:
        raise ValueError(
            "--data_dir goes with --dataset, and a run reads its own data; give --dataset as well, "
            "or leave --data_dir out."
        )


def _run_stages(request: requests.Eval, strategy: tf.distribute.Strategy) -> str:
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
    audit = _audit(request, data, threat, seed, strategy)
    known = [stage.name for stage in experiment.stages]
    judge = gate.read(
        request,
        audit.suite,
        data.num_classes,
        request.stages or known,
        request.stages or gate.students(experiment.stages),
    )
    results = report.evaluate_run(
        run_dir,
        experiment,
        audit,
        request.stages,
        surrogate=request.surrogate,
        out=out,
        first=lambda stages: audit_parts.attack(request, stages, run_dir),
    )
    lines = [f"{result['model']}: {result['verdict']}" for result in results]
    if not audit.whole:
        return "\n".join(lines)
    lines.append(f"Report: {out or run_dir / 'report' / 'report.md'}")
    lines += (
        [f"Page: {run_dir / PAGE}"]
        if out is None
        else [f"Page: {out / result['model'] / 'report.html'}" for result in results]
    )
    run = shlex.quote(str(run_dir))
    lines.append(f"Next: mtard-export --run_dir={run} --stage={experiment.stages[-1].name}")
    reports = {result["model"]: result for result in results}
    return judge.close("\n".join(lines), reports)


def _audit(
    request: requests.Eval,
    data: ImageData,
    threat: ThreatModel,
    seed: int,
    strategy: tf.distribute.Strategy,
) -> Audit:
    # After the run's own data were made: a suite replaces the configuration that made them.
    suite = gin_files.suite(request.suite or loading.default_suite(request.model))
    suite = suite.without(request.skip)
    return Audit(
        data,
        suite,
        threat,
        request.split,
        request.examples,
        request.batch_size,
        seed,
        audit_parts.part(request.share),
        strategy=strategy,
    )
