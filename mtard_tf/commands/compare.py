"""`mtard-compare`: trains the stages that are not trained yet, audits them, writes the table."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from mtard_tf import files
from mtard_tf.auditing.audit import Audit
from mtard_tf.auditing.suite import Suite
from mtard_tf.commands import audit_parts, executors, gate, requests
from mtard_tf.comparing import audits, comparison, curve, temperatures, text
from mtard_tf.comparing.audits import ComparisonError
from mtard_tf.comparing.comparison import WORST
from mtard_tf.config import gin_files
from mtard_tf.distribute import strategies
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.models.global_state import fresh_names
from mtard_tf.processes import jobs
from mtard_tf.reporting import pages, plots
from mtard_tf.running import experiment_run, report, side_by_side
from mtard_tf.running.run_directory import claim, note_stages, student_path


def run(request: requests.Compare) -> str:
    """Does what the flags ask for; returns the lines to print.

    Raises:
      ValueError: flags that name nothing of the run, or, once the others have ended and the table
        of what is there is written, a stage or an audit that failed; the message is one line.
      Unmet: a requirement is not met.
      Preempted: the process was preempted; the same command resumes.
    """
    run_dir, pools = pathlib.Path(request.run_dir), executors.pools(request)
    given = bool(request.config or request.gin)
    experiment = gin_files.start_or_resume(run_dir, request.config, request.gin)
    with gin_files.apart():  # after the run, whose plugins it may use
        suite = gin_files.suite(request.suite).without(request.skip)
    names = [stage.name for stage in experiment.stages]
    for stage in request.stages:
        experiment_run.check_stage(experiment, stage)
    if request.baseline is not None:
        comparison.check_row(names, request.baseline)
        if request.jobs:
            known = [one.name for one in audits.load(run_dir, names)]
            wanted = request.stages or names
            to_come = [name for name in wanted if given or student_path(run_dir, name).exists()]
            comparison.check_audited([*to_come, *known], request.baseline)
    curve.check(names, request.curve)
    judge = _gate(request, experiment, suite)
    if request.jobs:
        try:
            _train_and_audit(request, experiment, suite, pools)
        except jobs.JobError as error:
            raise jobs.JobError(f"{error} {_table_of_the_rest(request, names)}") from error
    elif given:
        claim(run_dir, gin_files.text())
    summary = "\n".join(write(run_dir, names, request.baseline, request.attack, request.curve))
    reports = {one.name: one.report for one in audits.load(run_dir, names)}
    return judge.close(summary, reports)


def _gate(request: requests.Compare, experiment: Experiment, suite: Suite) -> gate.Gate:
    """The requirements: of the stages given, or of those that teach no other."""
    if not (request.require or suite.require):
        return gate.Gate([], [], False, request.junit)
    names = [stage.name for stage in experiment.stages]
    default = request.stages or gate.students(experiment.stages)
    return gate.read(request, suite, experiment.dataset().num_classes, names, default)


def _table_of_the_rest(request: requests.Compare, names: Sequence[str]) -> str:
    """Writes what there is after a failure, which may be the baseline's; returns one sentence."""
    run_dir, problem = pathlib.Path(request.run_dir), ""
    asked = (request.baseline, request.attack, request.curve)
    for baseline, attack, through in (asked, (None, WORST, ())):
        try:
            return f"The rest is compared. {write(run_dir, names, baseline, attack, through)[-1]}."
        except ComparisonError as error:
            problem = str(error)
    return f"There is no table: {problem}"


def _train_and_audit(
    request: requests.Compare, experiment: Experiment, suite: Suite, pools: jobs.Pools | None
) -> None:
    run_dir = pathlib.Path(request.run_dir)
    data = experiment.dataset()
    _check_attack(request.attack, suite.names_for(data.num_classes))
    threat, seed = experiment.threat, experiment.seed
    audit = Audit(data, suite, threat, examples=request.examples, seed=seed)
    training: list[jobs.Job] = []
    if request.config or request.gin:
        if experiment.strategy != "one_device":
            raise ComparisonError(
                f"Experiment.strategy is {experiment.strategy!r}; mtard-compare gives each stage "
                "one device: train with mtard-train first, and compare without --config."
            )
        one_device = strategies.create("one_device")
        stages = experiment.stages
        extras = experiment_run.check(experiment, data, one_device, stages, run_dir)
        claim(run_dir, gin_files.text())
        note_stages(run_dir, experiment)
        known = experiment_run.identities_of(experiment, data, extras)
        training = side_by_side.training_jobs(stages, run_dir, known)
    with fresh_names():
        auditing = _audit_jobs(run_dir, experiment, audit, request, {job.name for job in training})
    side_by_side.run_jobs(run_dir, [*training, *auditing], request.jobs, pools)
    if auditing:
        report.write_report(run_dir, experiment)


