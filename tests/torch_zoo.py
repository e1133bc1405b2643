"""The zoo's nets in PyTorch, written from the papers, and what they answer: the tests' oracle.

    python tests/torch_zoo.py [NET ...]     (where torch is; writes reference/zoo_logits.npz)

The weights are those of `zoo_weights.py`. The file holds the names and shapes of each net's
state_dict, and logits for two images of each size.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import zoo_weights
from torch import nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


class _Normalized(nn.Module):
    """Keeps its numbers out of the state_dict."""

    def __init__(self, statistics) -> None:
        super().__init__()
        self.statistics = statistics

    def normalize(self, x):
        if self.statistics is None:
            return x
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in self.statistics)
        return (x - mean) / deviation


class _PostBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, option: str, skip: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.option, self.stride, self.new, self.skip = option, stride, outputs - inputs, skip
        if option == "B" and (stride > 1 or self.new):
            layers = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
            setattr(self, skip, layers)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, self.skip):
            x = getattr(self, self.skip)(x)
        elif self.new:
            x = x[:, :, :: self.stride, :: self.stride]
            x = nn.functional.pad(x, (0, 0, 0, 0, self.new // 2, self.new // 2))
        return torch.relu(y + x)


class ResNet(_Normalized):
    """Post-activation; `skip` and `head` are named as each author names them."""

    def __init__(
        self, blocks, widths, classes, option="B", skip="shortcut", head="linear", statistics=None
    ) -> None:
        super().__init__(statistics)
        self.conv1, self.bn1, self.head = _conv(3, widths[0], 3), nn.BatchNorm2d(widths[0]), head
        inputs = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
            layers = []
            for block in range(count):
                stride = 2 if stage > 1 and block == 0 else 1
                layers.append(_PostBlock(inputs, width, stride, option, skip))
                inputs = width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.stages = len(blocks)
        setattr(self, head, nn.Linear(inputs, classes))

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(self.normalize(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class _PreBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, of_input: bool) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs, 3)
        self.of_input = of_input
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride))

    def forward(self, x):
        y = torch.relu(self.bn1(x))
        if hasattr(self, "shortcut"):
            x = self.shortcut(x if self.of_input else y)
        return self.conv2(torch.relu(self.bn2(self.conv1(y)))) + x


class PreActResNet(nn.Module):
    """Pre-activation, with or without a BatchNorm at the end."""

    def __init__(self, blocks, classes, final=True, of_input=False) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 3)
        inputs = 64
        for stage, count in enumerate(blocks, 1):
            layers = []
            for block in range(count):
                width, stride = 32 * 2**stage, 2 if stage > 1 and block == 0 else 1
                layers.append(_PreBlock(inputs, width, stride, of_input))
                inputs = width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        if final:
            self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, classes)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if hasattr(self, "bn"):
            x = torch.relu(self.bn(x))
        return self.linear(x.mean((2, 3)))


class _WideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs, 3)
        if inputs != outputs:
            self.convShortcut = _conv(inputs, outputs, 1, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(x))
        if hasattr(self, "convShortcut"):
            x = self.convShortcut(y)
        return x + self.conv2(torch.relu(self.bn2(self.conv1(y))))


class _WideStage(nn.Module):
    def __init__(self, count: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        blocks = [_WideBlock(inputs, outputs, stride)]
        blocks += [_WideBlock(outputs, outputs, 1) for _ in range(count - 1)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    """TRADES' form, with the copy of the first stage that its forward pass does not use."""

    def __init__(self, depth, width, classes, sub_block=False) -> None:
        super().__init__()
        count = (depth - 4) // 6
        self.conv1 = _conv(3, 16, 3)
        self.block1 = _WideStage(count, 16, 16 * width, 1)
        if sub_block:
            self.sub_block1 = _WideStage(count, 16, 16 * width, 1)
        self.block2 = _WideStage(count, 16 * width, 32 * width, 2)
        self.block3 = _WideStage(count, 32 * width, 64 * width, 2)
        self.bn1, self.fc = nn.BatchNorm2d(64 * width), nn.Linear(64 * width, classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(torch.relu(self.bn1(x)).mean((2, 3)))


class _DeepMindBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1, self.conv_1 = nn.BatchNorm2d(outputs), _conv(outputs, outputs, 3)
        if inputs != outputs:
            self.shortcut = _conv(inputs, outputs, 1, stride)
        self.padding = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)

    def forward(self, x):
        y = nn.functional.silu(self.batchnorm_0(x))
        if hasattr(self, "shortcut"):
            x = self.shortcut(y)
        y = self.conv_0(nn.functional.pad(y, self.padding))
        return x + self.conv_1(nn.functional.silu(self.batchnorm_1(y)))


