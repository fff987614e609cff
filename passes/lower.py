"""Every ``qnn.*`` operator becomes a call of a scheduled PrimFunc.

A convolution takes its epilogue (``qnn.requantize``, ``qnn.threshold`` or ``qnn.affine``) and the
``qnn.pack`` behind it into its kernel where nobody else reads what lies between. Weights leave the
function: they are stored as dense bit streams in a second function, ``prepare``, which unpacks them
into the layout of the kernels when the program is loaded. Its results are the last arguments of
``main``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, build, codes_of, is_op, shape_of
from tvm_qnn.ops.workload import CodebookWork, ConvWork
from tvm_qnn.passes.epilogues import EPILOGUES, epilogue_of, taken_epilogues
from tvm_qnn.passes.lower_fixed import LowerFixed, is_fixed
from tvm_qnn.passes.lower_pointwise import lower_pointwise
from tvm_qnn.passes.rewrite import Rewriter, add_function, constant, rewrite
from tvm_qnn.passes.workloads import CODEBOOK, CONVOLUTIONS, KERNELS, codebook_work_of, work_of
from tvm_qnn.schedules import codebook_epilogue, family
from tvm_qnn.schedules.database import UNTUNED, Database
from tvm_qnn.schedules.epilogue import output_type
from tvm_qnn.schedules.family import Family, Kernel
from tvm_qnn.spec import Codes, pack_stream
from tvm_qnn.targets.record import Target


@dataclass(frozen=True)
class Weights:
    """The weights of one operator, as they are stored and as its kernel reads them.

    Attributes:
        operator: its name.
        kernel: the kernel.
        work: the convolution that it computes, None for what is no convolution.
        stream: dense bit stream of the codes.
    """

    operator: str
    kernel: Kernel
    work: ConvWork | CodebookWork | None
    stream: NDArray[np.uint8]


@dataclass
class Prepared:
    """Weights that ``prepare`` unpacks, in the order of the extra arguments of ``main``."""

    weights: list[Weights] = field(default_factory=list)
    variables: list[Any] = field(default_factory=list)

    def add(
        self, operator: str, kernel: Kernel, work: ConvWork | CodebookWork | None,
        weights: NDArray[Any], codes: Codes,
    ) -> Any:  # fmt: skip
        """Register weight codes of range ``codes`` and return their argument of ``main``."""
        kind = relax.TensorType(list(kernel.packed_shape), kernel.packed_dtype)
        self.weights.append(Weights(operator, kernel, work, pack_stream(weights, codes)))
        self.variables.append(relax.Var(f"w{len(self.variables)}", kind))
        return self.variables[-1]


@dataclass(frozen=True)
class Lowered:
    """The module with kernels, and what the manifest tells about them.

    Attributes:
        module: functions ``main`` and ``prepare``.
        kernels: for each operator with weights, by its name: the kernel's name, the work (None for
            what is no convolution), the bytes of packed weights.
        prepared: number of extra arguments of ``main``.
    """

    module: Any
    kernels: dict[str, tuple[str, ConvWork | CodebookWork | None, int]]
    prepared: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of all packed weights."""
        return sum(stored for _, _, stored in self.kernels.values())


