"""Where a training step's time goes, by kind of operation, and what its convolutions cost alone.

    python benchmarks/step_profile.py [--distiller bmtard] [--model resnet20] [--batch 128]
        [--precision mixed_bfloat16] [--steps 3]

The floor is each convolution and matrix product of the step's graph, forward and backward, run in
loops that do nothing else, with the step's shapes and precision, times how often the step runs it.
What a step takes above that is memory traffic: BatchNorm, activations, additions, casts. The shares
by operation are TensorFlow's own trace of the step. Use an idle machine.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

# First, since it sets how much TensorFlow says.
from step_time import FLOAT, make_step, median_seconds  # isort: skip
import tensorflow as tf
from tables import table
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from mtard_tf.planning import flops

# Kind -> names of its arguments.
PRODUCTS = {
    "Conv2D": ("input", "filter"),
    "Conv2DBackpropInput": ("input_sizes", "filter", "out_backprop"),
    "Conv2DBackpropFilter": ("input", "filter_sizes", "out_backprop"),
    "MatMul": ("a", "b"),
}
OPTIONS = ("strides", "padding", "explicit_paddings", "transpose_a", "transpose_b")
REPEATS = 20
# Of TensorFlow's own names, the convolution with what it was fused with, and that of oneDNN.
PREFIX = re.compile("_MklNative|_Fused|_Mkl")


def calls(graph: Any, times: int = 1) -> Iterator[tuple[tf.Operation, int]]:
    """Operations that a graph's results need, and how often one call runs each."""
    for operation in flops._needed(graph):
        yield operation, times
        trips = flops._trips(operation) if operation.type in flops._LOOPS else 1
        for body in flops._bodies(operation):
            yield from calls(body, times * trips)


def work_of(operation: tf.Operation) -> tuple:
    """What makes two products the same work."""
    known = operation.node_def.attr
    options = {name: operation.get_attr(name) for name in OPTIONS if name in known}
    return (
        operation.type,
        tuple(tuple(tensor.shape) for tensor in operation.inputs),
        tuple(operation.outputs[0].shape),
        operation.get_attr("T").name,
        tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in options.items()),
    )


def seconds_alone(work: tuple) -> float:
    """Of one run, in two loops side by side, as a batch's parts are, that do nothing else."""
    kind, shapes, outputs, precision, options = work
    names = PRODUCTS[kind]

    def filled(place: int) -> tf.Tensor:
        if names[place].endswith("_sizes"):
            return tf.constant(outputs)
        return tf.cast(tf.random.stateless_normal(shapes[place], [0, place]), precision)

    given = [filled(place) for place in range(len(names))]
    chosen = {k: list(v) if isinstance(v, tuple) else v for k, v in options}

    def body(i: tf.Tensor, last: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Needs the last answer, so that no run is left out or moved out of the loop.
        with tf.control_dependencies([last]):
            own = [tf.identity(tensor) for tensor in given]
        answer = getattr(tf.raw_ops, kind)(**dict(zip(names, own, strict=True)), **chosen)
        return i + 1, tf.reshape(answer, [-1])[0]

    @tf.function
    def loops() -> list[tuple[tf.Tensor, tf.Tensor]]:
        start = (0, tf.zeros([], precision))
        return [
            tf.while_loop(lambda i, _: i < REPEATS, body, start, parallel_iterations=1)
            for _ in range(2)
        ]

    return median_seconds(loops, (), 3) / REPEATS / 2


def trace(step: Callable, data: tuple, steps: int) -> collections.Counter:
    """Kind of operation -> milliseconds of a step, summed over what runs side by side."""
    step(*data)
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(steps):
            step(*data)
        tf.profiler.experimental.stop()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    found: collections.Counter = collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            name, colon, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
            if colon and "/" in name or kind.startswith("_Mkl"):
                found[PREFIX.sub("", kind)] += event.duration_ps / 1e9 / steps
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distiller", default="bmtard")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precision", default=FLOAT)
    args = parser.parse_args()
    step, data, _ = make_step(args.distiller, args.model, args.batch, args.precision)
    graph = step.get_concrete_function(*data).graph
    products = collections.Counter()
    for operation, times in calls(graph):
        if operation.type in PRODUCTS:
            products[work_of(operation)] += times
    whole = 1000 * median_seconds(step, data, args.steps)
    alone: collections.Counter = collections.Counter()
    runs: collections.Counter = collections.Counter()
    for work, times in products.items():
        alone[work[0]] += 1000 * times * seconds_alone(work)
        runs[work[0]] += times
    print(f"{args.distiller}, {args.model}, batch {args.batch}, {args.precision}: {whole:.0f} ms")
    floor = sum(alone.values())
    rows = [[kind, runs[kind], ms, ms / whole] for kind, ms in alone.most_common()]
    rows.append(["together, the floor", sum(runs.values()), floor, floor / whole])
    table(["product, alone", "runs", "ms", "of the step"], rows, ".2f")
    traced = trace(step, data, args.steps)
    total = sum(traced.values())
    rows = [[kind, ms, ms / total] for kind, ms in traced.most_common(12)]
    table(["operation", "ms, summed", "share"], rows, ".2f")


if __name__ == "__main__":
    main()
