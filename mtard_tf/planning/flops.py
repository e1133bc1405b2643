"""FLOPs of a function, counted from its graph without running it.

Counted are convolutions and matrix products, forward and backward, at 2 FLOPs per multiply-add,
padding included; other operations are memory-bound and small beside them. The body of a loop counts
once per iteration, and operations that no output needs do not count: TensorFlow prunes them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

# Name scope of a tape's gradients.
_BACKWARD = "gradient_tape/"


class PlanError(ValueError):
    """A run whose cost cannot be counted. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one call.

    Attributes:
      flops: part -> FLOPs.
      kept_bytes: part -> bytes of activations kept for the gradients, over all forward passes of
        the part; of a loop, one iteration.
    """

    flops: Mapping[str, int]
    kept_bytes: Mapping[str, int]


def count(
    function: Callable, *signature: Any, parts: Sequence[str] = (), rest: str = "all"
) -> Cost:
    """The cost of `function`, by part.

    Args:
      function: of tensors; it is traced, not run.
      signature: its arguments as `tf.TensorSpec`s, with a known batch size.
      parts: outermost name scopes to count separately.
      rest: the name for all other operations.

    Raises:
      PlanError: a shape or the length of a loop is unknown when tracing.
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
    """The operations that the outputs and side effects of a graph depend on."""
    pending = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    seen: dict[tf.Operation, None] = {}  # ordered, so that errors always name the same operation
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
    # Of branches, the most expensive.
    return times * max((sum(map(_flops, _needed(g))) for g in _bodies(operation)), default=0)


def _kept(operations: Sequence[tf.Operation]) -> list[tuple[tf.Operation, int]]:
    """(forward operation, bytes of its results that gradients read)."""
    read: dict[tuple[tf.Operation, int], int] = {}
    for operation in operations:
        if operation.name.startswith(_BACKWARD) and operation.type not in _SHAPES:
            for tensor in map(_source, operation.inputs):
                if tensor.op.type not in _HELD_ANYWAY and not _is_backward(tensor.op):
                    # Unknown shape: the small reserve space of a fused BatchNorm.
                    elements = tensor.shape.num_elements() or 0
                    read[tensor.op, tensor.value_index] = elements * tensor.dtype.size
    kept = [(operation, size) for (operation, _), size in read.items()]
    for operation in operations:
        inside = (sum(size for _, size in _kept(_needed(g))) for g in _bodies(operation))
        kept.append((operation, max(inside, default=0)))
    return kept


def _is_backward(operation: tf.Operation) -> bool:
    # A tape sums gradients outside its scope.
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
        # TensorFlow has no public way to a called function's graph with shapes.
        function = graph._get_function(name)
        if function is not None:
            return function.graph
        graph = getattr(graph, "outer_graph", None)
    raise PlanError(f"The function {name} of {operation.name} is not in the graph.")


def _trips(loop: tf.Operation) -> int:
    """The largest number of iterations of a `tf.while_loop`."""
    condition = _called(loop, loop.get_attr("cond").name)
    (body,) = _bodies(loop)
    trips = _bound(condition.outputs[0], loop, condition, body)
    if trips is None:
        raise PlanError(
            f"The length of the loop {loop.name!r} depends on the data and cannot be counted; plan "
            "with an attack of fixed length, such as @attacks.pgd()."
        )
    return trips


def _bound(test: tf.Tensor, loop: tf.Operation, condition: Any, body: Any) -> int | None:
    """The iterations that `counter < end` allows, if that is (part of) the condition; else None."""
    operation = _source(test).op
    if operation.type == "LogicalAnd":
        bounds = [_bound(side, loop, condition, body) for side in operation.inputs]
        return min((bound for bound in bounds if bound is not None), default=None)
    if operation.type not in ("Less", "LessEqual"):
        return None

    def before(tensor: tf.Tensor) -> tuple[int | None, Any]:
        """Its index among the loop's variables (None: no variable), and its initial value."""
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
    """The tensor that this one is a view or copy of."""
    while tensor.op.type in ("Identity", "StopGradient", "Reshape"):
        tensor = tensor.op.inputs[0]
    return tensor


def _elements(tensor: tf.Tensor) -> int:
    elements = tensor.shape.num_elements()
    if elements is None:
        raise PlanError(
            f"{tensor.name} has the shape {tensor.shape}, which is not known before it runs; fix "
            "the image size in the model, and let the attack return a known batch size."
        )
    return elements


def _convolution(kernel: tf.Tensor, outputs: tf.Tensor) -> int:
    """Multiply-adds: each output sums over a kernel `[..., in, out]` except its last axis."""
    return _elements(outputs) * (_elements(kernel) // kernel.shape[-1])


def _depthwise(kernel: tf.Tensor, outputs: tf.Tensor) -> int:
    """Multiply-adds: each output sums over height and width, `[height, width, in, multiplier]`."""
    return _elements(outputs) * kernel.shape[0] * kernel.shape[1]


def _matrices(operation: tf.Operation, transposed: str) -> int:
    axis = -2 if operation.get_attr(transposed) else -1
    return _elements(operation.outputs[0]) * operation.inputs[0].shape[axis]


def _rules(rule: Callable, forward: str, by_input: str, by_kernel: str) -> dict[str, Callable]:
    """Multiply-adds of a convolution and its two gradients, which are equal in number."""
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
