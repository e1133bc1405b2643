"""The work of a function, counted from its graph: nothing is run, so any size can be counted.

Counted are convolutions and matrix products, forward and backward, at 2 FLOPs per multiply-add,
padding included; the rest of a net is bound by memory and small beside them. A loop counts as often
as it runs, and what no output needs counts nothing, because TensorFlow does not run it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

# Gradients of a tape are in this name scope, wherever the tape is.
_BACKWARD = "gradient_tape/"


class PlanError(ValueError):
    """What cannot be planned. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """The work of one call.

    Attributes:
      flops: part -> FLOPs.
      kept_bytes: part -> bytes that forward passes leave in memory for the gradients to read, all
        passes of the part together; one iteration of a loop.
    """

    flops: Mapping[str, int]
    kept_bytes: Mapping[str, int]


def count(
    function: Callable, *signature: Any, parts: Sequence[str] = (), rest: str = "all"
) -> Cost:
    """The cost of `function`, by part.

    Args:
      function: of tensors; it is traced, not run.
      signature: its arguments as `tf.TensorSpec`s, with the batch size in them.
      parts: outermost name scopes to count apart.
      rest: the part of whatever is in none of them.

    Raises:
      PlanError: a shape or the length of a loop that the graph does not hold.
    """
    graph = tf.function(function, autograph=False).get_concrete_function(*signature).graph
    scope = re.compile(rf"(?:{_BACKWARD})?({'|'.join(parts)})/") if parts else None

    def part(operation: tf.Operation) -> str:
        match = scope.match(operation.name) if scope else None
        return match.group(1) if match else rest

    operations = _needed(graph)
    flops: Counter[str] = Counter()
    for operation in operations:
        flops[part(operation)] += _flops(operation)
    kept: Counter[str] = Counter()
    for operation, size in _kept(operations):
        kept[part(operation)] += size
    return Cost(flops, kept)


def _needed(graph: Any) -> list[tf.Operation]:
    """What the outputs and the side effects of a function depend on."""
    pending = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    seen: dict[tf.Operation, None] = {}  # in an order, so that errors name the same operation
    while pending:
        operation = pending.pop()
        if operation not in seen:
            seen[operation] = None
            pending += [tensor.op for tensor in operation.inputs]
            pending += operation.control_inputs
    return list(seen)


def _flops(operation: tf.Operation) -> int:
    if operation.type in _MULTIPLY_ADDS:
        return 2 * _MULTIPLY_ADDS[operation.type](operation)
    times = _trips(operation) if operation.type in _LOOPS else 1
    # Of branches, the dearest.
    return times * max((sum(map(_flops, _needed(g))) for g in _bodies(operation)), default=0)


def _kept(operations: Sequence[tf.Operation]) -> list[tuple[tf.Operation, int]]:
    """Forward operation -> bytes of its results that gradients read."""
    read: dict[tuple[tf.Operation, int], int] = {}
    for operation in operations:
        if operation.name.startswith(_BACKWARD) and operation.type not in _SHAPES:
            for tensor in map(_source, operation.inputs):
                if tensor.op.type not in _HELD_ANYWAY and not _is_backward(tensor.op):
                    # No shape: what a fused BatchNorm reserves for itself, next to nothing.
                    elements = tensor.shape.num_elements() or 0
                    read[tensor.op, tensor.value_index] = elements * tensor.dtype.size
    kept = [(operation, size) for (operation, _), size in read.items()]
    for operation in operations:
        inside = (sum(size for _, size in _kept(_needed(g))) for g in _bodies(operation))
        kept.append((operation, max(inside, default=0)))
    return kept


def _is_backward(operation: tf.Operation) -> bool:
    # A tape adds up gradients outside its scope.
    return operation.name.startswith(_BACKWARD) or (
        operation.type == "AddN" and any(_is_backward(tensor.op) for tensor in operation.inputs)
    )


def _bodies(operation: tf.Operation) -> list[Any]:
    """The graphs that an operation calls."""
    names: list[Any] = []
    if operation.type in _LOOPS:
        names = [operation.get_attr("body")]
    elif operation.type in ("If", "StatelessIf"):
        names = [operation.get_attr(f"{branch}_branch") for branch in ("then", "else")]
    elif operation.type in ("Case", "StatelessCase"):
        names = list(operation.get_attr("branches"))
    elif operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
        names = [operation.get_attr("f")]
    return [_called(operation, name.name) for name in names]


def _called(operation: tf.Operation, name: str) -> Any:
    graph = operation.graph
    while graph is not None:
        # TensorFlow has no public way from a call to its graph with shapes in it.
        function = graph._get_function(name)
        if function is not None:
            return function.graph
        graph = getattr(graph, "outer_graph", None)
    raise PlanError(f"The function {name} of {operation.name} is not in the graph.")


