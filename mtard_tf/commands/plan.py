"""`mtard-plan`: estimates the cost of a run, tunes its speed, or measures its teachers."""

from __future__ import annotations

import math
import os
import pathlib
import platform
import re
import sys
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files, registry
from mtard_tf.commands import requests
from mtard_tf.config import bindings, gin_files
from mtard_tf.data.image_data import (
    DEFAULT_VALIDATION_FRACTION,
    MAX_DEFAULT_VALIDATION,
    DataError,
    ImageData,
    Split,
)
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.models import model_files
from mtard_tf.planning import fitness, plan, rates, text, tune
from mtard_tf.planning.flops import PlanError
from mtard_tf.running.run_directory import existing, load_student, load_teacher, student_path

# Sets whose size is known where they are not prepared: image shape, classes, training images.
SIZES = {
    "mnist": ((28, 28, 1), 10, 60_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000),
    "cifar10": ((32, 32, 3), 10, 50_000),
    "cifar100": ((32, 32, 3), 100, 50_000),
    "tiny_imagenet": ((64, 64, 3), 200, 100_000),
}
EXAMPLES = 500  # on which teachers are measured
_SIZE_FLAGS = "--image_shape=64,64,3 --classes=200 --examples=100000"


def run(request: requests.Plan) -> str:
    """Plans an experiment; returns the text to print.

    Raises:
      ValueError: flags that do not go together, a value out of range, a teacher or data set that is
        not there, a step that cannot be counted, or a binding that nothing reads; one line.
    """
    gin_files.parse(request.config, request.gin)
    experiment = gin_files.experiment()
    if request.teachers:
        return teachers(experiment, request)
    _check(request)
    data = sizes(experiment, request)
    rows, tried = [], list[tune.Trial]()
    for built in plan.stages(experiment, data, _teacher_files(experiment, request, data)):
        if request.throughput is not None:
            rows.append(text.Row(built.plan, rates.given(request.throughput)))
            continue
        print(f"{built.plan.name}: timing its passes", file=sys.stderr, flush=True)
        rows.append(text.Row(built.plan, *rates.measure(built, data, request.check)))
        if request.tune:
            print(f"{built.plan.name}: trying settings", file=sys.stderr, flush=True)
            tried += tune.trials(built, data, experiment.threat)
    bindings.check_read(experiment.stages, apart_from="datasets")  # which need not be there
    device = _device(request, rows)
    return "\n\n".join([text.markdown(rows, device), *_tuned(request, tried, device)])


def _check(request: requests.Plan) -> None:
    """Raises PlanError for flags that do not go together, before anything is built."""
    if request.run_dir is not None or request.reference is not None:
        raise PlanError("--run_dir and --reference go with --teachers; add it, or leave them out.")
    timed = request.check or request.tune
    if request.throughput is not None and (timed or not 0 < request.throughput < math.inf):
        raise PlanError(
            f"--throughput is {request.throughput:g}; give TFLOP/s above 0, and neither --check "
            "nor --tune: only this device's steps can be timed."
        )
    if request.tune and pathlib.Path(request.tune).exists():
        raise PlanError(f"--tune={request.tune} is there; give the name of a new gin file.")


def _tuned(request: requests.Plan, tried: list[tune.Trial], device: str) -> list[str]:
    """Writes the file, if one was asked for; the table of what was tried, and what comes next."""
    if not request.tune:
        return []
    files.write_text(pathlib.Path(request.tune), tune.gin_text(tried, device))
    added = f"Written: {request.tune}. Next: mtard-train with --config={request.tune} after yours."
    return [tune.markdown(tried), added]


def teachers(experiment: Experiment, request: requests.Plan) -> str:
    """Measures how fit the robust teachers of an experiment are; returns the table.

    Raises:
      PlanError: there are none.
      RunError: a teacher or the reference is not there.
    """
    sources = fitness.robust_sources(experiment.stages)
    if not sources:
        raise PlanError("No stage has a teacher 'robust', so there is none to measure.")
    run_dir, data = pathlib.Path(request.run_dir or ""), experiment.dataset()
    digests = {source: model_files.file_digest(existing(run_dir, source)) for source in sources}
    models = {source: load_teacher(run_dir, source, data) for source in sources}
    count = min(request.examples or EXAMPLES, len(data.validation))
    split, on_reference = data.validation.take(np.arange(count)), None
    if request.reference is not None:
        reference = load_teacher(run_dir, request.reference, data)
        on_reference = fitness.attacked(reference, split, experiment.threat)
    found = {}
    for source, model in models.items():
        print(f"{source}: measuring on {count:,} images", file=sys.stderr, flush=True)
        found[source] = fitness.measure(model, split, experiment.threat, on_reference)
    if request.run_dir is not None:
        fitness.keep(run_dir, digests, found)
    return fitness.markdown(found)


