"""The PyTorch side of `import_accuracy.py`: trains a CIFAR ResNet for a while and saves it.

Run by it with an interpreter that has `torch`. The net is the tests' own definition
(`tests/torch_zoo.py`, option A, ImageNet's normalisation inside), saved as the public files are:
`{"state_dict": ...}` with the names that `DataParallel` gives. Beside it lies a probe (`.npz`, what
`mtard-import --probe` takes) and a line of JSON with the accuracy on all test images.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

from torch_zoo import IMAGENET, ResNet  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="npz: {train,test}_{images,labels}, uint8")
    parser.add_argument("--depth", type=int, required=True, help="20, 32, 44, 56 or 110")
    parser.add_argument("--steps", type=int, required=True, help="batches to train on")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the .th file to write")
    args = parser.parse_args()
    torch.manual_seed(0)
    with np.load(args.data) as file:
        data = {name: torch.from_numpy(file[name]) for name in file.files}
    classes = int(data["test_labels"].max()) + 1
    blocks = [(args.depth - 2) // 6] * 3
    net = ResNet(blocks, [16, 32, 64], classes, "A", statistics=IMAGENET)
    train(net, data["train_images"], data["train_labels"].long(), args.steps, args.batch_size)
    test = as_floats(data["test_images"])
    logits = answer(net, test)
    accuracy = 100 * float((logits.argmax(1) == data["test_labels"]).double().mean())
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": accuracy}, args.out)
    np.savez(args.out.with_suffix(".npz"), images=test[:64].numpy(), logits=logits[:64].numpy())
    record = {"accuracy": accuracy, "images": len(test), "steps": args.steps}
    args.out.with_suffix(".json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(json.dumps(record))


def as_floats(images: torch.Tensor) -> torch.Tensor:
    """uint8 `[n, height, width, channels]` as floats in [0, 1], channels first."""
    return images.permute(0, 3, 1, 2).float() / 255


def train(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int, batch_size: int
) -> None:
    """SGD 0.1/0.9/1e-4, the rate falling to zero on a line; crop and flip."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    epochs = -(-steps * batch_size // len(images))
    order = torch.cat([torch.randperm(len(images)) for _ in range(epochs)])
    net.train()
    began = time.perf_counter()
    for step in range(steps):
        chosen = order[step * batch_size : (step + 1) * batch_size]
        batch = augmented(as_floats(images[chosen]))
        loss = torch.nn.functional.cross_entropy(net(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        if step % 20 == 0 or step == steps - 1:
            said = f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - began:.0f} s"
            print(said, file=sys.stderr, flush=True)


def augmented(batch: torch.Tensor) -> torch.Tensor:
    """Each image shifted by up to four pixels, and half of them mirrored."""
    height, width = batch.shape[2:]
    padded = torch.nn.functional.pad(batch, (4, 4, 4, 4))
    made = torch.empty_like(batch)
    for place, (top, left, mirror) in enumerate(torch.randint(0, 18, (len(batch), 3)).tolist()):
        crop = padded[place, :, top % 9 : top % 9 + height, left % 9 : left % 9 + width]
        made[place] = crop.flip(2) if mirror % 2 else crop
    return made


def answer(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits in inference mode."""
    net.eval()
    with torch.no_grad():
        return torch.cat([net(part) for part in images.split(200)])


if __name__ == "__main__":
    main()
