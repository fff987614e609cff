"""Import of ``torch.export`` programs: quantizers in plain arithmetic stay plain arithmetic.

Only this file and ``torch_ops`` import torch, and only a caller who has it comes here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

from tvm_qnn._tvm import relax
from tvm_qnn.errors import ModelError
from tvm_qnn.frontend.names import with_names
from tvm_qnn.frontend.record import (
    INPUT_DTYPES,
    Imported,
    Problems,
    Refused,
    TensorInfo,
    check_shape,
    plain,
    quiet,
    quoted,
    reason_of,
)
from tvm_qnn.frontend.torch_graph import Node, Value
from tvm_qnn.frontend.torch_table import ALIASES, CONVERTERS
from tvm_qnn.ops import shape_of

_DTYPES = {"float32", "uint8", "int8", "int16", "int32", "int64", "bool"}
_STORED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def import_torch(program: Any, *, name: str = "torch model") -> Imported:
    """Import an exported program; parameters and buffers become constants.

    Args:
        program: ``torch.export.ExportedProgram`` of a model in eval mode.
        name: What messages call it.

    Raises:
        ModelError: torch cannot bring the program into functional form.
        UnsupportedError: Lists every operator, input and output that cannot be imported.
    """
    with quiet():
        return _Importer(_functional(program, name), name).run()


def _functional(program: Any, name: str) -> Any:
    """Replace in-place operators, and decompose those that have no converter.

    A program without either stays as it is, with the names that its writer sees.
    """
    try:
        if all(_is_known(n.target) for n in _calls(program)):
            return program
        program = program.run_decompositions({})
        unknown = {n.target for n in _calls(program) if not _is_known(n.target)}
        table = torch.export.default_decompositions()
        chosen = {op: table[op] for op in unknown if op in table}
        return program.run_decompositions(chosen) if chosen else program
    except Exception as error:
        # torch raises what it likes while it traces a program anew.
        reason = reason_of(error)
    raise ModelError(f"{name}: torch cannot decompose the program ({reason})")


def _calls(program: Any) -> list[Any]:
    return [n for n in program.graph.nodes if n.op not in ("placeholder", "output")]


def _operator(target: Any) -> str:
    return str(getattr(target, "__name__", target))


def _is_known(target: Any) -> bool:
    return target is operator.getitem or _operator(target) in CONVERTERS.keys() | ALIASES


class _Importer:
    """State of one import: values by FX node name, and the module under construction."""

    def __init__(self, program: Any, name: str) -> None:
        self.program, self.name = program, name
        self.values: dict[str, Value] = {}
        self.sources: dict[str, str] = {}
        self.problems = Problems()
        self.bb = relax.BlockBuilder()

    def run(self) -> Imported:
        """Import the graph."""
        signature = self.program.graph_signature
        kinds = {spec.arg.name: spec for spec in signature.input_specs}
        placeholders = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        for node in placeholders:
            self._guard(f"input {quoted(node.name)}", self._input, node, kinds[node.name])
        users = [n.name for n in placeholders if kinds[n.name].kind == InputKind.USER_INPUT]
        parameters = [self.values[n].expr for n in users if n in self.values]
        outputs: list[str] = []
        with self.bb.function("main", parameters):
            with self.bb.dataflow():
                for node in _calls(self.program):
                    where = f"node {quoted(node.name)} ({plain(_operator(node.target))})"
                    self._guard(where, self._node, node)
                for number, spec in enumerate(signature.output_specs):
                    shown = quoted(getattr(spec.arg, "name", "") or number)
                    self._guard(f"output {shown}", self._output, spec, outputs)
                if not outputs and not self.problems:
                    self.problems.add("the program", "has no outputs")
                # TVM wants its blocks ended, also where the module is thrown away.
                exprs = [] if self.problems else [self.values[o].use() for o in outputs]
                result = self.bb.emit_output(exprs[0] if len(exprs) == 1 else relax.Tuple(exprs))
            self.bb.emit_func_output(result)
        self.problems.raise_if_any(self.name)
        module, names = with_names(self.bb.finalize(), self.sources)
        return Imported(
            module=module,
            inputs=tuple(self._described(n) for n in users),
            outputs=tuple(self._described(n) for n in outputs),
            name=self.name,
            source="torch",
            names=names,
        )

    def _guard(self, where: str, step: Callable[..., None], *items: Any) -> None:
        try:
            step(*items)
        except Refused as refused:
            self.problems.add(where, str(refused))

    def _described(self, name: str) -> TensorInfo:
        value = self.values[name]
        return TensorInfo(name, value.shape, value.dtype)

    def _input(self, node: Any, spec: Any) -> None:
        if spec.kind in _STORED:
            held = self.program.state_dict.get(spec.target)
            held = self.program.constants.get(spec.target) if held is None else held
            self.values[node.name] = _stored(held)
            return
        if spec.kind != InputKind.USER_INPUT:
            raise Refused(f"is a {spec.kind.name.lower()}, not a tensor")
        shape, dtype = _meta(node)
        if dtype not in INPUT_DTYPES:
            raise Refused(
                f"has type {dtype}; only {', '.join(INPUT_DTYPES)} inputs are supported; export or "
                "convert the model to float32"
            )
        # Not a name that TVM gives to bindings.
        name = f"input{len(self.values)}"
        value = relax.Var(name, relax.TensorType(shape, dtype))
        self.sources[name] = node.name
        self.values[node.name] = Value(shape, dtype, value)

    def _output(self, spec: Any, outputs: list[str]) -> None:
        if spec.kind == OutputKind.USER_OUTPUT:
            if not isinstance(spec.arg, TensorArgument):
                raise Refused("is not a tensor")
            if spec.arg.name in outputs:
                raise Refused("is returned twice")
            outputs.append(spec.arg.name)
            return
        raise Refused(
            f"the program updates {quoted(spec.target)} ({spec.kind.name.lower()}); call "
            "model.eval() before torch.export.export"
        )

    def _node(self, node: Any) -> None:
        if node.op != "call_function" or not _is_known(node.target):
            self.problems.add_unknown(_operator(node.target), node.name)
            return
        if any(n.name not in self.values for n in node.all_input_nodes):
            # The root of the trouble is reported already.
            return
        if _operator(node.target) in ALIASES:
            self.values[node.name] = self.values[node.all_input_nodes[0].name]
            return
        if node.target is operator.getitem:
            if node.args[1] != 0:
                raise Refused(f"uses output {node.args[1]} of {quoted(node.args[0].name)}")
            self.values[node.name] = self.values[node.args[0].name]
            return
        shape, dtype = _meta(node)
        try:
            found = self._converted(node, shape, dtype)
        except Refused:
            unknown = relax.Var("unknown", relax.TensorType(shape, dtype))
            self.values[node.name] = Value(shape, dtype, unknown)
            raise
        self.values[node.name] = found

    def _converted(self, node: Any, shape: tuple[int, ...], dtype: str) -> Value:
        name = _operator(node.target)
        n = Node(node, shape, dtype, self.values, self.bb, self.sources)
        try:
            found = CONVERTERS[name](n)
            if isinstance(found, Value):
                return found
            bound = n.emit(found)
            got, kind = tuple(shape_of(bound)), str(bound.ty.dtype)
        except Refused:
            raise
        except Exception as error:
            # TVM reports what it does not take with whatever exception type is at hand.
            raise Refused(f"TVM cannot import it ({reason_of(error)})") from None
        if (got, kind) != (shape, dtype):
            raise Refused(f"gives {kind} {list(got)} where torch expects {dtype} {list(shape)}")
        return Value(shape, dtype, bound)


def _meta(node: Any) -> tuple[tuple[int, ...], str]:
    kind = node.meta.get("val")
    # Of several outputs only the first is imported.
    kind = kind[0] if isinstance(kind, tuple | list) and kind else kind
    if not isinstance(kind, torch.Tensor):
        raise Refused(f"is {type(kind).__name__}, not a tensor")
    return _meta_of(kind)


def _meta_of(kind: Any) -> tuple[tuple[int, ...], str]:
    if not all(isinstance(d, int) for d in kind.shape):
        raise Refused(
            f"has the dynamic shape {plain(list(kind.shape))}; fix the batch size: export without "
            "dynamic_shapes"
        )
    shape = tuple(int(d) for d in kind.shape)
    check_shape(shape)
    dtype = str(kind.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise Refused(f"has type {dtype}, which is not supported; export the model in float32")
    return shape, dtype


def _stored(tensor: Any) -> Value:
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise Refused("its value is not a dense tensor")
    shape, dtype = _meta_of(tensor)
    data = np.array(tensor.detach().cpu().numpy(), copy=True)
    return Value(shape, dtype, data=data)
