"""The arguments of each command: one dataclass each, from which its flags are made.

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
    only: Sequence[str] = flag("Stage to run, if its teachers are finished; repeatable.", ())
    restart: Sequence[str] = flag("Stage to train again if it has changed; repeatable.", ())
    strategy: str | None = flag(
        "one_device, mirrored, multi_worker or tpu; default the file's, or one_device."
    )
    devices: int | None = fields.devices()
    workers: Sequence[str] = fields.workers()
    index: int | None = fields.index()
    deterministic: bool = flag(
        "Equal seed and cores give equal weights, to the bit; slower.", False
    )
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
    epsilon: str | None = flag("Radius of the attacks, such as 0.1 or 8/255; a run has its own.")
    norm: str | None = flag("linf or l2; default the run's, or linf.")
    surrogate: str | None = flag(
        "Model to craft transfer attacks on; default the robust teacher, or a file's float model.",
        path=True,
    )
    timeout: float = flag("Seconds to wait for a served --model.", 10.0, minimum=1e-3)
    max_requests: int | None = flag(
        "Stop the audit after this many requests to a served --model.", minimum=1
    )
    max_rate: float | None = flag("Requests per second to a served --model, at most.", minimum=1e-6)
    batch_size: int = flag("Images per batch.", 250, minimum=1)
    seed: int | None = flag(
        "Seed of the attacks; default the run's, or 0.", minimum=0, maximum=2**31 - 1
    )
    temperature: float | None = flag(
        "Temperature at which --model was trained; default 1.", minimum=1e-9
    )
    from_probabilities: bool = fields.from_probabilities()
    input_scale: float = fields.input_scale()
    normalization: str = flag("Normalization that --model expects, such as imagenet.", "raw")
    channels_first: bool = fields.channels_first()
    jobs: int = flag("Processes, each on its share of the cores.", 1, minimum=1)
    share: str = flag(
        "I/N: only this part of the batches, and no report; see docs/scaling.md.", "0/1"
    )
    strategy: str = flag(
        "one_device, mirrored or multi_worker: how to spread batches.", "one_device"
    )
    devices: int | None = fields.devices()
    workers: Sequence[str] = fields.workers()
    index: int | None = fields.index()
    out: str | None = flag("Folder of the report; default the run's.", path=True)
    require: Sequence[str] = fields.require()
    require_confident: bool = flag(
        "Requirements must also hold at the nearer end of the 95 % interval.", False
    )
    junit: str | None = flag("File to write requirements and findings to, as JUnit XML.", path=True)
    gate: bool = flag("Check requirements, also those of the suite.", True)


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
    curve: Sequence[str] = flag(
        "Row of a trade-off curve, from which the others are measured; repeatable.", ()
    )
    require: Sequence[str] = fields.require()
    require_confident: bool = flag(
        "Requirements must also hold at the nearer end of the 95 % interval.", False
    )
    junit: str | None = flag("File to write requirements and findings to, as JUnit XML.", path=True)
    gate: bool = flag("Check requirements, also those of the suite.", True)


@dataclasses.dataclass(frozen=True)
class Report:
    """mtard-report, beside the path that it takes."""

    out: str | None = flag("The file; default report.html or index.html of the path.", path=True)
    robustbench: bool = flag("Print an audit as a RobustBench claim instead.", False)


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
        "Images that calibrate litert_int8: clean, or mixed (clean and attacked).", "clean"
    )
    calibration_images: int = flag("Training images to calibrate litert_int8 with.", 300, minimum=1)
    max_robust_drop: float | None = flag(
        "Worst-case accuracy that litert_int8 may lose, such as 0.01; if it loses more, other ways "
        "to quantise are tried, then the export fails. Default: not measured.",
        minimum=0.0,
        maximum=1.0,
    )
    robust_examples: int = flag(
        "Validation images to measure --max_robust_drop on.", 200, minimum=1
    )
    min_agreement: float = flag(
        "Share of validation images on which a format that rounds must give the student's label.",
        0.98,
        minimum=0.0,
        maximum=1.0,
    )
    calibrate: bool = flag("Calibrate the probabilities by a temperature.", False)
    coverage: float = flag("Share of images that the confidence threshold accepts.", 0.9)
    hub_folder: str | None = flag(
        "Also write this folder, to push to Hugging Face's hub.", path=True
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """mtard-data."""

    data_dir: str | None = fields.data_dir()
    source: str | None = flag("Folder with the original files of the set.", path=True)
    out: str | None = flag(
        "images: NAME of the set; convert: the folder of sets; make-mini: the folder to write.",
        path=True,
    )
    size: int = flag("images: height and width in pixels.", 64, minimum=1)
    splits: str | None = flag(
        "images: percentages of train/validation/test; default 80/10/10, or the source's folders."
    )
    channels: int = flag("images: 3, or 1 for grey.", 3)
    skip_broken: bool = flag("images: skip files that cannot be decoded.", False)


@dataclasses.dataclass(frozen=True)
class Plan:
    """mtard-plan."""

    config: Sequence[str] = fields.config()
    gin: Sequence[str] = fields.gin()
    throughput: float | None = flag("TFLOP/s that the device achieves; default: measure.")
    check: bool = flag("Also time whole training steps.", False)
    tune: str | None = flag(
        "A gin file to write, with the settings that make steps faster on this device.", path=True
    )
    image_shape: str | None = flag("Such as 64,64,3, in place of reading a data set.")
    classes: int | None = flag("With --image_shape: number of labels.")
    examples: int | None = flag("Training images; with --teachers validation images, 500.")
    stand_ins: Sequence[str] = flag(
        "PATH=MODEL, a model in place of a missing teacher file; repeatable.", (), name="stand_in"
    )
    teachers: bool = flag("Instead, measure how well the robust teachers can teach.", False)
    run_dir: str | None = flag("With --teachers: their run; the results are kept there.", path=True)
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
    key: str | None = flag("Name of the state_dict, if the file has several.")
    allow_unused: bool = flag("Leave out tensors that the model has no place for.", False)
    probe: str | None = flag(
        "An .npz of `images` and the source's `logits`, to compare with.", path=True
    )
    verify: bool = flag("Fail without a --probe.", False)
    dataset: str | None = flag("Measure the accuracy on its test images.")
    data_dir: str | None = fields.data_dir()
    examples: int | None = flag(
        "At most N test images, the first ones; 0 for all.", 1000, minimum=0
    )
    batch_size: int = flag("Images per batch.", 100, minimum=1)
