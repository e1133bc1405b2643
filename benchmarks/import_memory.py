"""Memory and time of `mtard-import`, on a PyTorch file of WRN-34-10 with random weights.

    python benchmarks/import_memory.py [--model=wide_resnet34_10] [--dir=DIR]

Prints the peak of the resident memory (VmHWM of the process, in 10^6 bytes), what of it a process
has that has only imported TensorFlow, Keras and the command, and the difference. Resident memory
counts the pages of TensorFlow's libraries as well, which the kernel shares and can drop; without
them (RssFile) it is the process's own. Linux only.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Each step in a process of its own; this one stays small, because a child starts with its peak.
WRITE = """
import pathlib, sys
sys.path.insert(0, sys.argv[3])
import torch_writer, zoo_weights
state = {f"module.{k}": v for k, v in zoo_weights.state(sys.argv[2]).items()}
torch_writer.write_zip(pathlib.Path(sys.argv[1]), state)
"""

IMPORT = """
import json, re, sys, time
began = time.perf_counter(), time.process_time()
from mtard_tf import bin as binary
binary.import_tensorflow_quietly()
from mtard_tf.commands import import_, requests
source, model, out = sys.argv[1:]
if out:
    import_.run(requests.Import(source=source, model=model, out=out), lambda line: None)
status = open("/proc/self/status").read()
kilobytes = {k: int(re.search(k + r":\\s+(\\d+)", status)[1]) for k in ("VmHWM", "RssFile")}
print(json.dumps({
    "peak": kilobytes["VmHWM"] * 1024 / 1e6,
    "own": (kilobytes["VmHWM"] - kilobytes["RssFile"]) * 1024 / 1e6,
    "seconds": time.perf_counter() - began[0],
    "cpu_seconds": time.process_time() - began[1],
}))
"""


def child(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="wide_resnet34_10", help="a net of tests/torch_zoo.py")
    parser.add_argument("--dir", help="keep the files here; default a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(args.dir or scratch)
        source, out = folder / f"{args.model}.pt", folder / f"{args.model}.keras"
        if not source.exists():
            child(WRITE, str(source), args.model, str(ROOT / "tests"))
        size = source.stat().st_size / 1e6
        model = f"models.{args.model}"
        baseline = json.loads(child(IMPORT, str(source), model, ""))
        done = json.loads(child(IMPORT, str(source), model, str(out)))
        above = done["peak"] - baseline["peak"]
        print(f"file: {size:.0f} MB; written: {out.stat().st_size / 1e6:.0f} MB")
        for name, numbers in (("peak", done), ("imports alone", baseline)):
            print(
                f"{name}: {numbers['peak']:.0f} MB, {numbers['peak'] / size:.2f} x the file; own, "
                f"without libraries: {numbers['own']:.0f} MB, {numbers['own'] / size:.2f} x"
            )
        print(f"peak above the imports: {above:.0f} MB, {above / size:.2f} x the file")
        print(f"time: {done['seconds']:.0f} s, {done['cpu_seconds']:.0f} s of CPU")


if __name__ == "__main__":
    main()