def sizes(experiment: Experiment, request: requests.Plan) -> ImageData:
    """The experiment's data, or blank images of the same shape and number.

    Raises:
      PlanError: some of the flags for it but not all, or a shape that is none.
      DataError: the set is not prepared and of no known size.
    """
    flags = (request.image_shape, request.classes, request.examples)
    if any(flag is not None for flag in flags):
        shape = re.fullmatch(r"(\d+),(\d+),(\d+)", (request.image_shape or "").replace(" ", ""))
        if not shape or request.classes is None or request.examples is None:
            raise PlanError(
                f"--image_shape, --classes and --examples are {', '.join(map(str, flags))}; give "
                f"all three, such as {_SIZE_FLAGS}."
            )
        height, width, channels = map(int, shape.groups())
        return blank("given by flags", (height, width, channels), request.classes, request.examples)
    try:
        return experiment.dataset()
    except DataError as error:
        name = getattr(experiment.dataset, "__name__", "")
        if name in SIZES:
            return blank(name, *SIZES[name])
        reason = str(error).partition("\n")[0]  # gin adds the calls that an error went through
        raise DataError(f"{reason} Or give its size: {_SIZE_FLAGS}.") from error


def blank(name: str, image_shape: tuple[int, int, int], classes: int, examples: int) -> ImageData:
    """Black images in no memory, with validation held out as data sets do by default.

    Raises:
      PlanError: too few of anything.
    """
    held_out = min(int(examples * DEFAULT_VALIDATION_FRACTION), MAX_DEFAULT_VALIDATION)
    if min(*image_shape, classes, held_out) < 1:
        raise PlanError(
            f"Images {image_shape}, {classes} classes and {examples} examples are no data set; "
            f"give at least 1 each, and 10 examples, such as {_SIZE_FLAGS}."
        )

    def split(count: int) -> Split:
        images = np.broadcast_to(np.uint8(0), (count, *image_shape))
        return Split(images, np.broadcast_to(np.int32(0), (count,)))

    labels = tuple(map(str, range(classes)))
    return ImageData(name, labels, split(examples - held_out), split(held_out), split(1))


def _teacher_files(
    experiment: Experiment, request: requests.Plan, data: ImageData
) -> Mapping[str, keras.Model]:
    """The models of all teachers that are files: path -> model."""
    names = dict(entry.rpartition("=")[::2] for entry in request.stand_ins)
    earlier = {stage.name for stage in experiment.stages}
    paths = {path for stage in experiment.stages for path in stage.teachers.values()} - earlier
    for path in names:
        if path not in paths:
            raise PlanError(
                f"--stand_in is {path}={names[path]}, and no stage has a teacher {path!r}; files: "
                f"{', '.join(sorted(paths)) or 'none'}."
            )
    models = {}
    for path in sorted(paths):
        if path in names:
            make = registry.get("models", names[path].removeprefix("@").removeprefix("models."))
            models[path] = make(data.image_shape, data.num_classes)
        elif student_path(pathlib.Path(), path).exists():
            models[path] = load_student(pathlib.Path(), path)
        else:
            raise PlanError(
                f"{path} is missing; name a model of its size: --stand_in={path}=resnet18."
            )
    return models


def _device(request: requests.Plan, rows: Sequence[text.Row]) -> str:
    if request.throughput is not None:
        return f"At {request.throughput:g} TFLOP/s, as given."
    devices = tf.config.list_logical_devices()
    name = devices[-1].device_type
    if name == "CPU":
        name = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    slow, fast = (
        end(value for row in rows for value in row.rates.flops_per_second.values()) / 1e9
        for end in (min, max)
    )
    return f"Measured here, {name}: {slow:.0f} to {fast:.0f} GFLOP/s by stage and pass."
