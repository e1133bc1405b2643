"""Trains a stage, or resumes one, and writes its folder."""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from mtard_tf import files
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.data.batches import steps_per_epoch, to_float, training_tensors
from mtard_tf.distribute import strategies
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.twins import PROBED
from mtard_tf.reporting import run_files, run_page
from mtard_tf.running import batches, checkpoints, extra_images, soft_labels
from mtard_tf.running.averaged_student import validated_student
from mtard_tf.running.callbacks import Saver, Validation
from mtard_tf.running.checkpoints import Checkpoints, State
from mtard_tf.running.context import RunContext
from mtard_tf.running.guard import Guard, watch
from mtard_tf.running.machine import computing, gone_on, settle
from mtard_tf.running.recorder import Progress, Recorder
from mtard_tf.running.stage_result import write_result
from mtard_tf.running.teacher_check import check_teachers


def train(
    stage: Stage,
    teachers: Mapping[str, keras.Model],
    folder: pathlib.Path,
    context: RunContext,
    *,
    seed: int,
    sources: Mapping[str, str] | None = None,
    initial: keras.Model | None = None,
    identity: Mapping[str, Mapping[str, str]] | None = None,
) -> dict:
    """Trains a stage and writes its folder; `stage.json`, written last, marks it finished.

    A stage that was interrupted resumes from its newest checkpoint, to the same weights.

    Args:
      teachers: role -> model, made under the strategy's scope.
      folder: of the stage.
      context: what it is trained on.
      seed: of the stage.
      sources: teacher or initial -> fingerprint of the file it came from.
      initial: model whose weights the student starts from.
      identity: what the stage is, from `identity.of_stage`; kept with every state.

    Returns:
      The content of `stage.json`.

    Raises:
      Preempted: the process was preempted; a checkpoint is written.
      NonFinite, NothingTrained, TeacherError, CheckpointError: see the modules of these.
    """
    strategy = context.strategy
    with strategy.scope():
        distiller = stage.build(context.data, teachers, context.threat, seed)
        if initial is not None:
            distiller.student.set_weights(initial.get_weights())
    begun = {"sources": dict(sources or {}), "identity": identity or {}}
    run = _Run(stage, distiller, folder, context, seed, begun)
    run.resume()
    with contextlib.closing(run):
        run.fit(teachers)
    if strategies.is_chief(strategy):
        run.finish()
    strategies.wait_for_all(strategy)
    return run_files.stage(folder / "stage.json")


