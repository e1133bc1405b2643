"""The PyTorch side of `attack_time.py`: torchattacks' AutoAttack on the same weights and images.

Run by `attack_time.py` with an interpreter that has `torch` and `torchattacks==3.5.1`; prints one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
import torch.nn.functional as F
import torchattacks


class Net(torch.nn.Module):
    """Four 3x3 convolutions with pooling after every second, dense, logits; Keras weights."""

    def __init__(self, weights: str, padding: int = 1) -> None:
        super().__init__()
        with np.load(weights) as file:
            arrays = [file[f"arr_{i}"] for i in range(len(file.files))]
        self.convs = torch.nn.ModuleList()
        for kernel, bias in zip(arrays[0:8:2], arrays[1:8:2], strict=True):
            conv = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=padding)
            conv.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
            conv.bias.data = torch.tensor(bias)
            self.convs.append(conv)
        channels = arrays[6].shape[3]
        side = round((arrays[8].shape[0] / channels) ** 0.5)
        # Keras flattens height, width, channels; PyTorch channels first.
        first = arrays[8].reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
        self.dense = torch.nn.ModuleList()
        for kernel, bias in ((first.reshape(arrays[8].shape), arrays[9]), (arrays[10], arrays[11])):
            layer = torch.nn.Linear(*kernel.shape)
            layer.weight.data, layer.bias.data = torch.tensor(kernel.T.copy()), torch.tensor(bias)
            self.dense.append(layer)
        self.forwards = self.backwards = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards += len(x)
        self.backwards += len(x) if x.requires_grad and torch.is_grad_enabled() else 0
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            if i % 2:
                x = F.max_pool2d(x, 2)
        return self.dense[1](F.relu(self.dense[0](x.flatten(1))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True, help="npz with images (NHWC float32) and labels")
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="of APGD and FAB")
    parser.add_argument("--queries", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net = Net(args.weights).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with np.load(args.data) as file:
        images = torch.tensor(file["images"].transpose(0, 3, 1, 2).copy())
        labels = torch.tensor(file["labels"].astype(np.int64))
    attack = torchattacks.AutoAttack(net, norm="Linf", eps=args.epsilon, n_classes=10, seed=0)
    for part in attack._autoattack.attacks:
        if hasattr(part, "steps"):
            part.steps = args.steps
        if hasattr(part, "n_queries"):
            part.n_queries = args.queries
    wall, cpu = time.perf_counter(), time.process_time()
    perturbed = attack(images, labels)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    counts = net.forwards, net.backwards
    with torch.no_grad():
        accuracy = float((net(perturbed).argmax(1) == labels).float().mean())
    print(
        json.dumps(
            {
                "wall": wall,
                "cpu": cpu,
                "robust_accuracy": 100 * accuracy,
                "forwards": counts[0],
                "backwards": counts[1],
            }
        )
    )


if __name__ == "__main__":
    main()
