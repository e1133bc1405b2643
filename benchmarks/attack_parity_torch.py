"""The PyTorch side of `attack_parity.py`: one attack of torchattacks, as the official code sets it.

Run by `attack_parity.py` with an interpreter that has `torch` and `torchattacks==3.5.1`; prints
which images stand as one line of JSON. torchattacks' own defaults (10 steps, a rescaled schedule
of Square's patches) are not AutoAttack's; they are set here.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F
import torchattacks


class Net(torch.nn.Module):
    """`small_cnn` with Keras' weights: strides 2, 1, 2, 1, dense, logits."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        with np.load(weights) as file:
            arrays = [file[f"arr_{i}"] for i in range(len(file.files))]
        # Keras flattens height, width, channels; PyTorch channels first.
        channels = arrays[6].shape[3]
        side = round((arrays[8].shape[0] / channels) ** 0.5)
        first = arrays[8].reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
        arrays[8] = first.reshape(arrays[8].shape)
        kernels = [a.transpose(3, 2, 0, 1) if a.ndim == 4 else a.T for a in arrays]
        self.weights = torch.nn.ParameterList(
            torch.nn.Parameter(torch.tensor(k.copy()), requires_grad=False) for k in kernels
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weights
        for i in range(4):
            x = F.relu(F.conv2d(x, w[2 * i], w[2 * i + 1], stride=1 if i % 2 else 2, padding=1))
        return F.linear(F.relu(F.linear(x.flatten(1), w[8], w[9])), w[10], w[11])


def attack_of(args: argparse.Namespace, net: Net, classes: int):
    common = {"model": net, "norm": "Linf", "eps": args.epsilon, "seed": args.seed}
    apgd = {**common, "steps": args.steps, "n_restarts": 1}
    if args.attack in ("apgd_ce", "apgd_dlr"):
        return torchattacks.APGD(loss=args.attack[5:], **apgd)
    if args.attack == "apgd_t":
        return torchattacks.APGDT(n_classes=classes, **apgd)
    if args.attack in ("fab", "fab_t"):
        targeted = args.attack == "fab_t"
        return torchattacks.FAB(n_classes=classes, multi_targeted=targeted, **apgd)
    return torchattacks.Square(n_queries=args.queries, resc_schedule=False, **common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True, help="npz with images (NHWC float32) and labels")
    parser.add_argument("--attack", required=True)
    for name in ("seed", "steps", "queries", "batch", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--epsilon", type=float, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net = Net(args.weights).eval()
    with np.load(args.data) as file:
        images = torch.tensor(file["images"].transpose(0, 3, 1, 2).copy())
        labels = torch.tensor(file["labels"].astype(np.int64))
    attack = attack_of(args, net, len(net.weights[-1]))
    stands: list[int] = []
    for x, y in zip(images.split(args.batch), labels.split(args.batch), strict=True):
        perturbed = attack(x, y)
        # FAB notes what lies outside the ball only as not found.
        assert (perturbed - x).abs().max().item() <= args.epsilon + 1e-6
        with torch.no_grad():
            stands += (net(perturbed).argmax(1) == y).int().tolist()
    print(json.dumps(stands))


if __name__ == "__main__":
    main()