class _Run:
    """The training of one stage: its distiller, callbacks and checkpoints."""

    def __init__(
        self,
        stage: Stage,
        distiller: keras.Model,
        folder: pathlib.Path,
        context: RunContext,
        seed: int,
        begun: Mapping[str, Any],
    ) -> None:
        self._stage, self._distiller, self._folder = stage, distiller, folder
        self._context, self._seed, data = context, seed, context.data
        self._extra = context.extras.get(stage.name)
        self._steps = steps_per_epoch(len(data.train), stage.batch_size)
        self._chief = strategies.is_chief(context.strategy)
        # Before teachers are asked, which would otherwise be compared on random images, and before
        # a state is restored: a resumed training runs the same nets as an uninterrupted one.
        distiller.prove(to_float(data.train.images[:PROBED]))
        settle(stage, distiller, data, self._say)
        self._taught = check_teachers(stage, distiller, data, self._say)
        self._checkpoints = Checkpoints(folder / "checkpoints", stage.keep_checkpoints)
        self._validation = self._validating()
        self._recorder: Recorder | None = None  # the chief's, once it is known where to begin
        self._progress = Progress(stage.name, stage.epochs, self._steps)
        now = computing(stage, context.strategy, distiller.jit_compile)
        self._begun = {**begun, "computed_on": [now]}  # part of each state, and of `stage.json`

    def _validating(self) -> Validation:
        stage, data, strategy = self._stage, self._context.data, self._context.strategy
        validated, refresh = validated_student(
            self._distiller,
            stage.augmented(data, stage.epochs - 1),
            batch_size=stage.batch_size,
            seed=self._seed,
            strategy=strategy,
        )
        return Validation(
            data.validation,
            Evaluator(validated, self._context.threat, strategy=strategy),
            stage.validation_attack,
            self._folder / "checkpoints" if self._chief else None,
            epochs=stage.epochs,
            every=stage.validate_every,
            examples=stage.validation_examples,
            watch=watch(stage.on_overfitting, self._folder, self._say, self._chief),
            refresh=refresh,
            patience=stage.patience,
            # Until it has seen two epochs an average is almost the student itself.
            patience_start=0 if stage.averaging is None else stage.averaging.start + 1,
            weak_teachers=[role for role, found in self._taught.items() if found["at_chance"]],
            say=self._say,
        )

    def resume(self) -> None:
        """Sets everything to the newest checkpoint, if there is one."""
        state = self._checkpoints.newest(self._say)
        step = 0 if state is None else state.step
        strategy = self._context.strategy
        total = strategies.total_over_workers(strategy, np.array([step], np.int64))[0]
        if total != step * strategies.worker_count(strategy):
            raise checkpoints.CheckpointError(
                f"{self._folder}: the workers see different checkpoints; --run_dir must be one "
                "folder that all workers share."
            )
        if self._chief:
            if state is None:
                self._clear()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._recorder = Recorder(self._folder, self._begun["identity"].get("settings"))
        if state is not None:
            checkpoints.restore(self._distiller, state.values)
            with self._checkpoints.noted(state):
                self._restore(state)

    def _restore(self, state: State) -> None:
        self._validation.restore(state.notes["validation"])
        if self._recorder is not None:
            self._recorder.restore(state.notes["recorder"])
        self._say(f"resumes at step {state.step:,} of {self._stage.epochs * self._steps:,}.")
        before, now = state.notes["computed_on"], self._begun["computed_on"][0]
        self._begun["computed_on"] = gone_on(before, now, self._say)

    def fit(self, teachers: Mapping[str, keras.Model]) -> None:
        """Trains what is left, epoch by epoch."""
        stage, distiller = self._stage, self._distiller
        guard = Guard(stage.name, self._steps, self._seed)
        callbacks = self._callbacks(guard)
        given = teachers, self._begun["sources"], self._folder, self._context
        extra = extra_images.labelled(stage, self._extra, *given)
        tables = soft_labels.tables(distiller, *given, self._extra)
        tensors = [*training_tensors(self._context.data, extra), *tables]
        for epoch in range(distiller.step // self._steps, stage.epochs):
            if self._validation.exhausted or distiller.stop_training:
                break
            step = distiller.step
            of_epoch = batches.training_data(
                self._context.strategy,
                stage.augmented(self._context.data, epoch),
                batch_size=stage.batch_size,
                epoch=epoch,
                seed=self._seed,
                start_step=step,
                tensors=tensors,
                extra=extra,
            )
            with guard.judging():
                distiller.fit(
                    of_epoch,
                    initial_epoch=epoch,
                    epochs=epoch + 1,
                    steps_per_epoch=(epoch + 1) * self._steps - step,
                    shuffle=False,
                    verbose=0,
                    callbacks=list(callbacks),
                )
        guard.check_end(distiller)

    def _callbacks(self, guard: Guard) -> list[keras.callbacks.Callback]:
        saver = Saver(
            self._checkpoints if self._chief else None,
            self._notes,
            every=self._stage.checkpoint_every,
            steps=self._steps,
            preempted=self._context.preempted,
            ask_every=10 if strategies.is_multi_worker(self._context.strategy) else 1,
            guard=guard,
        )
        seen = []
        if self._recorder is not None:
            page = keras.callbacks.LambdaCallback(
                on_epoch_end=lambda *_: run_page.refresh(self._folder.parent)
            )
            seen = [self._recorder, self._progress, page]
        return [guard, self._validation, *seen, saver, *self._context.callbacks]

    def finish(self) -> None:
        """Writes what marks the stage as finished, and removes what only a resumption needs."""
        write_result(
            self._folder,
            self._stage,
            self._distiller,
            self._context.data,
            {**self._begun, "seed": self._seed, "taught": self._taught, "extra": self._extra},
            self._validation,
        )
        self._checkpoints.clear()
        soft_labels.remove(self._folder)

    def close(self) -> None:
        """Closes the files that a training keeps open."""
        self._progress.close()
        if self._recorder is not None:
            self._recorder.close()

    def _clear(self) -> None:
        """Empties the folder for a new start; checkpoints that are all damaged are moved aside."""
        if self._checkpoints.any():
            aside = files.set_aside(self._folder, "damaged")
            self._say(f"no checkpoint is intact; starts again, the old files are in {aside}.")
        files.remove(self._folder)  # what a stage left that never wrote a checkpoint

    def _notes(self) -> dict[str, Any]:
        recorder = {} if self._recorder is None else self._recorder.notes
        return {**self._begun, "validation": self._validation.notes, "recorder": recorder}

    def _say(self, line: str) -> None:
        if self._chief:
            print(f"{self._stage.name}: {line}", file=sys.stderr, flush=True)
