"""Run files that mean nothing, damaged run directories and mistaken flags for `bad_inputs.py`."""

from __future__ import annotations

import json
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np
from bad_weights import Runs
from forked_commands import RUN, BadInput

Make = Callable[[pathlib.Path], object]


def wrote(name: str, content: str | bytes) -> Make:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, size: int) -> Make:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def edited(name: str, change: Callable[[dict], object]) -> Make:
    def make(folder: pathlib.Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return make


def arrays(name: str, **changed: np.ndarray) -> Make:
    def make(folder: pathlib.Path) -> None:
        with np.load(folder / name) as file:
            held = dict(file) | changed
        np.savez(folder / name, **held)

    return make


def unfinished(change: Make) -> Make:
    """The run with a checkpoint that would be gone on with, changed."""

    def make(folder: pathlib.Path) -> None:
        state = folder / "run" / "net" / "checkpoints" / "state-000000002.npz"
        state.parent.mkdir(exist_ok=True)
        (folder / "run" / "net" / "stage.json").unlink()
        notes = np.frombuffer(b'{"record": {}}', np.uint8)
        np.savez(state, **{"00000": np.zeros(3, np.float32), "notes": notes})
        change(state)

    return make


def _config(name: str, text: str | bytes, says: str = "") -> BadInput:
    flags = ("--config=bad.gin", "--run_dir=new")
    return BadInput(f"gin: {name}", "train", flags, wrote("bad.gin", text), says=says)


def _bound(name: str, binding: str, says: str = "") -> BadInput:
    flags = ("--config=run.gin", "--run_dir=new", f"--gin={binding}")
    return BadInput(f"gin: {name}", "train", flags, says=says)


def _run(
    name: str, command: str, make: Make, says: str = "", *flags: str, code: int = 1
) -> BadInput:
    extra = {"eval": ("--suite=suite.gin",), "compare": ("--suite=suite.gin", "--jobs=0")}
    flags = ("--run_dir=run", *extra.get(command, ()), *flags)
    return BadInput(f"run: {name}", command, flags, make, code, says)


def _flag(
    name: str, command: str, *flags: str, make: Make = lambda folder: None, says: str = ""
) -> BadInput:
    return BadInput(f"flag: {name}", command, flags, make, says=says)


def _wrong_member(state: pathlib.Path) -> None:
    with zipfile.ZipFile(state, "w") as archive:
        archive.writestr("../../MARKER", b"x")


_OBJECT = np.array([Runs()], object)
_TRAIN = ("--config=run.gin", "--run_dir=new")
_EVAL = ("--run_dir=run", "--suite=suite.gin")
_PLAN = ("--config=run.gin", "--throughput=1", "--classes=3", "--examples=100")
_STAGE, _REPORT = "run/net/stage.json", "run/evaluation/net/report.json"
_EXAMPLES = "run/evaluation/net/examples.npz"

INPUTS = (
    _config("includes itself", "include 'bad.gin'\n", "includes"),
    _config("includes what is not there", "include '../../nowhere.gin'\n", "nowhere.gin"),
    _config("an open bracket", RUN + "Stage.model = @models.small_cnn(\n"),
    _config("an open string", RUN + "Stage.model = 'small\n"),
    _config("a closed bracket", RUN + "Stage.epochs = 3)\n"),
    _config("binary", bytes(range(256))),
    _config("not UTF-8", RUN.encode() + b"# \xff\n"),
    _config("UTF-16", RUN.encode("utf-16")),
    _config("NUL bytes", RUN + "Stage.epochs = \0 3\n"),
    _config("empty", "", ""),
    _config("100,000 brackets", "Stage.epochs = " + "[" * 100_000 + "]" * 100_000),
    _config("3,000 brackets", "Stage.epochs = " + "[" * 3_000 + "]" * 3_000),
    _config("a number of 10,000 digits", RUN + "Stage.epochs = " + "9" * 10_000),
    _config("a name of 10,000 letters", RUN + "a" * 10_000 + ".epochs = 1"),
    _config("imports a module that is not there", "import nowhere.at_all\n" + RUN, "nowhere"),
    _config("imports a function", "import os.system\n" + RUN, "os.system"),
    _config("macros that are each other", RUN + "a = %b\nb = %a\nStage.epochs = %a\n"),
    _config("a word of Python", RUN + "Stage.epochs = __import__('os').system('touch MARKER')\n"),
    _config("a function that is not registered", RUN + "Stage.epochs = @os.system()\n", "os.system"),
    BadInput("gin: two files that include each other", "train", ("--config=bad.gin", "--run_dir=new"),
             lambda f: [wrote("bad.gin", "include 'other.gin'\n")(f), wrote("other.gin", "include 'bad.gin'\n")(f)],
             says="includes"),
    BadInput("gin: a module that calls sys.exit", "train", ("--config=bad.gin", "--run_dir=new"),
             lambda f: [wrote("bad.gin", "import leaves\n" + RUN)(f), wrote("leaves.py", "import sys\nsys.exit(3)\n")(f)],
             says="SystemExit"),
    BadInput("gin: a module that divides by zero", "train", ("--config=bad.gin", "--run_dir=new"),
             lambda f: [wrote("bad.gin", "import leaves\n" + RUN)(f), wrote("leaves.py", "1 / 0\n")(f)], says="division by zero"),
    BadInput("gin: a module with a syntax error", "train", ("--config=bad.gin", "--run_dir=new"),
             lambda f: [wrote("bad.gin", "import leaves\n" + RUN)(f), wrote("leaves.py", "def\n")(f)], says="leaves"),
    _flag("--config is a folder", "train", "--config=run", "--run_dir=new"),
    _flag("--config is /dev/null", "train", "--config=/dev/null", "--run_dir=new"),
    _flag("--config with a NUL", "train", "--config=a\0b", "--run_dir=new"),
    _flag("--config of 5,000 letters", "train", "--config=" + "a" * 5_000, "--run_dir=new"),
    _bound("a stage named ../x", "Experiment.stages = ('../x',)", "name"),
    _bound("a stage named /tmp/x", "Experiment.stages = ('/tmp/x',)", "name"),
    _bound("a stage named ..", "Experiment.stages = ('..',)"),
    _bound("a stage named .", "Experiment.stages = ('.',)"),
    _bound("a stage without a name", "Experiment.stages = ('',)"),
    _bound("a stage named with a NUL", r"Experiment.stages = ('a\0b',)"),
    _bound("a stage named with a line break", r"Experiment.stages = ('a\nb',)"),
    _bound("a stage named by 5,000 letters", f"Experiment.stages = ('{'a' * 5_000}',)"),
    _bound("a stage that is a number", "Experiment.stages = (3,)"),
    _bound("stages that are a number", "Experiment.stages = 3"),
    _bound("two lines", "Stage.epochs = 1\nStage.epoch = 1"),
    _bound("a teacher at ../../x", "net/Stage.teachers = {'clean': '../../x'}"),
    _bound("a teacher with a NUL", r"net/Stage.teachers = {'clean': 'a/b\0.keras'}"),
    _bound("a data_dir that is a file", "Experiment.dataset = @datasets.tfds\ndatasets.tfds.name = 'mine'\n"
           "datasets.tfds.data_dir = 'run.gin'"),
    _bound("a data set named ../../x", "Experiment.dataset = @datasets.tfds\ndatasets.tfds.name = '../../x'"),
    _flag("--run_dir is a file", "train", "--config=run.gin", "--run_dir=run.gin", says="run.gin"),
    _flag("--run_dir in a file", "train", "--config=run.gin", "--run_dir=run.gin/run", says="run.gin"),
    _flag("--run_dir where nothing can be written", "train", "--config=run.gin", "--run_dir=/proc/run"),
    _flag("--run_dir is /dev/full", "train", "--config=run.gin", "--run_dir=/dev/full"),
    _flag("--run_dir with a NUL", "train", "--config=run.gin", "--run_dir=a\0b"),
    _flag("--run_dir of 5,000 letters", "train", "--config=run.gin", "--run_dir=" + "a" * 5_000),
    _flag("--only that is no stage", "train", *_TRAIN, "--only=../net", says="no stage"),
    _flag("--share=1", "eval", *_EVAL, "--share=1", says="--share"),
    _flag("--share=³/4", "eval", *_EVAL, "--share=³/4", says="--share"),
    _flag("--share=0/0", "eval", *_EVAL, "--share=0/0", says="--share"),
    _flag("--suite that is none", "eval", "--run_dir=run", "--suite=quik", says="quick"),
    _flag("--suite=../../run.gin", "eval", "--run_dir=run", "--suite=../../run.gin"),
    _flag("--suite is a run file", "eval", "--run_dir=run", "--suite=run.gin"),
    _flag("--suite is no text", "eval", "--run_dir=run", "--suite=net.gin", make=wrote("net.gin", b"\xff\xfe\0")),
    _flag("--stage=../net", "eval", *_EVAL, "--stage=../net", says="no stage"),
    _flag("--epsilon of two lines", "eval", *_EVAL, "--epsilon=0.1\n2", says="--epsilon"),
    _flag("--epsilon=nan", "eval", *_EVAL, "--epsilon=nan", says="--epsilon"),
    _flag("--norm=l7", "eval", *_EVAL, "--norm=l7", says="norm"),
    _flag("--model and no more", "eval", "--model=net.keras", says="--dataset"),
    _flag("--out is a file", "eval", *_EVAL, "--out=run.gin"),
    _flag("--stage=../net", "export", "--run_dir=run", "--stage=../net", says="no stage"),
    _flag("--baseline that is no row", "compare", *_EVAL, "--jobs=0", "--baseline=../net", says="row"),
    _flag("--attack that is none", "compare", *_EVAL, "--jobs=0", "--attack=pgdd"),
    _flag("--image_shape=8x8x3", "plan", *_PLAN, "--image_shape=8x8x3", says="--image_shape"),
    _flag("--image_shape=³,8,3", "plan", *_PLAN, "--image_shape=³,8,3", says="--image_shape"),
    _flag("--image_shape=0,8,3", "plan", *_PLAN, "--image_shape=0,8,3", says="at least 1"),
    _flag("--throughput=nan", "plan", "--config=run.gin", "--throughput=nan"),
    _flag("--stand_in=x", "plan", *_PLAN, "--image_shape=8,8,3", "--stand_in=x", says="--stand_in"),
    _run("config.gin cut off", "eval", cut("run/config.gin", 150)),
    _run("config.gin is no text", "eval", wrote("run/config.gin", b"\xff\xfe\0"), "config.gin"),
    _run("config.gin is no text", "train", wrote("run/config.gin", b"\xff\xfe\0"), "config.gin", "--config=run.gin"),
    _run("config.gin is a folder", "eval",
         lambda f: [(f / "run/config.gin").unlink(), (f / "run/config.gin").mkdir()], "config.gin"),
    _run("no config.gin", "export", lambda f: (f / "run/config.gin").unlink(), "holds no run"),
    *(_run(f"stage.json {what}", command, make, "stage.json", *flags)
      for what, make in (("cut off", cut(_STAGE, 40)), ("is a list", wrote(_STAGE, "[]")),
                         ("is no text", wrote(_STAGE, b"\xff")),
                         ("has nothing", wrote(_STAGE, "{}")))
      for command, flags in (("train", ("--config=run.gin",)), ("eval", ("--examples=40",)), ("compare", ()),
                             ("export", ()))),
    _run("stage.json of 100,000 brackets", "eval", wrote(_STAGE, "[" * 100_000), "stage.json", "--examples=40"),
    _run("stage.json has a temperature of letters", "eval",
         edited(_STAGE, lambda v: v.update(temperature="hot")), "stage.json", "--examples=40"),
    *(_run(f"report.json {what}", command, make, "report.json")
      for what, make in (("cut off", cut(_REPORT, 400)), ("is a list", wrote(_REPORT, "[]")),
                         ("has nothing", wrote(_REPORT, "{}")))
      for command in ("compare", "export")),
    _run("report.json cut off", "eval", cut(_REPORT, 400), code=0),
    _run("report.json: attacks is a list", "compare", edited(_REPORT, lambda v: v.update(attacks=[1])), "report.json"),
    _run("examples.npz cut off", "compare", cut(_EXAMPLES, 300), "examples.npz"),
    _run("examples.npz with pickles", "compare", arrays(_EXAMPLES, clean=_OBJECT), "examples.npz"),
    _run("examples.npz of another number", "compare", arrays(_EXAMPLES, clean=np.ones(3, bool)), "examples.npz"),
    _run("examples.npz lacks an attack", "compare", lambda f: np.savez(f / _EXAMPLES, clean=np.ones(60, bool)),
         "examples.npz"),
    _run("timing.jsonl is no JSON", "compare", wrote("run/net/timing.jsonl", "{'a\n"), "timing.jsonl"),
    _run("timing.jsonl is a list", "compare", wrote("run/net/timing.jsonl", "[1]\n"), "timing.jsonl"),
    _run("metrics.jsonl is no JSON", "eval", wrote("run/net/metrics.jsonl", "{'a\n{}\n"), "metrics.jsonl", "--examples=60",
         "--seed=1"),
    _run("metrics.jsonl is a list", "eval", wrote("run/net/metrics.jsonl", "[1]\n"), "metrics.jsonl", "--seed=1"),
    _run("progress.jsonl of other types", "eval",
         wrote("run/evaluation/net/progress.jsonl", '[1]\n{"key": 3}\n'), "", "--seed=1", code=0),
    _run("progress.jsonl is no text", "eval",
         wrote("run/evaluation/net/progress.jsonl", b"\xff\xfe\n"), "", "--seed=1", code=0),
    _run("student.keras cut off", "eval", cut("run/net/student.keras", 900), "student.keras"),
    _run("student.keras cut off", "export", cut("run/net/student.keras", 900), "student.keras"),
    _run("student.keras is missing", "train", lambda f: (f / "run/net/student.keras").unlink(), "gone", "--config=run.gin"),
    *(_run(f"checkpoint {what}", "train", unfinished(make), "it is skipped", "--config=run.gin", code=0)
      for what, make in (
          ("cut off", lambda p: p.write_bytes(p.read_bytes()[:100])),
          ("with pickles", lambda p: np.savez(p, **{"00000": _OBJECT, "notes": np.zeros(1, np.uint8)})),
          ("without notes", lambda p: np.savez(p, **{"00000": np.zeros(3)})),
          ("whose notes are a number", lambda p: np.savez(p, notes=np.frombuffer(b"3", np.uint8))),
          ("of another archive", _wrong_member),
      )),
    _run("checkpoint of other shapes", "train", unfinished(lambda p: None), "", "--config=run.gin"),
    _run("checkpoint named state-x", "train",
         unfinished(lambda p: p.rename(p.with_name("state-x.npz"))), "", "--config=run.gin", code=0),
)  # fmt: skip
