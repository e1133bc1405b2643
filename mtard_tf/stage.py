"""A stage: one student, one distiller, teachers that are earlier stages or model files."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping

import gin
import keras

from mtard_tf import files
from mtard_tf.attacks.pgd import PGD
from mtard_tf.callbacks import Progress, Recorder, Validation
from mtard_tf.data.batches import steps_per_epoch, training_batches
from mtard_tf.data.image_data import ImageData
from mtard_tf.evaluation import Evaluator
from mtard_tf.optimizers import sgd
from mtard_tf.schedules import CONSTANT, Schedule, ScheduledRate, StepDecay
from mtard_tf.threat import ThreatModel


@dataclasses.dataclass(frozen=True)
class Stage:
    """What to train, on what terms. Defaults are those of the MTARD papers where they have one.

    Attributes:
      name: the stage's folder, its gin scope, and what later stages call it.
      distiller: factory of the distiller, such as `@distillers.bmtard`.
      model: factory of the student, such as `@models.resnet18`.
      teachers: role -> name of an earlier stage, or path of a `.keras` file.
      epochs: passes over the training split.
      batch_size: global batch size; the last batch of an epoch may be smaller.
      optimizer: factory, such as `@optimizers.sgd`, called with the scheduled learning rate.
      learning_rate: its base value.
      learning_rate_schedule: factor by epoch.
      rate_schedule: factor on balance rates by epoch; None follows the learning rate, as the
        official code does.
      epsilon_schedule: factor on the attack's epsilon by epoch.
      epsilon: radius in training, in [0, 1] pixel units; None takes the experiment's.
      validation_attack: measures robustness on the validation split; None for clean accuracy only.
      validate_every: epochs between two validations.
      validation_examples: how many validation images; None for all.
      select: "best" validation W-Robust, or "last", becomes `student.keras`.
      initial: name of an earlier stage, or path, whose weights the student starts from.

    Raises:
      ValueError: a number or choice that means nothing.
    """

    name: str
    distiller: Callable
    model: Callable
    teachers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    epochs: int = 300
    batch_size: int = 128
    optimizer: Callable = sgd
    learning_rate: float = 0.1
    learning_rate_schedule: Schedule = StepDecay()
    rate_schedule: Schedule | None = None
    epsilon_schedule: Schedule = CONSTANT
    epsilon: float | None = None
    validation_attack: Callable | None = PGD(num_steps=10)
    validate_every: int = 1
    validation_examples: int | None = None
    select: str = "best"
    initial: str | None = None

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "validate_every"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{self.name}/Stage.{field} is {value!r}; give a whole number, at least 1."
                )
        for field in ("learning_rate_schedule", "rate_schedule", "epsilon_schedule"):
            if isinstance(getattr(self, field), type) or inspect.isfunction(getattr(self, field)):
                raise ValueError(
                    f"{self.name}/Stage.{field} is a factory; write ... = @schedules.Name(), "
                    "with ()."
                )
        if self.select not in ("best", "last"):
            raise ValueError(f"{self.name}/Stage.select is {self.select!r}; use 'best' or 'last'.")

    def threat(self, threat: ThreatModel) -> ThreatModel:
        """The threat model of this stage's training."""
        return threat if self.epsilon is None else dataclasses.replace(threat, epsilon=self.epsilon)

    def build(
        self, data: ImageData, teachers: Mapping[str, keras.Model], threat: ThreatModel, seed: int
    ) -> keras.Model:
        """The compiled distiller with a new student.

        Factories run in the gin scope of the stage's name, so that
        `student/models.small_cnn.widths` is the student's alone.
        """
        keras.utils.set_random_seed(seed)
        steps = steps_per_epoch(len(data.train), self.batch_size)
        rate = ScheduledRate(self.learning_rate, self.learning_rate_schedule, steps)
        with gin.config_scope(self.name):
            distiller = self.distiller(
                self.model(data.image_shape, data.num_classes),
                teachers,
                threat=self.threat(threat),
                epsilon_schedule=self.epsilon_schedule,
                rate_schedule=self.rate_schedule or self.learning_rate_schedule,
                steps_per_epoch=steps,
                seed=seed,
            )
            optimizer = self.optimizer(rate)
        # XLA is slower than plain graphs for these nets on CPU (measured), and optional elsewhere.
        distiller.compile(optimizer=optimizer, jit_compile=False)
        return distiller


def train(
    stage: Stage,
    data: ImageData,
    teachers: Mapping[str, keras.Model],
    folder: pathlib.Path,
    *,
    threat: ThreatModel,
    seed: int,
    initial: keras.Model | None = None,
) -> dict:
    """Trains a stage and writes its folder; `stage.json`, written last, marks it finished.

    Returns:
      The content of `stage.json`.
    """
    started = time.time()
    files.remove(folder)  # what a stage that was cut off left: two runs must not mix
    folder.mkdir(parents=True)
    distiller = stage.build(data, teachers, threat, seed)
    if initial is not None:
        distiller.student.set_weights(initial.get_weights())
    validation = Validation(
        data.validation,
        Evaluator(distiller.student, threat),
        stage.validation_attack,
        folder / "checkpoints",
        stage.validate_every,
        stage.validation_examples,
    )
    steps = steps_per_epoch(len(data.train), stage.batch_size)
    distiller.fit(
        training_batches(data, batch_size=stage.batch_size, epochs=stage.epochs, seed=seed),
        epochs=stage.epochs,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=[validation, Recorder(folder), Progress(stage.name, stage.epochs, steps)],
    )
    with files.replacing(folder / "student.keras") as temporary:
        shutil.copyfile(folder / "checkpoints" / f"{stage.select}.keras", temporary)
    result = {
        "stage": stage.name,
        "teachers": dict(stage.teachers),
        "epochs": stage.epochs,
        "steps": stage.epochs * steps,
        "seed": seed,
        "selected": stage.select,
        "best": validation.best,
        "last": validation.last,
        "seconds": round(time.time() - started, 1),
    }
    files.write_text(folder / "operative_config.gin", gin.operative_config_str())
    files.write_json(folder / "stage.json", result)
    return result
