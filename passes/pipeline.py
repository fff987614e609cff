"""The phases in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_qnn.passes.canonicalize import canonicalize
from tvm_qnn.passes.channels_last import channels_last
from tvm_qnn.passes.explain import explain
from tvm_qnn.passes.fold_epilogues import fold_epilogues
from tvm_qnn.passes.fuse_memory import fuse_memory
from tvm_qnn.passes.infer_quantization import infer_quantization
from tvm_qnn.passes.lower import Lowered, lower
from tvm_qnn.passes.plan_layout import plan_layout
from tvm_qnn.passes.recognize import recognize
from tvm_qnn.passes.select_kernels import select_kernels
from tvm_qnn.passes.verifier import verify_module
from tvm_qnn.schedules.database import UNTUNED, Database
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.targets.record import Target

Dump = Callable[[str, Any], None]


@dataclass(frozen=True)
class IntegerProgram:
    """A module in the ``qnn`` dialect, the same for every target.

    Attributes:
        module: after ``fold_epilogues``.
        refusals: what stays float, and why.
    """

    module: Any
    refusals: tuple[Refusal, ...]


def to_integers(mod: Any, dump: Dump | None = None) -> IntegerProgram:
    """Turn an imported module into an integer program.

    Args:
        mod: the module of a frontend.
        dump: called with the name of each phase and the module after it.
    """
    refusals: list[Refusal] = []
    phases: list[tuple[str, Callable[[Any], Any]]] = [
        ("canonicalize", canonicalize),
        ("infer_quantization", infer_quantization),
        ("recognize", lambda m: recognize(m, refusals)),
        ("channels_last", channels_last),
        ("fold_epilogues", fold_epilogues),
    ]
    for name, phase in phases:
        mod = phase(mod)
        verify_module(mod, name)
        if dump is not None:
            dump(name, mod)
    explain(mod, refusals)
    return IntegerProgram(mod, tuple(refusals))


def choose_kernels(
    mod: Any, target: Target, lowering: str = "auto", tuned: Database = UNTUNED
) -> Any:
    """Choose kernels and layouts for a target: the module that ``lower`` takes."""
    for name, phase in (
        ("select_kernels", lambda m: select_kernels(m, target, lowering, tuned)),
        ("plan_layout", plan_layout),
        ("fuse_memory", fuse_memory),
    ):
        mod = phase(mod)
        verify_module(mod, name)
    return mod


def to_kernels(mod: Any, target: Target, tuned: Database = UNTUNED) -> Lowered:
    """Replace every ``qnn.*`` operator by its kernel."""
    lowered = lower(mod, target, tuned)
    verify_module(lowered.module, "lower")
    return lowered
