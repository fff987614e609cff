"""Functions that an ONNX model brings along: ours are recognised, all others are inlined.

A function is recognised by its domain, its name, its version, and its body: one that is called like
ours but computes something else is inlined like any other, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, defs, inliner, numpy_helper

from tvm_qnn.errors import ModelError, UnsupportedError
from tvm_qnn.frontend import fixed_functions
from tvm_qnn.frontend.onnx_fixed import FIXED
from tvm_qnn.frontend.onnx_graph import Node, Value
from tvm_qnn.frontend.record import quoted, reason_of

_OWN = ("", "ai.onnx")
_LARGEST = 100_000
_DEEPEST = 200

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Resolved:
    """A model whose functions are all known or gone.

    Attributes:
        model: the model; nodes of recognised functions are still calls.
        converters: of the recognised functions, by operator.
        notes: one line about each function that was inlined.
    """

    model: ModelProto
    converters: dict[str, Callable[[Node], Value]]
    notes: tuple[str, ...]


def resolve(model: ModelProto, name: str) -> Resolved:
    """Recognise our functions and inline the others.

    Args:
        model: it is not changed.
        name: what messages call it.

    Raises:
        ModelError: if a function is defined twice, calls itself, or cannot be inlined.
        UnsupportedError: if the versions of operators in a function are not those of the model.
    """
    if not model.functions:
        return Resolved(model, {}, ())
    defined: dict[Key, FunctionProto] = {}
    for function in model.functions:
        if _key(function) in defined:
            raise ModelError(f"{name}: defines the function {_title(_key(function))} twice")
        defined[_key(function)] = function
    versions = {o.domain: o.version for o in model.opset_import}
    known = {key for key, function in defined.items() if _is_ours(function, versions)}
    called = _called(model, defined, known, name)
    others = [defined[key] for key in called if key not in known]
    converters = {f"{key[0]}.{key[1]}": FIXED[key[1]] for key in called if key in known}
    if others:
        model = _inlined(model, others, versions, name)
    notes = tuple(_note(_key(function), called[_key(function)]) for function in others)
    return Resolved(model, converters, notes)


def _note(key: Key, calls: int) -> str:
    count = f"{calls} call{'s' if calls > 1 else ''}"
    text = f"function {_title(key)} is inlined ({count})"
    if key[0] != fixed_functions.DOMAIN:
        return text
    return f"{text}: it is not the one of version {fixed_functions.VERSION} of this domain"


def _key(item: FunctionProto | NodeProto) -> Key:
    name = item.name if isinstance(item, FunctionProto) else item.op_type
    domain = "" if item.domain in _OWN else str(item.domain)
    return domain, str(name), str(getattr(item, "overload", ""))


def _title(key: Key) -> str:
    return quoted(f"{key[0]}.{key[1]}" + (f":{key[2]}" if key[2] else ""))


def _is_ours(function: FunctionProto, versions: dict[str, int]) -> bool:
    domain, name, overload = _key(function)
    ours = fixed_functions.functions().get(name)
    return (
        ours is not None
        and (domain, overload) == (fixed_functions.DOMAIN, "")
        and versions.get(domain) == fixed_functions.VERSION
        and _form(function) == _form(ours)
    )


def _form(function: FunctionProto) -> Any:
    """Return what a function computes, free of the names of values, nodes and comments."""
    number: dict[str, int] = {"": -1}

    def numbers(names: Iterable[str]) -> tuple[int, ...]:
        return tuple(number.setdefault(n, len(number)) for n in names)

    inputs = numbers(function.input)
    nodes = [
        (_key(node), numbers(node.input), numbers(node.output), _attributes(node.attribute))
        for node in function.node
    ]
    opsets = sorted(
        ("" if o.domain in _OWN else o.domain, o.version) for o in function.opset_import
    )
    defaults = _attributes(function.attribute_proto)
    return inputs, nodes, numbers(function.output), set(function.attribute), defaults, opsets


def _attributes(attributes: Iterable[AttributeProto]) -> Any:
    found = {}
    for attribute in attributes:
        found[attribute.name] = (attribute.ref_attr_name, _value(attribute))
    return found


def _value(attribute: AttributeProto) -> Any:
    """Return something that is equal for equal values, however they are stored."""
    plain = AttributeProto()
    plain.CopyFrom(attribute)
    plain.doc_string = ""
    if attribute.HasField("t"):
        try:
            tensor = numpy_helper.to_array(attribute.t)
        except Exception:
            # Whatever it raises: a damaged tensor is none of ours.
            return plain.SerializeToString()
        return str(tensor.dtype), tensor.shape, tensor.tobytes()
    return plain.SerializeToString()


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes, and those of the graphs in them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(graph.node)


def _called(
    model: ModelProto, defined: dict[Key, FunctionProto], known: set[Key], name: str
) -> dict[Key, int]:
    """Return the functions that the graph calls, callees behind callers, with their calls.

    Raises:
        ModelError: if one calls itself, or all together are out of proportion.
    """
    sizes: dict[Key, int] = {}
    order: list[Key] = []

    def size(key: Key, way: tuple[Key, ...]) -> int:
        """Return the number of nodes of an inlined call."""
        if key in way:
            circle = " -> ".join(_title(k) for k in (*way[way.index(key) :], key))
            raise ModelError(
                f"{name}: a function calls itself ({circle}); export without recursion"
            )
        if len(way) > _DEEPEST:
            raise ModelError(f"{name}: its functions call each other more than {_DEEPEST} deep")
        if key not in sizes:
            inner = [] if key in known else [_key(n) for n in _nodes(defined[key].node)]
            sizes[key] = 1 + sum(size(k, (*way, key)) if k in defined else 1 for k in inner)
            order.append(key)
        return sizes[key]

    outer = [_key(n) for n in _nodes(model.graph.node)]
    total = sum(size(key, ()) for key in outer if key in defined)
    if total > _LARGEST:
        raise ModelError(
            f"{name}: its functions make more than {_LARGEST} nodes; export without them"
        )
    calls = dict.fromkeys(reversed(order), 0)
    for key in outer:
        if key in calls:
            calls[key] += 1
    for caller in list(calls):
        if caller not in known:
            for node in _nodes(defined[caller].node):
                if _key(node) in calls:
                    calls[_key(node)] += calls[caller]
    return calls


def _inlined(
    model: ModelProto, functions: list[FunctionProto], versions: dict[str, int], name: str
) -> ModelProto:
    """Return a copy of the model in which calls of these functions are replaced by their bodies."""
    whole = ModelProto()
    whole.CopyFrom(model)
    del whole.functions[:]
    whole.functions.extend(functions)
    defaults = {_key(f): list(f.attribute_proto) for f in functions}
    for function in whole.functions:
        _align(function, versions, name)
    for node in _nodes([*whole.graph.node, *(n for f in whole.functions for n in f.node)]):
        # The inliner of ONNX loses the default values of attributes.
        given = {attribute.name for attribute in node.attribute}
        node.attribute.extend(a for a in defaults.get(_key(node), []) if a.name not in given)
    try:
        return inliner.inline_local_functions(whole)
    except Exception as error:
        # The inliner is C++ and raises whatever its checks raise.
        raise ModelError(f"{name}: its functions cannot be inlined ({reason_of(error)})") from None


def _align(function: FunctionProto, versions: dict[str, int], name: str) -> None:
    """Give a function the versions of operators of the model, where they mean the same.

    Raises:
        UnsupportedError: if an operator changed between the two versions.
    """
    model_version = versions.get("", versions.get("ai.onnx", 0))
    for entry in function.opset_import:
        if entry.domain not in _OWN or entry.version == model_version:
            continue
        for node in _nodes(function.node):
            if node.domain in _OWN and not _unchanged(node, entry.version, model_version):
                raise UnsupportedError(
                    f"{name}: function {_title(_key(function))} uses {quoted(node.op_type)} of "
                    f"opset {entry.version}, but the model has opset {model_version}, where it "
                    "differs; export both with one opset"
                )
        entry.version = model_version


def _unchanged(node: NodeProto, first: int, second: int) -> bool:
    try:
        found = [defs.get_schema(node.op_type, v, "").since_version for v in (first, second)]
    except defs.SchemaError:
        return True
    return bool(found[0] == found[1])
