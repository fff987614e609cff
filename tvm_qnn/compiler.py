"""Compile a trained low-bit network: the phases, TVM's own pipeline, and the artifact."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm.relax.backend import cpu_generic, gpu_generic

from tvm_qnn import targets
from tvm_qnn._tvm import relax, tvm
from tvm_qnn.artifact import check_output, write_artifact
from tvm_qnn.description import describe
from tvm_qnn.errors import TargetError
from tvm_qnn.frontend import Imported, import_model
from tvm_qnn.gpu.kernels import Kernels, captured
from tvm_qnn.inspection import Inspection, inspect_module
from tvm_qnn.passes.canonicalize import canonicalize
from tvm_qnn.passes.lower import Lowered, lower
from tvm_qnn.passes.pipeline import choose_kernels, to_integers, to_kernels
from tvm_qnn.schedules import FAMILIES
from tvm_qnn.schedules.database import UNTUNED, Database, load, shipped
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.targets import Target

if TYPE_CHECKING:
    from tvm_qnn.manifest import Manifest
    from tvm_qnn.runtime import Program


@dataclass(frozen=True)
class Artifact:
    """A compiled model on disk.

    Attributes:
        path: its folder.
        inspection: what became of each operator.
    """

    path: Path
    inspection: Inspection
    _keep: Any = field(default=None, repr=False, compare=False)

    @cached_property
    def manifest(self) -> Manifest:
        """Inputs, outputs, kernels, versions and checksums."""
        from tvm_qnn.manifest import read_manifest

        return read_manifest(self.path)

    @cached_property
    def program(self) -> Program:
        """The model, loaded for this machine."""
        from tvm_qnn.runtime import load

        return load(self.path)

    def run(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Run the model on this machine; see :meth:`tvm_qnn.runtime.Program.run`."""
        return self.program.run(arrays)


def resolve(target: str | Target) -> Target:
    """Return a target record by name, or the record itself."""
    return targets.get(target) if isinstance(target, str) else target


def lowerings() -> list[str]:
    """Return what ``lowering`` may be."""
    return ["auto", *[f.name for f in FAMILIES], "float"]


def compile(
    model: Any,
    target: str | Target = "host",
    output: str | Path | None = None,
    *,
    lowering: str = "auto",
    bundle: bool = False,
    batch: int | None = None,
    database: str | Path | Database | None = None,
) -> Artifact:
    """Compile a model for a target.

    Args:
        model: path of an ONNX file, ``zoo:NAME``, ``onnx.ModelProto``, Relax ``IRModule``, or
            ``torch.export.ExportedProgram``.
        target: name (see :func:`tvm_qnn.targets.names`) or record of the device.
        output: folder of the artifact; a temporary one that lives as long as the result if None.
        lowering: ``auto`` takes the best kernel family for each operator, a family's name that
            family wherever it can, ``float`` leaves the whole network to plain TVM.
        bundle: add what the device needs to run the artifact without this package.
        batch: batch size where the model leaves it open.
        database: records of :func:`tvm_qnn.tune`, which are used beside those that come with the
            package: a folder, or the records themselves, which then are the only ones; ``none``
            leaves all kernels at their default schedules.

    Raises:
        QnnError: with one clear line, for anything that the caller can do something about.
    """
    device = resolve(target)
    if output is not None:
        check_output(output)
    imported = read(model, batch=batch)
    return save(build(imported, device, lowering, records(database)), imported, output, bundle)


def inspect(
    model: Any,
    target: str | Target = "host",
    *,
    lowering: str = "auto",
    batch: int | None = None,
    database: str | Path | Database | None = None,
) -> Inspection:
    """Tell what becomes of each operator of a model on a target, without building it."""
    device = resolve(target)
    imported = read(model, batch=batch)
    module, refusals = prepared(imported, device, lowering, records(database))
    return inspect_module(module, refusals, imported, device)


def read(model: Any, batch: int | None = None) -> Imported:
    """Import a model; ``zoo:NAME`` is one of the models that ship with the package."""
    if isinstance(model, str) and model.startswith("zoo:"):
        from tvm_qnn import zoo

        model = zoo.path(model)
    return import_model(model, batch=batch)


