"""Layer names of public code bases for the nets in `mtard_tf.models`.

One row per kind of layer: the name in the file, and that of the Keras layer. `{x}` is a number; a
number whose name ends in 0 counts from 0 in the file and from 1 in Keras.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class NameMap:
    """The layer names of one code base.

    Attributes:
      origin: the code base.
      rows: name in the file -> name of the Keras layer.
      unused: pattern of layers that the forward pass does not use -> reason.
      asymmetric: whether strided convolutions pad on one side only; None if either may be.
      hint: settings to check when layers are missing or left over.
    """

    origin: str
    rows: Mapping[str, str]
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    asymmetric: bool | None = None
    hint: str = ""

    def layer(self, module: str) -> str | None:
        """The Keras layer's name for a layer of the file, or None."""
        for pattern, template in self.rows.items():
            numbered = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(pattern))
            match = re.fullmatch(numbered, module)
            if match:
                numbers = {
                    name.removesuffix("0"): int(text) + name.endswith("0")
                    for name, text in match.groupdict().items()
                }
                return template.format(**numbers)
        return None

    def why_unused(self, module: str) -> str | None:
        """The reason why a layer of the file is not used, or None."""
        for pattern, reason in self.unused.items():
            if re.fullmatch(pattern, module):
                return reason
        return None


_POST_ACTIVATION = NameMap(
    "kuangliu/pytorch-cifar, chenyaofo/pytorch-cifar-models, akamaster/pytorch_resnet_cifar10",
    {
        "conv1": "conv",
        "bn1": "bn",
        "layer{stage}.{block0}.conv{n}": "stage{stage}_block{block}_conv{n}",
        "layer{stage}.{block0}.bn{n}": "stage{stage}_block{block}_bn{n}",
        "layer{stage}.{block0}.shortcut.0": "stage{stage}_block{block}_skip",
        "layer{stage}.{block0}.shortcut.1": "stage{stage}_block{block}_skip_bn",
        "layer{stage}.{block0}.downsample.0": "stage{stage}_block{block}_skip",
        "layer{stage}.{block0}.downsample.1": "stage{stage}_block{block}_skip_bn",
        "linear": "logits",
        "fc": "logits",
    },
    hint="is `shortcut` ('A' without weights, 'B' with) or the depth another?",
)
_PRE_ACTIVATION = NameMap(
    "kuangliu/pytorch-cifar, RobustBench",
    {
        "conv1": "conv",
        "layer{stage}.{block0}.conv{n}": "stage{stage}_block{block}_conv{n}",
        "layer{stage}.{block0}.bn{n}": "stage{stage}_block{block}_bn{n}",
        "layer{stage}.{block0}.shortcut.0": "stage{stage}_block{block}_skip",
        "bn": "bn",
        "linear": "logits",
    },
    hint="is `final_batch_norm` or the depth another?",
)
_TRADES = NameMap(
    "TRADES' WideResNet",
    {
        "conv1": "conv",
        "block{stage}.layer.{block0}.bn{n}": "stage{stage}_block{block}_bn{n}",
        "block{stage}.layer.{block0}.conv{n}": "stage{stage}_block{block}_conv{n}",
        "block{stage}.layer.{block0}.convShortcut": "stage{stage}_block{block}_skip",
        "bn1": "bn",
        "fc": "logits",
    },
    {r"sub_block1\..*": "sub_block1, which the net's forward pass never uses"},
    asymmetric=False,
    hint="is the depth or the width another?",
)


def _deepmind(origin: str, block: str) -> NameMap:
    """The map for DeepMind's WideResNet; its two implementations differ in the names of blocks."""
    return NameMap(
        f"DeepMind's WideResNet in {origin}",
        {
            "init_conv": "conv",
            f"{block}.batchnorm_{{n0}}": "stage{stage}_block{block}_bn{n}",
            f"{block}.conv_{{n0}}": "stage{stage}_block{block}_conv{n}",
            f"{block}.shortcut": "stage{stage}_block{block}_skip",
            "batchnorm": "bn",
            "logits": "logits",
        },
        asymmetric=True,
        hint="is the depth or the width another?",
    )


_DEEPMIND = _deepmind("PyTorch", "layer.{stage0}.block.{block0}")
_HAIKU = _deepmind("Haiku", "resnet_lay_{stage0}_block_{block0}")
_MOBILENET = NameMap(
    "kuangliu/pytorch-cifar's MobileNetV2",
    {
        "conv1": "conv1",
        "bn1": "bn1",
        "layers.{block0}.conv1": "block{block}_expand",
        "layers.{block0}.conv2": "block{block}_depthwise",
        "layers.{block0}.conv3": "block{block}_project",
        "layers.{block0}.bn{n}": "block{block}_bn{n}",
        "layers.{block0}.shortcut.0": "block{block}_skip",
        "layers.{block0}.shortcut.1": "block{block}_skip_bn",
        "conv2": "conv2",
        "bn2": "bn2",
        "linear": "logits",
    },
)

# Pattern of a Keras model's name -> the maps to try.
_MAPS = {
    r"resnet\d+": (_POST_ACTIVATION,),
    r"preact_resnet\d+": (_PRE_ACTIVATION,),
    r"wide_resnet.*": (_TRADES, _DEEPMIND, _HAIKU),
    r"mobilenet_v2": (_MOBILENET,),
}


def of_model(name: str) -> tuple[NameMap, ...]:
    """The maps for a model, by the Keras model's name; empty if it is not one of ours."""
    for pattern, maps in _MAPS.items():
        if re.fullmatch(pattern, name):
            return maps
    return ()
