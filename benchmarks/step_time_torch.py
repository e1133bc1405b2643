"""The PyTorch side of `step_time.py`: one B-MTARD step as the official code has it in substance.

    python benchmarks/step_time.py --torch 'TORCH_PYTHON benchmarks/step_time_torch.py'
    python benchmarks/step_time.py --model resnet18 --batch 64 \
        --torch 'TORCH_PYTHON benchmarks/step_time_torch.py --model resnet18'

PGD-10 on the student in evaluation mode, the robust teacher on the adversarial batch, the clean one
on the clean batch, two training passes of the student, mean divergences, balance of temperatures
and weights, SGD with momentum and weight decay. All three nets are one CIFAR ResNet with 1x1
shortcuts. `--bfloat16` runs the nets under autocast. Prints one line of JSON with the median
seconds of a step. Needs `torch` alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, filters, 3, stride, 1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, 1, 1, bias=False),
            nn.BatchNorm2d(filters),
        )
        self.shortcut = nn.Identity()
        if stride > 1 or channels != filters:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet(blocks: tuple[int, ...], width: int, classes: int = 10) -> nn.Module:
    """A CIFAR ResNet: each stage of `blocks` is twice as wide as the last and half as large."""
    layers = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            filters = width * 2**stage
            layers.append(Block(channels, filters, 2 if stage and not block else 1))
            channels = filters
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


# 0.27 and 11.2 million parameters.
NETS = {"resnet20": ((3, 3, 3), 16), "resnet18": ((2, 2, 2, 2), 64)}


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over batch and classes; the student's temperature stays 1."""
    q = F.softmax(teacher / temperature, 1)
    return (q * torch.log(q + 1e-5) - q * F.log_softmax(student, 1)).mean()


def negative_entropy(logits: torch.Tensor, temperature: float) -> float:
    """Mean over batch and classes of q log q."""
    q = F.softmax(logits / temperature, 1)
    return (q * torch.log(q + 1e-5)).mean().item()


def perturb(student: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """PGD-10 at 8/255 by steps of 2/255."""
    student.eval()
    adversarial = x + 0.001 * torch.randn_like(x)
    for _ in range(10):
        adversarial.requires_grad_()
        loss = F.cross_entropy(student(adversarial), y)
        (gradient,) = torch.autograd.grad(loss, [adversarial])
        moved = adversarial.detach() + 2 / 255 * gradient.sign()
        adversarial = moved.clamp(x - 8 / 255, x + 8 / 255).clamp(0, 1)
    student.train()
    return adversarial


class Training:
    """Three nets, an optimizer, and the state of both balances."""

    def __init__(self, model: str, batch: int, channels_last: bool) -> None:
        torch.manual_seed(0)
        self.student, self.robust, self.clean = (resnet(*NETS[model]) for _ in range(3))
        self.robust.eval()
        self.clean.eval()
        self.x, self.y = torch.rand(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
        if channels_last:
            for net in (self.student, self.robust, self.clean):
                net.to(memory_format=torch.channels_last)
            self.x = self.x.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4
        )
        self.weights = {"robust": 0.5, "clean": 0.5}
        self.temperatures = {"robust": 1.0, "clean": 1.0}
        self.first: dict[str, float] = {}

    def step(self) -> None:
        """One step."""
        adversarial = perturb(self.student, self.x, self.y)
        on_adversarial = self.student(adversarial)
        with torch.no_grad():
            answers = {"robust": self.robust(adversarial), "clean": self.clean(self.x)}
        students = {"robust": on_adversarial, "clean": self.student(self.x)}
        losses = {
            role: divergence(students[role], answers[role], self.temperatures[role])
            for role in answers
        }
        self.balance(answers, {role: loss.item() for role, loss in losses.items()})
        self.optimizer.zero_grad()
        sum(self.weights[role] * loss for role, loss in losses.items()).backward()
        self.optimizer.step()

    def balance(self, answers: dict[str, torch.Tensor], losses: dict[str, float]) -> None:
        """Moves the temperatures, then the weights."""
        found = {r: negative_entropy(answers[r], self.temperatures[r]) for r in answers}
        for role, other in (("robust", "clean"), ("clean", "robust")):
            ratio = found[role] / found[other] - 1
            moved = self.temperatures[role] - 0.001 * ((ratio > 0) - (ratio < 0))
            self.temperatures[role] = min(10.0, max(1.0, moved))
        self.first = self.first or losses
        relative = {role: losses[role] / self.first[role] for role in losses}
        for role, weight in self.weights.items():
            share = relative[role] / sum(relative.values())
            self.weights[role] = weight - 0.025 * (weight - share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20", choices=NETS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    flags = parser.parse_args()
    training = Training(flags.model, flags.batch, flags.channels_last)
    seconds = []
    for _ in range(flags.steps + 1):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=flags.bfloat16):
            training.step()
        seconds.append(time.perf_counter() - start)
    measured = {"batch": flags.batch, "median_step_s": round(statistics.median(seconds[1:]), 4)}
    print(json.dumps({**measured, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