def lower(mod: Any, target: Target, tuned: Database = UNTUNED) -> Lowered:
    """Return the module without any ``qnn.*`` operator.

    Args:
        mod: after ``plan_layout``.
        target: the device.
        tuned: records of tuned kernels, which take the place of default schedules.
    """
    prepared = Prepared()
    fixed = LowerFixed(target, prepared)
    taken = taken_epilogues(mod)

    def visit(rewriter: Rewriter, call: Any, name: str) -> Any:
        if is_op(call, *KERNELS):
            if name in taken:
                return None
            make = codebook if is_op(call, CODEBOOK) else convolution
            return make(rewriter, call, [], name)
        if is_op(call, *EPILOGUES):
            source = rewriter.defined_by(call.args[0], *KERNELS)
            if source is not None and is_op(source, CODEBOOK):
                return codebook(rewriter, source, [call], name)
            if source is not None:
                if rewriter.used_only_by("qnn.pack") and not is_op(call, "qnn.affine"):
                    return None
                return convolution(rewriter, source, [call], name)
        if is_op(call, "qnn.pack"):
            epilogue = rewriter.defined_by(call.args[0], "qnn.requantize", "qnn.threshold")
            if epilogue is not None:
                source = rewriter.defined_by(epilogue.args[0], *CONVOLUTIONS)
                return convolution(rewriter, source, [epilogue, call], name)
        if is_fixed(call):
            return fixed(rewriter, call, name)
        return lower_pointwise(rewriter, call, target)

    def convolution(rewriter: Rewriter, call: Any, after: list[Any], name: str) -> Any:
        attrs = attrs_of(call)
        codes = codes_of(attrs, "w_")
        weights = constant(call.args[1])
        assert weights is not None
        ohwi = weights[:, None, None, :] if weights.ndim == 2 else weights
        work = work_of(call).with_epilogue(epilogue_of(after))
        kernel = build_kernel(family(attrs["kernel"]), work, ohwi)
        variable = prepared.add(name, kernel, work, ohwi, codes)
        parameters = _parameters(after[0], work.out_channels) if after else []
        result = after[-1] if after else call
        arguments = [
            _image(rewriter, call, work),
            variable,
            *[build.const(c, "int32") for c in kernel.constants],
            *parameters,
        ]
        function = rewriter.function(kernel.func, kernel.name)
        shape, dtype = output_type(work)
        y = relax.call_tir(function, arguments, relax.TensorType(shape, dtype))
        if list(shape) == shape_of(result):
            return y
        return relax.op.reshape(rewriter.emit(y, f"{name}_image"), shape_of(result))

    def codebook(rewriter: Rewriter, call: Any, after: list[Any], name: str) -> Any:
        index, table = constant(call.args[1]), constant(call.args[2])
        assert index is not None
        assert table is not None
        work = codebook_work_of(call).with_epilogue(epilogue_of(after))
        kernel = build_kernel(family(attrs_of(call)["kernel"], codebook=True), work, index)
        arguments = [
            call.args[0],
            prepared.add(name, kernel, work, index, work.conv.w),
            *[build.const(c, "int32") for c in kernel.constants],
            build.const(np.ascontiguousarray(table.T), "float32"),
            *(_parameters(after[0], work.conv.out_channels) if after else []),
        ]
        function = rewriter.function(kernel.func, kernel.name)
        out = codebook_epilogue.output_type(work)
        return relax.call_tir(function, arguments, relax.TensorType(*out))

    def build_kernel(chosen: Family[Any], work: Any, weights: NDArray[Any]) -> Kernel:
        record = tuned.find(chosen, work, target)
        return chosen.build(work, target, weights, None if record is None else record.trace)

    module = rewrite(mod, visit, prepared.variables)
    kernels = {w.operator: (w.kernel.name, w.work, w.stream.nbytes) for w in prepared.weights}
    return Lowered(_with_prepare(module, prepared), kernels, len(prepared.variables))


def _parameters(epilogue: Any, channels: int) -> list[Any]:
    """Return the parameters of an epilogue as kernels take them, one value for each channel."""
    first, second = (constant(a) for a in epilogue.args[1:])
    assert first is not None
    assert second is not None
    if is_op(epilogue, "qnn.threshold"):
        return [build.const(np.ascontiguousarray(first.T), "int32"), build.const(second, "int32")]
    return [
        build.const(np.broadcast_to(p.reshape(-1), channels), "float32") for p in (first, second)
    ]


def _image(rewriter: Rewriter, call: Any, work: ConvWork) -> Any:
    """Return the activations of a matrix product as an image of one row."""
    if not is_op(call, "qnn.dense"):
        return call.args[0]
    tail = shape_of(call.args[0])[-2 if work.x_planes else -1 :]
    return rewriter.emit(relax.op.reshape(call.args[0], [1, 1, work.width, *tail]), "rows")


def _with_prepare(mod: Any, prepared: Prepared) -> Any:
    """Add the function that unpacks the weights."""
    builder = relax.BlockBuilder(mod)
    with builder.function("prepare", []):
        results = []
        for weights, variable in zip(prepared.weights, prepared.variables, strict=True):
            source = build.const(weights.stream, "uint8")
            kernel = weights.kernel
            function = add_function(builder, kernel.prepare, f"{kernel.name}_weights")
            results.append(builder.emit(relax.call_tir(function, [source], variable.ty)))
        builder.emit_func_output(relax.Tuple(results))
    return builder.get()
