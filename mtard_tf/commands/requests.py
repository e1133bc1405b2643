"""What can be asked of each command: one dataclass each, from which its flags are made.

A field is a flag of the same name. Its metadata hold the flag's `help`, and, where there are any,
another `name`, the `minimum` and `maximum` of a number, and whether a text is a `path`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtard_tf.commands import request_fields as fields
from mtard_tf.commands.request_fields import flag, required


@dataclasses.dataclass(frozen=True)
class Train:
    """mtard-train."""

    run_dir: str = required("Directory of the run.", path=True)
    config: Sequence[str] = fields.config()
    gin: Sequence[str] = fields.gin()
    jobs: int = flag("Processes, each for a stage on its share of the cores.", 1, minimum=1)
    only: Sequence[str] = flag("Stage to run, its teachers finished; repeatable.", ())
    restart: Sequence[str] = flag("Stage to begin anew if it is another now; repeatable.", ())
    strategy: str | None = flag(
        "one_device, mirrored, multi_worker or tpu; default the file's, or one_device."
    )
    devices: int | None = fields.devices()
    workers: Sequence[str] = fields.workers()
    index: int | None = fields.index()
    deterministic: bool = flag("Same seed and cores, same weights to the bit; slower.", False)
    executor: str = fields.executor()
    ray_address: str | None = fields.ray_address()
    task_cpus: int = fields.task_cpus()
    task_gpus: float = fields.task_gpus()


@dataclasses.dataclass(frozen=True)
class Eval:
    """mtard-eval: of a model, or of the stages of a run, which has its own data and threat."""

    model: str | None = flag(
        "A .keras, .tflite or .onnx file, a SavedModel, or http://HOST:PORT/v1/models/NAME.",
        path=True,
    )
    run_dir: str | None = flag("Directory of a run, instead of --model.", path=True)
    stages: Sequence[str] = flag("Stage of the run; repeatable, default all.", (), name="stage")
    dataset: str | None = flag("Name of the data set; a run has its own.")
    data_dir: str | None = fields.data_dir()
    split: str = flag("test, validation or train.", "test")
    examples: int | None = flag("At most N images, the first ones; default all.", minimum=1)
    suite: str | None = flag(
        "Name of the suite, or a .gin file; default quick, or artefact without gradients."
    )
    skip: Sequence[str] = flag("Attack or measure to leave out; repeatable.", ())
    epsilon: str | None = flag("Such as 0.1 or 8/255; a run has its own.")
    norm: str | None = flag("linf or l2; default the run's, or linf.")
    surrogate: str | None = flag(
        "For transfer attacks; default the robust teacher, or the float model beside a file.",
        path=True,
    )
    timeout: float = flag("Seconds for an answer of a served --model.", 10.0, minimum=1e-3)
    max_requests: int | None = flag("Of a served --model; then the audit stops.", minimum=1)
    max_rate: float | None = flag("Requests a second to a served --model.", minimum=1e-6)
    batch_size: int = flag("Images at a time.", 250, minimum=1)
    seed: int | None = flag(
        "Of the attacks; default the run's, or 0.", minimum=0, maximum=2**31 - 1
    )
    temperature: float | None = flag("Of --model's training; default 1.", minimum=1e-9)
    from_probabilities: bool = fields.from_probabilities()
    input_scale: float = fields.input_scale()
    normalization: str = flag("Mean and deviation that --model expects taken out: imagenet.", "raw")
    channels_first: bool = fields.channels_first()
    share: str = flag(
        "I/N: only this part of the batches, and no report; see docs/scaling.md.", "0/1"
    )
    strategy: str = flag("one_device, mirrored or multi_worker: spreads batches.", "one_device")
    devices: int | None = fields.devices()
    workers: Sequence[str] = fields.workers()
    index: int | None = fields.index()
    out: str | None = flag("Folder of the report; default the run's.", path=True)
    require: Sequence[str] = fields.require()
    require_confident: bool = flag("The nearer end of the 95 % interval must hold, too.", False)
    junit: str | None = flag("Writes requirements and findings as JUnit XML here.", path=True)
    gate: bool = flag("Judge requirements, also those of the suite.", True)


@dataclasses.dataclass(frozen=True)
class Compare:
    """mtard-compare."""

    run_dir: str = required("Directory of the run.", path=True)
    config: Sequence[str] = fields.config()
    gin: Sequence[str] = fields.gin()
    jobs: int = flag(
        "Processes, each on its share of the cores; 0 only writes the table.", 1, minimum=0
    )
    executor: str = fields.executor()
    ray_address: str | None = fields.ray_address()
    task_cpus: int = fields.task_cpus()
    task_gpus: float = fields.task_gpus()
    suite: str = fields.suite()
    skip: Sequence[str] = flag("Attack of the suite to leave out; repeatable.", ())
    examples: int | None = flag("At most N images, the first ones; default all.", minimum=1)
    stages: Sequence[str] = flag("Stage to audit; repeatable, default all.", (), name="stage")
    baseline: str | None = flag("Row that the others are compared with.")
    attack: str = flag("Attack whose accuracy the trade-off figure shows.", "worst_case")
    require: Sequence[str] = fields.require()
    require_confident: bool = flag("The nearer end of the 95 % interval must hold, too.", False)
    junit: str | None = flag("Writes requirements and findings as JUnit XML here.", path=True)
    gate: bool = flag("Judge requirements, also those of the suite.", True)


@dataclasses.dataclass(frozen=True)
class Report:
    """mtard-report, beside the path that it takes."""

    out: str | None = flag("The file; default report.html or index.html of the path.", path=True)
    robustbench: bool = flag("Prints an audit as RobustBench's claim form instead.", False)


@dataclasses.dataclass(frozen=True)
class Export:
    """mtard-export."""

    run_dir: str = required("Directory of a finished run.", path=True)
    stage: str | None = flag("Stage to export; default the last.")
    formats: Sequence[str] = flag(
        "saved_model, litert, litert_float16, litert_int8 or onnx; repeatable.",
        ("saved_model",),
        name="format",
    )
    calibration: str = flag(
        "Images that give litert_int8 its ranges: clean, or mixed (attacked ones as well).", "clean"
    )
    calibration_images: int = flag("Training images for it.", 300, minimum=1)
    max_robust_drop: float | None = flag(
        "Share of images that litert_int8 may lose in the worst case, such as 0.01; tries other "
        "ways, then refuses. Default: not measured.",
        minimum=0.0,
        maximum=1.0,
    )
    robust_examples: int = flag("Validation images for it.", 200, minimum=1)
    min_agreement: float = flag(
        "Share of validation images on which a format that rounds must give the student's label.",
        0.98,
        minimum=0.0,
        maximum=1.0,
    )
    calibrate: bool = flag("Fit the temperature of its probabilities.", False)
    coverage: float = flag("Share of images that its threshold of confidence keeps.", 0.9)
    hub_folder: str | None = flag("Also a folder to be pushed to Hugging Face's hub.", path=True)


@dataclasses.dataclass(frozen=True)
class Data:
    """mtard-data."""

    data_dir: str | None = fields.data_dir()
    source: str | None = flag("The folder with the set's own files.", path=True)
    out: str | None = flag(
        "images: NAME of the set; convert: the folder of sets; make-mini: the folder to write.",
        path=True,
    )
    size: int = flag("images: height and width in pixels.", 64, minimum=1)
    splits: str | None = flag(
        "images: percentages of train/validation/test; default 80/10/10, or the source's folders."
    )
    channels: int = flag("images: 3, or 1 for grey.", 3)
    skip_broken: bool = flag("images: leave out what cannot be decoded.", False)


@dataclasses.dataclass(frozen=True)
class Plan:
    """mtard-plan."""

    config: Sequence[str] = fields.config()
    gin: Sequence[str] = fields.gin()
    throughput: float | None = flag("TFLOP/s that the device achieves; default: measure.")
    check: bool = flag("Time whole training steps, too.", False)
    tune: str | None = flag(
        "A gin file to write: settings that make steps faster here, each timed.", path=True
    )
    image_shape: str | None = flag("Such as 64,64,3: reads no data set.")
    classes: int | None = flag("With --image_shape: number of labels.")
    examples: int | None = flag("Training images; with --teachers validation images, 500.")
    stand_ins: Sequence[str] = flag(
        "PATH=MODEL for a teacher file that is not here; repeatable.", (), name="stand_in"
    )
    teachers: bool = flag("Measure how fit the robust teachers are to teach, instead.", False)
    run_dir: str | None = flag("With --teachers: their run; keeps what was found.", path=True)
    reference: str | None = flag("With --teachers: a small robust student.", path=True)


@dataclasses.dataclass(frozen=True)
class Import:
    """mtard-import."""

    source: str = required("The file of weights; or a .keras file to adapt.", path=True)
    out: str = required("The .keras file to write.", path=True)
    model: str | None = flag("models.NAME, or a .keras file with the same layers.", path=True)
    classes: int = flag("Number of logits.", 10, minimum=1)
    image_shape: str = flag("height,width,channels.", "32,32,3")
    normalization: str | None = flag(
        "raw, cifar10, cifar10_chenyaofo, cifar100, imagenet, or a mean and a deviation per "
        "channel: 0.5,0.5,0.5/0.2,0.2,0.2. Default the model's own, raw for most."
    )
    from_probabilities: bool = fields.from_probabilities()
    input_scale: float = fields.input_scale()
    channels_first: bool = fields.channels_first()
    gin: Sequence[str] = flag("Binding of the model; repeatable.", ())
    key: str | None = flag("Which of several state_dicts in the file.")
    allow_unused: bool = flag("Leave out what has no place.", False)
    probe: str | None = flag("An .npz of `images` and the source's `logits`.", path=True)
    verify: bool = flag("Insist on a --probe.", False)
    dataset: str | None = flag("Measure the accuracy on its test images.")
    data_dir: str | None = fields.data_dir()
    examples: int | None = flag(
        "At most N test images, the first ones; 0 for all.", 1000, minimum=0
    )
    batch_size: int = flag("Images at a time.", 100, minimum=1)