def records(database: str | Path | Database | None) -> Database:
    """Return the records of a folder and of the package, or those that are given.

    Raises:
        DatabaseError: if there is no such folder, or a file is damaged.
    """
    if isinstance(database, Database):
        return database
    if str(database) == "none":
        return UNTUNED
    return Database([*shipped(), *(load(database) if database is not None else ())])


def prepared(
    imported: Imported, target: Target, lowering: str = "auto", tuned: Database = UNTUNED
) -> tuple[Any, tuple[Refusal, ...]]:
    """Return the module that ``lower`` takes, and what stays float.

    Raises:
        TargetError: if there is no such lowering.
    """
    if lowering not in lowerings():
        raise TargetError(f"lowering {lowering!r}: choose one of {', '.join(lowerings())}")
    if lowering == "float":
        return canonicalize(imported.module), ()
    program = to_integers(imported.module)
    return choose_kernels(program.module, target, lowering, tuned), program.refusals


@dataclass(frozen=True)
class Built:
    """A built model.

    Attributes:
        target: what it is for.
        module: with a chosen kernel for each operator, before it was lowered.
        lowered: the module of kernels.
        executable: what the device runs.
        kernels: what a GPU runs, None for CPUs.
        inspection: what became of each operator.
    """

    target: Target
    module: Any
    lowered: Lowered
    executable: Any
    kernels: Kernels | None
    inspection: Inspection


def build(
    imported: Imported, target: Target, lowering: str = "auto", tuned: Database = UNTUNED
) -> Built:
    """Lower and build an imported model."""
    module, refusals = prepared(imported, target, lowering, tuned)
    inspection = inspect_module(module, refusals, imported, target)
    lowered = lower(module, target) if lowering == "float" else to_kernels(module, target, tuned)
    with nullcontext() if target.gpu is None else captured() as kernels:
        executable = build_executable(lowered.module, target.tvm())
    return Built(target, module, lowered, executable, kernels, inspection)


def save(
    built: Built, imported: Imported, output: str | Path | None = None, bundle: bool = False
) -> Artifact:
    """Write an artifact; see :func:`compile` for ``output`` and ``bundle``."""
    keep = None
    if output is None:
        keep = tempfile.TemporaryDirectory(prefix="tvm-qnn-")
        output = Path(keep.name) / "artifact"
    fields = {
        "model": imported.name,
        "inputs": [asdict(i) for i in imported.inputs],
        "outputs": [asdict(o) for o in imported.outputs],
        "prepared": built.lowered.prepared,
        "quantization": describe(built.module, built.inspection, imported),
        "kernels": [asdict(r) for r in built.inspection.rows],
        "sizes": {"packed weights": built.lowered.weight_bytes},
    }
    path = write_artifact(
        built.executable, fields, output, built.target, bundle, kernels=built.kernels
    )
    return Artifact(path, built.inspection, keep)


def build_executable(mod: Any, device: Any) -> Any:
    """Run TVM's pipeline on a lowered module for a ``tvm.target.Target``, without constant folding.

    Folding would run ``prepare`` now and store the unpacked weights.
    """
    with device:
        return tvm.compile(mod, device, relax_pipeline=tvm.transform.Sequential(_pipeline(device)))


def _pipeline(device: Any) -> Sequence[Any]:
    generic = _generic(device)
    return [
        *grouping_passes(device),
        relax.transform.FuseTIR(),
        *([_gpu_schedules()] if generic is gpu_generic else []),
        *generic.pipeline.dataflow_lower_passes(device),
        *generic.pipeline.finalize_passes(device),
    ]


def _generic(device: Any) -> Any:
    """Return TVM's passes for the kind of a device."""
    return gpu_generic if device.kind.name == "cuda" else cpu_generic


def _gpu_schedules() -> Any:
    """Return TVM's default schedules for GPUs; kernels of this package are scheduled already."""
    from tvm.s_tir.dlight import ApplyDefaultSchedule, gpu

    return ApplyDefaultSchedule(
        gpu.Matmul(), gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction(), gpu.Fallback()
    )


def grouping_passes(device: Any) -> Sequence[Any]:
    """Return the passes after which every kernel is a function, with the names of its operators."""
    transform = relax.transform
    return [
        *_generic(device).pipeline.library_dispatch_passes(device),
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FuseOps(),
    ]
