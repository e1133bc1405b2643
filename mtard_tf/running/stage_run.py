"""Trains a stage, or goes on with one, and writes its folder."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.config import canonical_text
from mtard_tf.data.batches import steps_per_epoch, to_float, training_tensors
from mtard_tf.distribute import strategies
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.precision import with_precision
from mtard_tf.models.twins import PROBED
from mtard_tf.reporting import run_files
from mtard_tf.reporting.progress import Progress
from mtard_tf.running import batches, checkpoints, extra_images, soft_labels
from mtard_tf.running.averaged_student import judged_student
from mtard_tf.running.callbacks import Saver, Validation
from mtard_tf.running.checkpoints import Checkpoints, State
from mtard_tf.running.context import Setting
from mtard_tf.running.guard import Guard
from mtard_tf.running.identity import computing, gone_on
from mtard_tf.running.recorder import Recorder
from mtard_tf.running.run_directory import note_data
from mtard_tf.running.teacher_check import check_teachers


def train(
    stage: Stage,
    teachers: Mapping[str, keras.Model],
    folder: pathlib.Path,
    setting: Setting,
    *,
    seed: int,
    sources: Mapping[str, str] | None = None,
    initial: keras.Model | None = None,
    identity: Mapping[str, Mapping[str, str]] | None = None,
) -> dict:
    """Trains a stage and writes its folder; `stage.json`, written last, marks it finished.

    A stage that was cut off goes on from its newest checkpoint, to the same weights.

    Args:
      stage: what to train.
      teachers: role -> model, made under the strategy's scope.
      folder: of the stage.
      setting: what it is trained on.
      seed: of the stage.
      sources: teacher or initial -> fingerprint of the file it came from.
      initial: model whose weights the student starts from.
      identity: what the stage is, from `identity.of_stage`; kept with every state.

    Returns:
      The content of `stage.json`.

    Raises:
      Preempted: the process was told to go; a checkpoint is written.
      NonFinite, NothingTrained, TeacherError: see `guard` and `teacher_check`.
      CheckpointError: the checkpoint is of another student.
    """
    strategy, data = setting.strategy, setting.data
    sources = dict(sources or {})
    with strategy.scope():
        distiller = stage.build(data, teachers, setting.threat, seed)
        if initial is not None:
            distiller.student.set_weights(initial.get_weights())
    run = _Run(stage, distiller, folder, setting, seed, sources, teachers, identity or {})
    run.resume()
    try:
        run.fit()
    finally:
        run.close()
    if strategies.is_chief(strategy):
        run.finish()
    strategies.wait_for_all(strategy)
    return run_files.stage(folder / "stage.json")


class _Run:
    """One stage on its way: distiller, callbacks and checkpoints that belong together."""

    def __init__(
        self,
        stage: Stage,
        distiller: keras.Model,
        folder: pathlib.Path,
        setting: Setting,
        seed: int,
        sources: Mapping[str, str],
        teachers: Mapping[str, keras.Model],
        identity: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._teachers = teachers
        data, strategy = setting.data, setting.strategy
        self._stage, self._distiller, self._folder = stage, distiller, folder
        self._setting, self._seed, self._sources = setting, seed, sources
        self._extra = setting.extras.get(stage.name)
        self._steps = steps_per_epoch(len(data.train), stage.batch_size)
        self._chief = strategies.is_chief(strategy)
        # Before teachers are asked, who would be looked at on random images, and before a state is
        # restored: a resumed training runs the same nets as one in one go.
        distiller.prove(to_float(data.train.images[:PROBED]))
        self._taught = check_teachers(stage, distiller, data, self._say)
        kept = folder / "checkpoints"
        self._checkpoints = Checkpoints(kept, stage.keep_checkpoints)
        judged, refresh = judged_student(
            distiller,
            stage.augmented(data, stage.epochs - 1),
            batch_size=stage.batch_size,
            seed=seed,
            strategy=strategy,
        )
        self._validation = Validation(
            data.validation,
            Evaluator(judged, setting.threat, strategy=strategy),
            stage.validation_attack,
            kept if self._chief else None,
            epochs=stage.epochs,
            every=stage.validate_every,
            examples=stage.validation_examples,
            refresh=refresh,
            patience=stage.patience,
            # What the average will reach, the student that stands in for it does not show; that of
            # one epoch is SWA's student itself.
            patience_start=0 if stage.averaging is None else stage.averaging.start + 1,
            weak_teachers=[role for role, found in self._taught.items() if found["at_chance"]],
            say=self._say,
        )
        self._recorder: Recorder | None = None  # the chief's, once it is known where to begin
        # Part of each state, and of `stage.json`.
        self._begun = dict(sources=sources, identity=identity, computed_on=[computing(strategy)])

    def resume(self) -> None:
        """Sets everything to the newest checkpoint, if there is one."""
        state = self._checkpoints.newest(self._say)
        step = 0 if state is None else state.step
        strategy = self._setting.strategy
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
            self._recorder = Recorder(self._folder)
        if state is not None:
            checkpoints.restore(self._distiller, state.values)
            with self._checkpoints.noted(state):
                self._go_on(state)

    def _go_on(self, state: State) -> None:
        self._validation.restore(state.notes["validation"])
        if self._recorder is not None:
            self._recorder.restore(state.notes["recorder"])
        self._say(f"goes on at step {state.step:,} of {self._stage.epochs * self._steps:,}.")
        before, now = state.notes["computed_on"], computing(self._setting.strategy)
        self._begun["computed_on"] = gone_on(before, now, self._say)

    def fit(self) -> None:
        """Trains what is left, epoch by epoch."""
        stage, distiller = self._stage, self._distiller
        guard = Guard(stage.name, self._steps, self._seed)
        callbacks = [guard, self._validation]
        if self._recorder is not None:
            callbacks += [self._recorder, Progress(stage.name, stage.epochs, self._steps)]
        callbacks.append(
            Saver(
                self._checkpoints if self._chief else None,
                self._notes,
                every=stage.checkpoint_every,
                steps=self._steps,
                told=self._setting.told,
                ask_every=10 if strategies.is_multi_worker(self._setting.strategy) else 1,
                guard=guard,
            )
        )
        callbacks += self._setting.callbacks
        extra = extra_images.labelled(
            stage, self._extra, self._teachers, self._sources, self._folder, self._setting
        )
        tensors = [*training_tensors(self._setting.data, extra), *self._tables()]
        for epoch in range(distiller.step // self._steps, stage.epochs):
            if self._validation.exhausted or distiller.stop_training:
                break
            step = distiller.step
            of_epoch = batches.training_data(
                self._setting.strategy,
                stage.augmented(self._setting.data, epoch),
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

    def _tables(self) -> list[tf.Tensor]:
        return soft_labels.tables(
            self._distiller,
            self._teachers,
            self._sources,
            self._folder,
            self._setting,
            self._extra,
        )

    def finish(self) -> None:
        """Writes what marks the stage as finished, and removes what only a resumption needs."""
        stage, folder = self._stage, self._folder
        chosen = keras.models.load_model(
            folder / "checkpoints" / f"{stage.select}.keras", compile=False
        )
        with files.replacing(folder / "student.keras") as temporary:
            with_precision(chosen, "float32").save(temporary)
        files.write_text(folder / "operative_config.gin", canonical_text.operative())
        result = {
            "stage": stage.name,
            "distiller": type(self._distiller).__name__,
            "dataset": note_data(folder, self._setting.data),
            "teachers": dict(stage.teachers),
            "initial": stage.initial,
            **self._begun,
            "epochs": self._distiller.step // self._steps,
            "steps": self._distiller.step,
            "seed": self._seed,
            "selected": stage.select,
            "temperature": float(self._distiller.temperature),
            "best": self._validation.best,
            "last": self._validation.last,
        }
        if self._extra is not None:
            share, labels = stage.extra_share, stage.extra_labels
            result["extra"] = {"images": len(self._extra.split), "share": share, "labels": labels}
        if self._taught:
            result["teachers_validation"] = self._taught
        if result["epochs"] < stage.epochs:
            result["stopped_early"] = {"planned_epochs": stage.epochs, "patience": stage.patience}
        files.write_json(folder / "stage.json", result)
        self._checkpoints.clear()
        soft_labels.remove(folder)

    def close(self) -> None:
        """Closes the files that a training keeps open."""
        if self._recorder is not None:
            self._recorder.close()

    def _clear(self) -> None:
        """Makes room for a beginning; what has a checkpoint, though none is whole, is kept."""
        if self._checkpoints.any():
            aside = files.set_aside(self._folder, "damaged")
            self._say(f"no checkpoint is whole; begins anew, and what was there is in {aside}.")
        files.remove(self._folder)  # what a stage left that never came to a checkpoint

    def _notes(self) -> dict[str, Any]:
        recorder = {} if self._recorder is None else self._recorder.notes
        return {**self._begun, "validation": self._validation.notes, "recorder": recorder}

    def _say(self, line: str) -> None:
        if self._chief:
            print(f"{self._stage.name}: {line}", file=sys.stderr, flush=True)
