"""Checks of an ONNX model as a whole, before any node is converted."""

from __future__ import annotations

from onnx import AttributeProto, GraphProto, ModelProto, defs

from tvm_qnn.errors import ModelError, UnsupportedError
from tvm_qnn.frontend.onnx_graph import title
from tvm_qnn.frontend.record import Problems, quoted

OLDEST_OPSET = 7
NEWEST_OPSET = min(25, defs.onnx_opset_version())
_OLDEST_IR = 3
_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def advice_for(operator: str) -> str:
    """Return what to do about an operator that is not supported, "" where nothing is known."""
    domain = operator.rpartition(".")[0]
    if any(word in domain for word in ("qonnx", "brevitas", "finn")):
        return "export quantize/dequantize (QDQ) nodes instead of QONNX"
    if operator == "DynamicQuantizeLinear":
        return "quantize statically, with scales stored in the model"
    if operator.startswith("QLinear") or domain == "com.microsoft":
        return "quantize in the QDQ format"
    return ""


def check_model(model: ModelProto, name: str) -> int:
    """Check what stands around the graph, and return the opset of ONNX's own operators.

    Raises:
        ModelError: The model has no graph, no opset, or no nodes.
        UnsupportedError: Its versions are too old or too new.
    """
    if not model.HasField("graph"):
        raise ModelError(f"{name}: the model holds no graph; export it again")
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions:
        raise ModelError(f"{name}: the model names no opset; export it again")
    if len(set(versions)) > 1:
        raise ModelError(f"{name}: the model names several opsets {sorted(set(versions))}")
    opset = int(versions[0])
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UnsupportedError(
            f"{name}: opset {opset} is not supported, only {OLDEST_OPSET} to {NEWEST_OPSET} are; "
            "convert the model with onnx.version_converter or export it with another opset"
        )
    if model.ir_version < _OLDEST_IR:
        raise UnsupportedError(
            f"{name}: IR version {model.ir_version} is not supported, at least {_OLDEST_IR} is "
            "needed; export the model again"
        )
    if not model.graph.node:
        raise ModelError(f"{name}: the graph holds no nodes; export the model again")
    if not model.graph.output:
        raise ModelError(f"{name}: the graph has no outputs; export the model again")
    return opset


def check_graph(graph: GraphProto, problems: Problems) -> None:
    """Check that every value is made once and before it is used, and that no node holds a graph."""
    made = _check_sources(graph, problems)
    later = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        graphs = [a.name for a in node.attribute
                  if a.type in _SUBGRAPHS or a.HasField("g") or a.graphs]  # fmt: skip
        if graphs:
            problems.add(
                title(node),
                f"control flow (a graph in attribute {quoted(graphs[0])}) is not supported; export "
                "a graph without it",
            )
        for name in node.input:
            if name and name not in made:
                problems.add(title(node), _missing(name, name in later))
        for name in node.output:
            if name and name in made:
                problems.add(title(node), f"makes {quoted(name)}, a name that is already taken")
            made.add(name)
    names = [output.name for output in graph.output]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.add(f"output {quoted(name)}", "the name is taken twice")
    for output in graph.output:
        if not output.name or output.name not in made:
            problems.add(f"output {quoted(output.name)}", "no node makes it")
    constants = {tensor.name for tensor in graph.initializer}
    if all(i.name in constants for i in graph.input):
        problems.add("the graph", "has no inputs; export the model again")
    for tensor in graph.sparse_initializer:
        name = quoted(tensor.values.name)
        problems.add(f"initializer {name}", "sparse tensors are not supported")


def _check_sources(graph: GraphProto, problems: Problems) -> set[str]:
    made: set[str] = set()
    for kind, items in (("input", graph.input), ("initializer", graph.initializer)):
        seen: set[str] = set()
        for item in items:
            if not item.name:
                problems.add(f"an {kind}", "has no name")
            elif item.name in seen:
                problems.add(f"{kind} {quoted(item.name)}", "the name is taken twice")
            seen.add(item.name)
        made |= seen
    return made


def _missing(name: str, later: bool) -> str:
    if later:
        return (
            f"uses {quoted(name)} before a node makes it: the graph is not sorted or has a cycle; "
            "export the model again"
        )
    return f"uses {quoted(name)}, which nothing makes; export the model again"