class _DeepMindStage(nn.Module):
    def __init__(self, count: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        blocks = [_DeepMindBlock(inputs, outputs, stride)]
        self.block = nn.Sequential(
            *blocks, *[_DeepMindBlock(outputs, outputs, 1) for _ in range(count - 1)]
        )

    def forward(self, x):
        return self.block(x)


class DeepMindWideResNet(_Normalized):
    """Swish, padding on one side, normalisation inside."""

    def __init__(self, depth, width, classes) -> None:
        super().__init__(CIFAR10)
        count = (depth - 4) // 6
        self.init_conv = _conv(3, 16, 3)
        self.layer = nn.Sequential(
            _DeepMindStage(count, 16, 16 * width, 1),
            _DeepMindStage(count, 16 * width, 32 * width, 2),
            _DeepMindStage(count, 32 * width, 64 * width, 2),
        )
        self.batchnorm = nn.BatchNorm2d(64 * width)
        self.logits = nn.Linear(64 * width, classes)

    def forward(self, x):
        x = self.batchnorm(self.layer(self.init_conv(self.normalize(x))))
        return self.logits(nn.functional.silu(x).mean((2, 3)))


class _MobileBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.conv1, self.bn1 = _conv(inputs, hidden, 1), nn.BatchNorm2d(hidden)
        self.conv2, self.bn2 = _conv(hidden, hidden, 3, stride, hidden), nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = _conv(hidden, outputs, 1), nn.BatchNorm2d(outputs)
        self.stride = stride
        self.shortcut = nn.Sequential()
        if stride == 1 and inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return y + self.shortcut(x) if self.stride == 1 else y


class MobileNetV2(nn.Module):
    """The CIFAR form."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 32, 3), nn.BatchNorm2d(32)
        layers, inputs = [], 32
        for expansion, outputs, count, stride in (
            *((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)),
            *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
        ):
            for place in range(count):
                layers.append(_MobileBlock(inputs, outputs, expansion, 1 if place else stride))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.conv2, self.bn2 = _conv(320, 1280, 1), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, classes)

    def forward(self, x):
        x = self.layers(torch.relu(self.bn1(self.conv1(x))))
        return self.linear(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class Flat(nn.Sequential):
    """`small_cnn` of widths (4, 6) with a linear layer after Flatten; names say nothing."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 1, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(6 * 6 * 6, 16), nn.ReLU(), nn.Linear(16, 10)),
        )


def _cifar(depth: int, option: str, **options) -> ResNet:
    return ResNet([(depth - 2) // 6] * 3, [16, 32, 64], 10, option, **options)


_FOUR = [64, 128, 256, 512]
# Name -> (the net, sizes of images).
NETS = {
    **{f"resnet{d}_a": (lambda d=d: _cifar(d, "A"), (32,)) for d in (32, 44, 56, 110)},
    **{
        f"resnet{d}_b": (lambda d=d: _cifar(d, "B", skip="downsample", head="fc"), (32,))
        for d in (20, 32, 44, 56, 110)
    },
    "resnet20_a": (lambda: _cifar(20, "A", statistics=IMAGENET), (32,)),
    "flat": (Flat, (12,)),
    "resnet18": (lambda: ResNet([2, 2, 2, 2], _FOUR, 10), (28, 32, 64)),
    "resnet34": (lambda: ResNet([3, 4, 6, 3], _FOUR, 10), (32,)),
    "preact_resnet18": (lambda: PreActResNet([2, 2, 2, 2], 10), (28, 32, 64)),
    "preact_resnet18_input": (lambda: PreActResNet([2, 2, 2, 2], 10, False, True), (32,)),
    "preact_resnet34": (lambda: PreActResNet([3, 4, 6, 3], 10), (32,)),
    "mobilenet_v2": (lambda: MobileNetV2(10), (28, 32, 64)),
    "wide_resnet22_6": (lambda: DeepMindWideResNet(22, 6, 100), (28, 32, 64)),
    "wide_resnet34_10": (lambda: WideResNet(34, 10, 10, sub_block=True), (32,)),
    "wide_resnet28_10": (lambda: WideResNet(28, 10, 10), (32,)),
    "wide_resnet28_10_dm": (lambda: DeepMindWideResNet(28, 10, 10), (32,)),
    "wide_resnet34_20": (lambda: WideResNet(34, 20, 10), (32,)),
    "wide_resnet34_20_dm": (lambda: DeepMindWideResNet(34, 20, 10), (32,)),
    "wide_resnet70_16": (lambda: DeepMindWideResNet(70, 16, 100), (32,)),
}


def make(name: str) -> nn.Module:
    """The net with its random weights, for inference."""
    net = NETS[name][0]()
    for key, values in zoo_weights.weights(shapes(net)):
        net.state_dict()[key].copy_(torch.from_numpy(values))
    return net.eval()


def shapes(net: nn.Module) -> list[tuple[str, list[int]]]:
    """Names and shapes of the weights."""
    state = net.state_dict()
    return [(k, list(v.shape)) for k, v in state.items() if not k.endswith("batches_tracked")]


def logits(net: nn.Module, size: int) -> np.ndarray:
    """What the net answers to `zoo_weights.images`."""
    with torch.no_grad():
        return net(torch.from_numpy(zoo_weights.images(size).transpose(0, 3, 1, 2))).numpy()


def main(names: list[str]) -> None:
    """Writes the reference, anew for these nets or for all."""
    arrays = dict(np.load(zoo_weights.REFERENCE)) if names else {}
    for name in names or NETS:
        net, sizes = make(name), NETS[name][1]
        arrays[f"{name}/shapes"] = np.array(json.dumps(shapes(net)))
        for size in sizes:
            arrays[f"{name}/{size}"] = answer = logits(net, size)
            print(f"{name}/{size}: logits up to {np.abs(answer).max():.3g}")
    np.savez_compressed(zoo_weights.REFERENCE, **arrays)


if __name__ == "__main__":
    main(sys.argv[1:])