def write(
    run_dir: pathlib.Path,
    names: Sequence[str],
    baseline: str | None = None,
    attack: str = WORST,
    through: Sequence[str] = (),
) -> list[str]:
    """Writes `comparison/` from what the stages and their audits left; returns lines that sum up.

    Args:
      run_dir: of the run.
      names: of all its stages.
      baseline: a row, or None.
      attack: of the trade-off figure; rows that were not attacked with it are not in it.
      through: rows of a trade-off curve, or none.

    Raises:
      ComparisonError: see `comparison.compare` and `curve.above`.
    """
    audited = audits.load(run_dir, names)
    compared = comparison.compare(audited, names, baseline)
    _check_attack(attack, compared["attacks"])
    if through:
        teachers = {row["row"] for row in compared["rows"] if row["teacher"]} - set(through)
        students = [one for one in audited if audits.row_of(one.name) not in teachers]
        shared = compared["worst_case_of"]
        compared["curve"] = curve.above(students, through, attack, shared)
    folder = run_dir / "comparison"
    points = temperatures.by_temperature(audited)
    figures = ["trade_off.png"]
    shown = _points(compared, attack)
    if not shown:
        raise ComparisonError(
            f"No row has all its replicates attacked with {attack}; plot another."
        )
    on_curve = compared["curve"]["curve"] if through else ()
    plots.trade_off(shown, attack, folder / figures[0], on_curve)
    if points:
        figures += temperatures.write(points, folder)
    files.write_text(folder / "table.md", text.markdown(compared, figures))
    files.write_text(folder / "table.csv", text.table_csv(compared))
    files.write_text(folder / "table.tex", text.latex(compared))
    summary = text.summary(compared)
    content = {**compared, "temperatures": points, "summary": summary}
    files.write_json(folder / "comparison.json", content)
    pages.refresh(folder)
    return [*summary, f"Page: {folder / 'index.html'}", f"Table: {folder / 'table.md'}"]


def _audit_jobs(
    run_dir: pathlib.Path,
    experiment: Experiment,
    audit: Audit,
    request: requests.Compare,
    to_train: set[str],
) -> list[jobs.Job]:
    """One job per stage that is not audited so yet; it waits for the training of what it loads.

    Raises:
      ComparisonError: a stage asked for by name is not trained, or has an audit that holds more.
    """
    own = requests.Eval(
        run_dir=str(run_dir),
        # Named, so that no process rewrites the report over all stages while others read it.
        out=str(run_dir / "evaluation"),
        suite=request.suite,
        skip=request.skip,
        examples=request.examples,
        gate=False,
    )
    result = []
    for stage in experiment.stages:
        if request.stages and stage.name not in request.stages:
            continue
        source = report.surrogate_of(experiment, stage.name) if audit.suite.transfer else None
        needs = [stage.name, *([source] if source else [])]
        missing = [name for name in needs if not student_path(run_dir, name).exists()]
        if absent := [name for name in missing if name not in to_train]:
            if request.stages:
                raise ComparisonError(
                    f"{absent[0]} is not trained, so {stage.name} cannot be audited; train it with "
                    f"--config, or leave {stage.name} out of --stage."
                )
            continue  # another process trains it, or it was interrupted
        if not to_train & set(needs) and report.is_current(run_dir, experiment, audit, stage.name):
            continue
        if stage.name not in to_train:
            suite = audit.suite if source else audit.suite.without(list(audit.suite.transfer))
            _check_replaces(run_dir, stage.name, suite, audit.data.num_classes)
        name = f"{stage.name}.audit"
        command = audit_parts.command(dataclasses.replace(own, stages=(stage.name,)))
        result.append(jobs.Job(name, command, needs))
    return result


def _check_replaces(run_dir: pathlib.Path, stage: str, suite: Suite, classes: int) -> None:
    """Refuses to put an audit in the place of one of the same student that has more in it."""
    for former in audits.load(run_dir, [stage]):
        named = {*suite.names_for(classes), *suite.measures}
        held = [*former.report["attacks"], *former.report.get("measures", ())]
        if lost := [name for name in held if name not in named]:
            raise ComparisonError(
                f"The audit of {stage} has {', '.join(lost)} too and would be replaced by one "
                f"without; give the --suite, --skip and --examples={former.report['examples']} of "
                f"that audit, --jobs=0 for the table alone, or remove "
                f"{run_dir / 'evaluation' / stage}."
            )


def _check_attack(attack: str, known: Sequence[str]) -> None:
    if attack not in (*known, WORST):
        raise ComparisonError(
            f"There is no attack {attack!r} to plot; the suite has {', '.join((*known, WORST))}."
        )


def _points(compared: dict, attack: str) -> list[dict[str, Any]]:
    """What the trade-off figure shows of each row."""
    return [
        {
            "label": row["row"],
            "clean": row["clean"]["mean"],
            "clean_deviation": row["clean"]["deviation"],
            "robust": row["robust"][attack]["mean"],
            "robust_deviation": row["robust"][attack]["deviation"],
        }
        for row in compared["rows"]
        if attack in row["robust"]
    ]
