"""Do imported nets keep their accuracy? Trains CIFAR ResNets in PyTorch, imports and measures them.

    python benchmarks/import_accuracy.py --torch_python=VENV/bin/python --data_dir=DIR --out=DIR

Each net is option A with ImageNet's normalisation, saved by `train_torch_resnet.py` as
`DataParallel` saves it; a `.th` file that is there is not trained again. PyTorch's accuracy is
taken in PyTorch, ours by a fresh process of TensorFlow from the imported `.keras` file, both on all
10,000 test images. The interpreter of --torch_python needs torch and NumPy; an hour on two cores
for the default steps, minutes for few.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

from tables import table

HERE = pathlib.Path(__file__).resolve().parent
ALLOWED = 0.05  # points


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", help="interpreter with torch; not for files that exist")
    parser.add_argument("--data_dir", help="prepared TFDS sets; default TFDS' own")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the files")
    parser.add_argument("--steps", default="20:1400,56:150", help="depth:steps of training, ...")
    parser.add_argument("--verify", action="store_true", help="compare logits as well")
    return parser.parse_args()


def write_data(data_dir: str | None, path: pathlib.Path):
    """The set, which PyTorch's side gets as an .npz."""
    import numpy as np

    from mtard_tf.data import cifar10

    data = cifar10(data_dir)
    if not path.exists():
        arrays = {f"{role}_images": getattr(data, role).images for role in ("train", "test")}
        arrays |= {f"{role}_labels": getattr(data, role).labels for role in ("train", "test")}
        np.savez(path, **arrays)
    return data


def import_and_measure(source: pathlib.Path, depth: int, verify: bool, test) -> float:
    """The accuracy in per cent of the `.keras` file that `mtard-import` makes."""
    import keras
    import numpy as np
    import tensorflow as tf

    model, out = f"models.resnet{depth}", source.with_suffix(".keras")
    command = [
        *(sys.executable, "-m", "mtard_tf.bin.import_", f"--source={source}", f"--model={model}"),
        *(f"--gin={model}.shortcut='A'", "--normalization=imagenet", f"--out={out}"),
        *(["--verify", f"--probe={source.with_suffix('.npz')}"] if verify else []),
    ]
    subprocess.run(command, cwd=HERE.parent, check=True)
    net = keras.models.load_model(out, compile=False)
    predict = tf.function(lambda images: net(images, training=False))
    right = 0
    for start in range(0, len(test), 200):
        rows = slice(start, start + 200)
        logits = predict(tf.constant(test.images[rows], tf.float32) / 255.0)
        right += int((np.argmax(logits, axis=1) == test.labels[rows]).sum())
    return 100 * right / len(test)


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    data = write_data(args.data_dir, args.out / "cifar10.npz")
    rows: list[list[object]] = []
    for depth, steps in (map(int, entry.split(":")) for entry in args.steps.split(",")):
        source = args.out.resolve() / f"resnet{depth}.th"
        if not source.exists():
            script = [args.torch_python, str(HERE / "train_torch_resnet.py"), f"--depth={depth}"]
            script += [f"--data={args.out / 'cifar10.npz'}", f"--steps={steps}", f"--out={source}"]
            subprocess.run(script, check=True)
        theirs = json.loads(source.with_suffix(".json").read_text(encoding="utf-8"))
        ours = import_and_measure(source, depth, args.verify, data.test)
        difference = ours - theirs["accuracy"]
        rows.append([f"ResNet-{depth}", theirs["steps"], theirs["accuracy"], ours, difference])
        if abs(difference) > ALLOWED:
            print(f"ResNet-{depth} lost {-difference:.2f} points; {ALLOWED} are allowed.")
    table(["net", "steps in PyTorch", "PyTorch, %", "imported, %", "points"], rows, ".2f")
    sys.exit(any(abs(float(str(row[-1]))) > ALLOWED for row in rows))


if __name__ == "__main__":
    main()
