"""Check a compiled model layer by layer against the numpy definitions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn import emulation, targets
from tvm_qnn._tvm import relax, tirx, tvm
from tvm_qnn.arrays import TensorInfo, batches, joined, random_arrays, write_npz
from tvm_qnn.artifact import write_artifact
from tvm_qnn.compiler import build_executable, prepared, read, records, resolve
from tvm_qnn.errors import TargetError
from tvm_qnn.evaluate import evaluate
from tvm_qnn.frontend import Imported
from tvm_qnn.gpu import emulator
from tvm_qnn.gpu.here import on_gpu
from tvm_qnn.inspection import source_name
from tvm_qnn.ops import attrs_of, is_op, make, shape_of
from tvm_qnn.ops.fixed import FIXED_OPERATORS
from tvm_qnn.passes.pipeline import to_kernels
from tvm_qnn.passes.rewrite import Rewriter, calls, name_of, rewrite
from tvm_qnn.schedules.database import UNTUNED, Database
from tvm_qnn.targets import Target

Array = NDArray[Any]
_MOVES = ("relax.reshape", "relax.permute_dims")
_STATED = ("qnn.fixed_output",)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Layer:
    """One operator of the compiled model, compared with its definition.

    Attributes:
        name: node of the source.
        elements: number of elements.
        differing: how many differ.
        exact: whether the elements must be equal: integers, and floats whose definition states the
            order of every sum. Other floats are compared too, but only reported.
        example: index, value and defined value of the first difference.
    """

    name: str
    elements: int
    differing: int
    exact: bool
    example: tuple[tuple[int, ...], Any, Any] | None

    def joined(self, other: Layer) -> Layer:
        """Add the comparison of the same operator on more inputs."""
        return replace(
            self,
            elements=self.elements + other.elements,
            differing=self.differing + other.differing,
            example=self.example or other.example,
        )


@dataclass(frozen=True)
class Verification:
    """The outcome for all operators, in order."""

    layers: tuple[Layer, ...]
    outputs: dict[str, Array]

    @property
    def first_wrong(self) -> Layer | None:
        """The first operator whose integers differ from the definition."""
        return next((layer for layer in self.layers if layer.exact and layer.differing), None)


def verify(
    model: Any, inputs: Mapping[str, Array] | None = None, target: str | Target = "host", *,
    lowering: str = "auto", batch: int | None = None, limit: int | None = None,
    database: str | Path | Database | None = None,
    progress: Progress = lambda done, total: None,
) -> Verification:  # fmt: skip
    """Compile a model so that every operator's result can be seen, and compare them all.

    Args:
        model: as for :func:`tvm_qnn.compile`.
        inputs: arrays by name, any multiple of the model's batch; random ones if None.
        target: must run on this machine, or on an emulated board.
        lowering: as for :func:`tvm_qnn.compile`.
        batch: as for :func:`tvm_qnn.compile`.
        limit: compare this many batches at most.
        database: as for :func:`tvm_qnn.compile`.
        progress: called with the number of batches done and their total.

    Raises:
        InputError: if the inputs do not fit the model.
        TargetError: if code for the target does not run here.
    """
    device = resolve(target)
    if lowering == "float":
        raise TargetError("lowering 'float' has no integers to verify; leave it out")
    imported = read(model, batch=batch)
    arrays = random_arrays(imported.inputs) if inputs is None else dict(inputs)
    pieces = list(batches(imported.inputs, arrays))[:limit]
    tuned = records(database)
    chosen, _ = prepared(imported, device, lowering, tuned)
    run = observed(chosen, imported, device, tuned)
    stated = stated_floats(chosen)
    parameters = [name_of(p) for p in chosen["main"].params]
    layers: dict[str, Layer] = {}
    outputs: list[list[Array]] = []
    for done, piece in enumerate(pieces):
        progress(done, len(pieces))
        ordered = [piece[info.name] for info in imported.inputs]
        # Parameters have the names of the inputs as far as Relax allows them.
        defined = evaluate(chosen, dict(zip(parameters, ordered, strict=True)))
        results = run(ordered)
        for name in (n for n in defined if n in results):
            exact = name in stated or results[name].dtype.kind in "iub"
            layer = _compare(source_name(name, imported), results[name], defined[name], exact)
            layers[name] = layer if name not in layers else layers[name].joined(layer)
        outputs.append(defined[""])
    progress(len(pieces), len(pieces))
    whole = [joined(parts) for parts in zip(*outputs, strict=True)]
    named = {o.name: v for o, v in zip(imported.outputs, whole, strict=True)}
    return Verification(tuple(layers.values()), named)


def stated_floats(mod: Any) -> set[str]:
    """Return the operators whose definition states the order of every float sum, by name."""
    return {name for name, call in calls(mod) if is_op(call, *_STATED)}


def observed(
    chosen: Any, imported: Imported, device: Target, tuned: Database = UNTUNED
) -> Callable[[list[Array]], dict[str, Array]]:
    """Build a module so that the results of its operators can be seen.

    Args:
        chosen: after ``fuse_memory``.
        imported: the model behind it.
        device: must run on this machine, or on an emulated board.
        tuned: records of tuned kernels.

    Returns:
        what computes, from the inputs in their order, the results by the names of the operators.

    Raises:
        TargetError: if code for the target does not run here.
    """
    # The program as it is, and where operators are fused, one that shows their results.
    programs = [chosen, *([_opened(chosen)] if _fused(chosen) else [])]
    lowered = [_exposed(to_kernels(program, device, tuned).module) for program in programs]
    runners = [_runner(module, exposed, imported, device) for module, exposed in lowered]
    blocks = chosen["main"].body.blocks
    known = {name_of(binding.var) for block in blocks for binding in block.bindings}

    def run(ordered: list[Array]) -> dict[str, Array]:
        results: dict[str, Array] = {}
        for runner in runners:
            found = {
                n if n in known else n.removesuffix("_out"): r for n, r in runner(ordered).items()
            }
            results = {**found, **results}
        return results

    return run


def _fused(mod: Any) -> bool:
    return any(
        is_op(call, *FIXED_OPERATORS) and "kernel" in attrs_of(call) for _, call in calls(mod)
    )


def _opened(mod: Any) -> Any:
    """Return a module that returns the results of all fused operators, too."""

    def visit(_rewriter: Rewriter, call: Any, _name: str) -> Any:
        if not is_op(call, *FIXED_OPERATORS) or "kernel" not in attrs_of(call):
            return None
        return make(call.op.name, call.args, **{**attrs_of(call), "outside": 1})

    main = rewrite(mod, visit)["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    builder = relax.BlockBuilder()
    new: dict[Any, Any] = {}
    params = [relax.Var(name_of(p), p.ty) for p in main.params]
    new.update(zip(main.params, params, strict=True))
    with builder.function("main", params):
        for binding in bindings:
            new[binding.var] = builder.emit(_rebuilt(binding.value, new), name_of(binding.var))
        fused = [new[b.var] for b in bindings if is_op(b.value, *FIXED_OPERATORS)]
        builder.emit_func_output(relax.Tuple([_rebuilt(main.body.body, new), *fused]))
    return builder.get()


def _rebuilt(expr: Any, new: Mapping[Any, Any]) -> Any:
    """Return an expression of new variables."""
    if isinstance(expr, relax.Var):
        return new[expr]
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_rebuilt(e, new) for e in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_rebuilt(expr.tuple_value, new), expr.index)
    if isinstance(expr, relax.Call):
        return relax.Call(expr.op, [_rebuilt(a, new) for a in expr.args], expr.attrs, expr.ty_args)
    return expr


def _runner(
    module: Any, exposed: list[TensorInfo], imported: Imported, device: Target
) -> Callable[[list[Array]], dict[str, Array]]:
    """Return what computes all operators of an exposed module: here, or on an emulated board.

    Raises:
        TargetError: if neither is possible.
    """
    reached = targets.reachable(device)
    if device.gpu is not None and reached.startswith("native"):
        with on_gpu(device) as here:
            return _in_process(build_executable(module, here), exposed, tvm.cuda(0))
    if device.gpu is not None:
        if lacking := emulator.missing():
            raise TargetError(f"verify emulates {device.name}: {lacking}")
        with emulator.emulated(device) as here:
            return _in_process(build_executable(module, here), exposed)
    executable = build_executable(module, device.tvm())
    if reached.startswith("native"):
        return _in_process(executable, exposed)
    lacking = emulation.available()
    if device.qemu_cpu is None or lacking is not None:
        raise TargetError(f"verify runs the code; {device.name} is {lacking or reached}")
    inputs = [asdict(info) for info in imported.inputs]
    fields = {
        "model": imported.name,
        "inputs": inputs,
        "outputs": [asdict(info) for info in exposed],
        "prepared": len(module["main"].params) - len(inputs),
    }

    # The folder goes with the last reference to the function.
    scratch = tempfile.TemporaryDirectory(prefix="tvm-qnn-")
    bundle = write_artifact(executable, fields, Path(scratch.name) / "all", device, bundle=True)

    def emulated(ordered: list[Array]) -> dict[str, Array]:
        source = Path(scratch.name) / "in.npz"
        names = (info.name for info in imported.inputs)
        write_npz(source, dict(zip(names, ordered, strict=True)))
        return emulation.run_emulated(bundle, str(device.qemu_cpu), source)

    return emulated


def _in_process(
    executable: Any, exposed: list[TensorInfo], device: Any = None
) -> Callable[[list[Array]], dict[str, Array]]:
    """Return what computes all operators in this process, on the CPU if no device is given."""
    machine = relax.VirtualMachine(executable, device or tvm.cpu())
    weights = list(machine["prepare"]())

    def run(ordered: list[Array]) -> dict[str, Array]:
        given = [tvm.runtime.tensor(array, device) for array in ordered]
        results = machine["main"](*given, *weights)
        return {info.name: r.numpy() for info, r in zip(exposed, results, strict=True)}

    return run


def _exposed(mod: Any) -> tuple[Any, list[TensorInfo]]:
    """Let ``main`` return the results of all its kernels, and describe them."""
    main = mod["main"]
    variables = [
        binding.var
        for block in main.body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call | relax.TupleGetItem)
        and isinstance(binding.var.ty, relax.TensorType)
        and (not is_op(binding.value, *_MOVES) or _names_a_kernel(binding))
    ]
    new: dict[Any, Any] = {}
    builder = relax.BlockBuilder(mod)
    params = [relax.Var(name_of(p), p.ty) for p in main.params]
    new.update(zip(main.params, params, strict=True))

    with builder.function("exposed", params):
        for block in main.body.blocks:
            for binding in block.bindings:
                new[binding.var] = builder.emit(_rebuilt(binding.value, new), name_of(binding.var))
        builder.emit_func_output(relax.Tuple([new[v] for v in variables]))
    result = builder.get()
    functions = {gv: f for gv, f in result.functions.items() if gv.name_hint == "prepare"}
    functions |= {gv: f for gv, f in result.functions.items() if isinstance(f, tirx.PrimFunc)}
    exposed = result["exposed"].with_attr("global_symbol", "main")
    module = tvm.IRModule({**functions, result.get_global_var("main"): exposed})
    infos = [TensorInfo(name_of(v), tuple(shape_of(v)), str(v.ty.dtype)) for v in variables]
    return module, infos


def _names_a_kernel(binding: Any) -> bool:
    """Tell whether a reshape gives the image that a kernel made the shape of its operator."""
    source = binding.value.args[0]
    return isinstance(source, relax.Var) and name_of(source).startswith(
        f"{name_of(binding.var)}_image"
    )


def _compare(name: str, result: Array, defined: Array, exact: bool) -> Layer:
    same = result == defined
    if not exact:
        same |= np.isnan(result) & np.isnan(defined)
    example = None
    if not same.all():
        where = tuple(int(i) for i in np.argwhere(~same)[0])
        example = (where, result[where].item(), defined[where].item())
    return Layer(name, result.size, int((~same).sum()), exact, example)
