"""A variant compiled: the artifact, its kernels one by one, and what can be counted."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_qnn import compiler
from tvm_qnn.compare.energy import operations, picojoules
from tvm_qnn.compare.models import Model
from tvm_qnn.compare.operators import operators_of
from tvm_qnn.compare.rows import Operator, Variant
from tvm_qnn.compare.steps import Step, Steps, steps_of
from tvm_qnn.passes.lower import Lowered
from tvm_qnn.schedules.database import Database
from tvm_qnn.targets import Target


@dataclass(frozen=True)
class Built:
    """A compiled variant.

    Attributes:
        variant: what could be counted.
        target: what it is for.
        artifact: the compiled model.
        lowered: its module of kernels.
        steps: its kernels with their arguments.
        operators: its kernels without their costs.
    """

    variant: Variant
    target: Target
    artifact: compiler.Artifact
    lowered: Lowered
    steps: Steps
    operators: list[tuple[Operator, Step]]


def build(model: Model, target: Target, lowering: str, tuned: Database) -> Built:
    """Compile a model in one way for one target."""
    made = compiler.build(model.imported, target, lowering, tuned)
    artifact = compiler.save(made, model.imported)
    steps = steps_of(made.lowered.module, target, model.ordered)
    inspection = made.inspection
    counts = operations(inspection.rows)
    packed, full = inspection.weight_bytes, inspection.float_weight_bytes
    variant = Variant(
        model=model.name,
        target=target.name,
        lowering=lowering,
        weight_bits=32 * packed / full if full else None,
        weight_bytes=packed,
        float_weight_bytes=full,
        artifact_bytes=sum(file.stat().st_size for file in artifact.path.iterdir()),
        planned_bytes=steps.planned_bytes,
        macs=inspection.macs,
        picojoules=picojoules(counts),
        operations=counts,
        refusals=tuple(map(str, inspection.refusals)),
    )
    operators = operators_of(steps, made.module, inspection.rows, model.imported)
    return Built(variant, target, artifact, made.lowered, steps, operators)
