"""Refuses SavedModels that do more than compute, before they are loaded.

The graph of a SavedModel is a program, and loading it already runs parts of it: operations can read
and write files, call Python and open connections. Allowed are arithmetic, variables, random numbers
and tables.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

# Stateful operations that a net may have; all other stateful ones are refused.
_ALLOWED = re.compile(
    r"VarHandleOp|ReadVariableOp|Assign(|Add|Sub)VariableOp|VarIsInitializedOp|DisableCopyOnRead"
    r"|VariableShape|ResourceGather(|Nd)|DestroyResourceOp"
    r"|StatefulPartitionedCall|If|While|Case|Assert|CheckNumerics|DeviceIndex|GuaranteeConst|Empty"
    r"|Random(Uniform|UniformInt|StandardNormal|Shuffle|Gamma|PoissonV2)|TruncatedNormal"
    r"|Multinomial|ParameterizedTruncatedNormal|StatelessRandomGetAlg|NonDeterministicInts"
    r"|Stateful(Uniform|UniformInt|UniformFullInt|StandardNormalV2|TruncatedNormal|RandomBinomial)"
    r"|RngSkip|RngReadAndSkip|SampleDistortedBoundingBox(|V2)"
    r"|TensorArray\w*V3|Stack\w*V2|CudnnRNN(|V2|V3)|XlaCallModule"
    r"|(Mutable|MutableDense|)HashTableV2|Anonymous(|Mutable|MutableDense)HashTable"
    r"|LookupTable(Find|Import|Insert|Export|Size|Remove)V2"
)
# Operations that reach outside the graph although TensorFlow calls them stateless.
_REFUSED = re.compile(
    r"ReadFile|MatchingFiles|GenerateVocabRemapping|ImmutableConst|PyFuncStateless|Copy|CopyHost"
    r"|(Encode|Decode)Proto(|V2)|XlaCustomCall(|V2)|CustomAggregator"
    r"|InitializeTableFromTextFile|Debug\w+|Reader\w+|\w*Dataset\w*"
)
# Data sets in memory, with which an exported model finds the damaged image of a request.
_IN_MEMORY = re.compile(
    r"(TensorSlice|Tensor|Range|Zip|Map|Concatenate|Rewrite)Dataset|BatchDatasetV2|IgnoreErrorsDataset"
    r"|DatasetToSingleElement"
)
# Operations of the functions that save and restore variables. Loading a model calls neither
# function, and no other function may use these.
_SAVING = ("SaveV2", "RestoreV2", "MergeV2Checkpoints")


class ModelFileError(ValueError):
    """A file or folder that cannot be used as a model. The message is one line."""


def check(folder: pathlib.Path) -> None:
    """Checks every operation of a SavedModel; runs none.

    Raises:
      ModelFileError: an operation that reaches outside the graph, or a model of TensorFlow 1.
      google.protobuf.message.DecodeError: `saved_model.pb` is damaged.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        raise ModelFileError(
            f"{folder} was not written by TensorFlow 2's tf.saved_model.save; export it again."
        )
    graph = saved.meta_graphs[0]
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    saving = _saving_functions(graph, functions)
    asked = {
        node.op
        for name, node in _nodes(graph, functions)
        if not (node.op in functions or _computes(node.op))
        and not (name in saving and node.op in _SAVING)
    }
    if asked:
        raise ModelFileError(
            f"{folder} asks for {', '.join(sorted(asked))}, which a net does not need (files, "
            "Python or connections); it was refused and nothing of it was run. Export it again "
            "without, or give the .keras file."
        )


def _nodes(graph: Any, functions: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name of the function, node) of every operation; "" for the graph itself."""
    yield from (("", node) for node in graph.graph_def.node)
    for name, function in functions.items():
        yield from ((name, node) for node in function.node_def)


def _computes(operation: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    known = op_def_registry.get(operation)
    if _IN_MEMORY.fullmatch(operation):
        return True
    if known is None or _REFUSED.fullmatch(operation):
        return False
    return not known.is_stateful or _ALLOWED.fullmatch(operation) is not None


def _saving_functions(graph: Any, functions: dict[str, Any]) -> set[str]:
    """The functions that only the saver calls; loading does not run them."""
    saver, objects = graph.saver_def, graph.object_graph_def
    ends = {saver.save_tensor_name.partition(":")[0], saver.restore_op_name}
    named: set[str] = set()
    others: set[str] = set(objects.concrete_functions)
    for node in objects.nodes:
        others |= {*node.function.concrete_functions}
        others.add(node.bare_concrete_function.concrete_function_name)
    for gradient in graph.graph_def.library.gradient:
        others.add(gradient.gradient_func)
    for gradient in graph.graph_def.library.registered_gradients:
        others.add(gradient.gradient_func)
    for function in functions.values():
        others |= _named(function.attr)
    for name, node in _nodes(graph, functions):
        called = {node.op} | _named(node.attr)
        if not name and node.name in ends:
            named |= called
        else:
            others |= called
    return named - others


def _named(attributes: Any) -> set[str]:
    """The functions that attributes name, and possibly other words."""
    found = set()
    for value in attributes.values():
        found |= {one.name for one in (value.func, *value.list.func)}
        found |= {text.decode(errors="replace") for text in (value.s, *value.list.s)}
    return found
