"""Pairs the layers of a file with those of a Keras model: by name, or by order and shape."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import keras

from mtard_tf.importing import layouts
from mtard_tf.importing.checkpoint import Checkpoint
from mtard_tf.importing.name_maps import NameMap, of_model
from mtard_tf.importing.tensors import Tensor, WeightsFileError

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Match:
    """The layers of a file and of a model, paired.

    Attributes:
      origin: the code base whose names the file has, or "order and shape".
      pairs: name in the file -> Keras layer, in the order of the file.
      unused: reason -> tensors that are left out, by name.
      by_order: whether layers were paired by order and shape.
    """

    origin: str
    pairs: dict[str, keras.layers.Layer]
    unused: dict[str, dict[str, Tensor]]
    by_order: bool = False

    def table(self) -> str:
        """The pairs as lines of text."""
        width = max(map(len, self.pairs), default=0)
        return "\n".join(
            f"  {name:{width}}  ->  {layer.name}  {layouts.kind(layer)} "
            f"{_shapes(weight.shape for weight in layouts.weights(layer))}"
            for name, layer in self.pairs.items()
        )


def match(checkpoint: Checkpoint, model: keras.Model, *, allow_unused: bool = False) -> Match:
    """Pairs every layer of a model with one of the file, and checks every shape.

    Args:
      checkpoint: the file.
      model: to load the weights into.
      allow_unused: leave out tensors that the model has no layer for.

    Raises:
      WeightsFileError: a layer or tensor that is missing, left over, of another shape, or
        ambiguous.
    """
    layers = {layer.name: layer for layer in model.layers if layouts.weights(layer)}
    name_map = _best(of_model(model.name), checkpoint)
    found = (
        _by_order(checkpoint, layers)
        if name_map is None
        else _by_name(checkpoint, model, layers, name_map)
    )
    hint = f" ({name_map.hint})" if name_map is not None and name_map.hint else ""
    _check(checkpoint, found, layers, model.name, hint, allow_unused)
    return found


def load(checkpoint: Checkpoint, found: Match) -> None:
    """Assigns the weights of a file to the layers that `match` paired, one tensor at a time."""
    modules = checkpoint.modules
    for name, layer in found.pairs.items():
        for weight in layouts.weights(layer):
            weight.variable.assign(weight.convert(modules[name][weight.kind].numpy()))


def _best(maps: Sequence[NameMap], checkpoint: Checkpoint) -> NameMap | None:
    """The map that names the most layers of the file; None if none names more than two."""
    known = [sum(m.layer(name) is not None for name in checkpoint.modules) for m in maps]
    # One or two names, such as conv1, are common to many nets.
    return maps[known.index(max(known))] if known and max(known) > 2 else None


def _by_name(
    checkpoint: Checkpoint,
    model: keras.Model,
    layers: dict[str, keras.layers.Layer],
    name_map: NameMap,
) -> Match:
    if name_map.asymmetric not in (None, _asymmetric(model)):
        form = "asymmetric=True" if name_map.asymmetric else "asymmetric=False"
        raise WeightsFileError(
            f"{checkpoint.path} is {name_map.origin}, and {model.name} pads otherwise; import it "
            f"into a wide_resnet with {form}."
        )
    found = Match(name_map.origin, {}, collections.defaultdict(dict))
    taken: dict[str, str] = {}
    for module, tensors in checkpoint.modules.items():
        layer = name_map.layer(module)
        if layer not in layers:
            reason = name_map.why_unused(module) or ""
            found.unused[reason] |= {f"{module}.{kind}": t for kind, t in tensors.items()}
        elif layer in taken:
            raise WeightsFileError(
                f"{checkpoint.path} has {taken[layer]} and {module}, and both are {layer}; save "
                "one net alone."
            )
        else:
            taken[layer] = module
            found.pairs[module] = layers[layer]
    return found


def _by_order(checkpoint: Checkpoint, layers: dict[str, keras.layers.Layer]) -> Match:
    """Pairs layers in order if all shapes agree in order; else those whose shapes are unique."""
    theirs = {name: _signature(tensors) for name, tensors in checkpoint.modules.items()}
    ours = {
        name: frozenset((weight.kind, weight.shape) for weight in layouts.weights(layer))
        for name, layer in layers.items()
    }
    found = Match("order and shape", {}, collections.defaultdict(dict), by_order=True)
    if list(theirs.values()) == list(ours.values()):
        found.pairs.update(zip(theirs, layers.values(), strict=True))
        return found
    for module, signature in theirs.items():
        candidates = [name for name, shapes in ours.items() if shapes == signature]
        rivals = [name for name, shapes in theirs.items() if shapes == signature]
        if len(candidates) == len(rivals) == 1:
            found.pairs[module] = layers[candidates[0]]
        elif candidates:
            raise WeightsFileError(
                f"{checkpoint.path} lists its layers in another order than the model, and "
                f"{module} could be any of {_listed(candidates)}, of the same shapes; build the "
                "model in the order of the file, or name its layers as the file does."
            )
        else:
            tensors = checkpoint.modules[module]
            found.unused[""] |= {f"{module}.{kind}": t for kind, t in tensors.items()}
    return found


def _check(
    checkpoint: Checkpoint,
    found: Match,
    layers: dict[str, keras.layers.Layer],
    model: str,
    hint: str,
    allow_unused: bool,
) -> None:
    """Refuses what is missing, of another shape, or left over."""
    modules = checkpoint.modules
    extra = dict(found.unused.get("", {}))
    for module, layer in found.pairs.items():
        weights = {weight.kind: weight for weight in layouts.weights(layer)}
        for kind, weight in weights.items():
            if kind not in modules[module]:
                raise WeightsFileError(
                    f"{checkpoint.path} lacks {module}.{kind}, of shape {weight.shape}, for the "
                    f"layer {layer.name} of {model}; it is incomplete, or another net's{hint}."
                )
            if modules[module][kind].shape != weight.shape:
                raise WeightsFileError(
                    f"{checkpoint.path} has {module}.{kind} of shape {modules[module][kind].shape} "
                    f"and {layer.name} of {model} takes {weight.shape}; give the --model, "
                    "--classes and --image_shape that it was made for."
                )
        extra |= {f"{module}.{k}": t for k, t in modules[module].items() if k not in weights}
    paired = {layer.name for layer in found.pairs.values()}
    if missing := [name for name in layers if name not in paired]:
        raise WeightsFileError(
            f"{checkpoint.path} has nothing for {_listed(missing)} of {model}; it is incomplete, "
            f"or another net's{hint}."
        )
    found.unused.pop("", None)
    if extra and not allow_unused:
        raise WeightsFileError(
            f"{checkpoint.path} has {len(extra)} tensors that {model} has no place for: "
            f"{_listed(list(extra))}; give the --model that it was made for{hint}, or leave them "
            "out with --allow_unused."
        )
    if extra:
        found.unused["no place in the model"] = extra


def _signature(tensors: dict[str, Tensor]) -> frozenset:
    return frozenset((kind, tensor.shape) for kind, tensor in tensors.items())


def _asymmetric(model: keras.Model) -> bool:
    """Whether strided convolutions pad on one side only (TensorFlow's "same")."""
    return any(
        type(layer) is keras.layers.Conv2D
        and layer.kernel_size != (1, 1)
        and layer.strides != (1, 1)
        and layer.padding == "same"
        for layer in model.layers
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _shapes(shapes: Iterable[Sequence[int]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)
