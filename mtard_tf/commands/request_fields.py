"""The fields of requests, what a flag says and takes; and a request as flags again."""

from __future__ import annotations

import dataclasses
from typing import Any


def flag(help: str, default: Any = None, **how: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **how})


def required(help: str, **how: Any) -> Any:
    return dataclasses.field(metadata={"help": help, "required": True, **how})


def config() -> Any:
    return flag("Gin file; repeatable, later ones win.", ())


def gin() -> Any:
    return flag("Gin binding, such as student/Stage.epochs=5; repeatable.", ())


def data_dir() -> Any:
    return flag("Prepared TFDS sets; default $TFDS_DATA_DIR or ~/tensorflow_datasets.", path=True)


def suite() -> Any:
    return flag("Name of the suite, or a .gin file.", "quick")


def from_probabilities() -> Any:
    return flag("The Keras model ends in softmax or sigmoid: remove it.", False)


def input_scale() -> Any:
    return flag("Pixel value of white for the Keras model; 255 for images of 0 to 255.", 1.0)


def channels_first() -> Any:
    return flag("The Keras model takes [batch, channels, height, width].", False)


def require() -> Any:
    return flag("Such as 'worst_case>=0.45' or 'student:clean>=80%'; exit code 3 if not met.", ())


def devices() -> Any:
    return flag("GPUs of this machine to use; default all.", minimum=1)


def workers() -> Any:
    return flag("HOST:PORT of each worker; default TF_CONFIG.", (), commas=True)


def index() -> Any:
    return flag("Index of this process in --workers, from 0.", minimum=0)


def executor() -> Any:
    return flag("Where --jobs run: local, or ray, on a cluster.", "local")


def ray_address() -> Any:
    return flag("HOST:PORT, auto or ray://HOST:PORT; default $RAY_ADDRESS or this machine.")


def task_cpus() -> Any:
    return flag("With ray: CPU cores per task.", 1, minimum=1)


def task_gpus() -> Any:
    return flag("With ray: GPUs per task; a fraction shares one.", 0.0, minimum=0.0)


def flags(request: Any) -> list[str]:
    """The flags that make a request, without those that have their default."""
    given = []
    for field in dataclasses.fields(request):
        value, name = getattr(request, field.name), field.metadata.get("name", field.name)
        if value == field.default:
            continue
        if isinstance(value, bool):
            given.append(f"--{'' if value else 'no'}{name}")
        elif isinstance(value, str | int | float):
            given.append(f"--{name}={value}")
        elif value and field.metadata.get("commas"):
            given.append(f"--{name}={','.join(value)}")
        else:
            given += [f"--{name}={one}" for one in value]
    return given