def _trips(loop: tf.Operation) -> int:
    """How often a `tf.while_loop` runs at most."""
    condition = _called(loop, loop.get_attr("cond").name)
    (body,) = _bodies(loop)
    trips = _bound(condition.outputs[0], loop, condition, body)
    if trips is None:
        raise PlanError(
            f"The loop {loop.name!r} ends when its data say so and cannot be counted; plan with an "
            "attack of fixed length, such as @attacks.pgd()."
        )
    return trips


def _bound(test: tf.Tensor, loop: tf.Operation, condition: Any, body: Any) -> int | None:
    """The trips that `counter < end` allows, where it is (part of) what the loop tests."""
    operation = _source(test).op
    if operation.type == "LogicalAnd":
        bounds = [_bound(side, loop, condition, body) for side in operation.inputs]
        return min((bound for bound in bounds if bound is not None), default=None)
    if operation.type not in ("Less", "LessEqual"):
        return None

    def before(tensor: tf.Tensor) -> tuple[int | None, Any]:
        """Its place among the loop's variables, and its value before the first trip."""
        for place, variable in enumerate(condition.inputs):
            if variable is tensor:
                return place, tf.get_static_value(_source(loop.inputs[place]))
        return None, tf.get_static_value(tensor)

    (place, start), (_, end) = (before(_source(side)) for side in operation.inputs)
    if place is None or start is None or end is None:
        return None
    moved = _source(body.outputs[place]).op
    if moved.type not in ("Add", "AddV2") or _source(moved.inputs[0]) is not body.inputs[place]:
        return None
    step = tf.get_static_value(moved.inputs[1])
    if step is None or step <= 0:
        return None
    end = end + (operation.type == "LessEqual")
    return max(0, math.ceil((end - start) / step))


def _source(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor whose memory this one shares."""
    while tensor.op.type in ("Identity", "StopGradient", "Reshape"):
        tensor = tensor.op.inputs[0]
    return tensor


def _elements(tensor: tf.Tensor) -> int:
    elements = tensor.shape.num_elements()
    if elements is None:
        raise PlanError(
            f"{tensor.name} has the shape {tensor.shape}, which is known only when it runs; fix "
            "the image size in the model and keep the batch size in what the attack returns."
        )
    return elements


def _convolution(kernel: tf.Tensor, outputs: tf.Tensor) -> int:
    """Each output is a sum over the kernel's space and its input channels: `[..., in, out]`."""
    return _elements(outputs) * (_elements(kernel) // kernel.shape[-1])


def _depthwise(kernel: tf.Tensor, outputs: tf.Tensor) -> int:
    """Each output is a sum over the kernel's space alone: `[height, width, in, multiplier]`."""
    return _elements(outputs) * kernel.shape[0] * kernel.shape[1]


def _matrices(operation: tf.Operation, transposed: str) -> int:
    axis = -2 if operation.get_attr(transposed) else -1
    return _elements(operation.outputs[0]) * operation.inputs[0].shape[axis]


def _rules(rule: Callable, forward: str, by_input: str, by_kernel: str) -> dict[str, Callable]:
    """A gradient takes the multiply-adds of the pass, each of which it goes through once."""
    return {
        forward: lambda op: rule(op.inputs[1], op.outputs[0]),
        by_input: lambda op: rule(op.inputs[1], op.inputs[2]),  # (sizes, kernel, gradient)
        by_kernel: lambda op: rule(op.outputs[0], op.inputs[2]),  # (inputs, sizes, gradient)
    }


_MULTIPLY_ADDS: dict[str, Callable[[tf.Operation], int]] = {
    "MatMul": lambda op: _matrices(op, "transpose_a"),
    "BatchMatMul": lambda op: _matrices(op, "adj_x"),
    "BatchMatMulV2": lambda op: _matrices(op, "adj_x"),
    "BatchMatMulV3": lambda op: _matrices(op, "adj_x"),
    **_rules(_convolution, "Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"),
    **_rules(_convolution, "Conv3D", "Conv3DBackpropInputV2", "Conv3DBackpropFilterV2"),
    **_rules(
        _depthwise,
        "DepthwiseConv2dNative",
        "DepthwiseConv2dNativeBackpropInput",
        "DepthwiseConv2dNativeBackpropFilter",
    ),
}
_LOOPS = ("While", "StatelessWhile")
_SHAPES = ("Shape", "ShapeN", "Size", "Rank")
_HELD_ANYWAY = ("Const", "Placeholder", "ReadVariableOp", "VarHandleOp")
