"""The record that describes a device to the compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_qnn.errors import TargetError


@dataclass(frozen=True)
class Rates:
    """Peak rates of one core, the analytic cost of a kernel family before anything is measured.

    Attributes:
        dot: 8-bit multiply-accumulates a cycle.
        bitserial: AND-popcount-accumulates of single bits a cycle.
        reference: multiply-accumulates a cycle of plain scalar code.
        source: where the figures come from.
    """

    dot: float
    bitserial: float
    reference: float
    source: str


@dataclass(frozen=True)
class Target:
    """A device: what code to make for it, how to link it, and what it is good at.

    Attributes:
        name: what users write after ``--target``.
        description: the device in words.
        triple: LLVM target triple.
        cpu: LLVM processor name; it implies the instruction set.
        arch: ``x86_64`` or ``aarch64``; an artifact loads only where ``platform.machine()`` agrees.
        features: what the kernels ask for: ``avx2``, ``avx512``, ``vnni`` (512-bit VPDPBUSD),
            ``vpopcntdq``, ``neon``, ``dotprod``.
        rates: analytic cost.
        cores: number of cores.
        attributes: LLVM features to add to those of ``cpu``, such as ``+avx512vnni``.
        qemu_cpu: ``-cpu`` of qemu-user that traps on instructions which the device lacks.
        mca_cpu: the processor model of llvm-mca and extra flags, for estimates.
    """

    name: str
    description: str
    triple: str
    cpu: str
    arch: str
    features: frozenset[str]
    rates: Rates
    cores: int = 4
    attributes: tuple[str, ...] = ()
    qemu_cpu: str | None = None
    mca_cpu: tuple[str, ...] = ()

    @property
    def vector_bytes(self) -> int:
        """The width of a vector register."""
        return 64 if "avx512" in self.features else 32 if "avx2" in self.features else 16

    def tvm(self) -> Any:
        """Return the ``tvm.target.Target``.

        Raises:
            TargetError: if LLVM does not know the processor, for which TVM would silently make
                code for a generic one.
        """
        from tvm_qnn._tvm import Target as TvmTarget
        from tvm_qnn._tvm import tvm

        if not tvm.target.codegen.llvm_is_valid_cpu(self.cpu, self.triple):
            raise TargetError(
                f"target {self.name}: LLVM knows no processor {self.cpu!r} for {self.triple}"
            )
        config: dict[str, Any] = {
            "kind": "llvm",
            "mtriple": self.triple,
            "mcpu": self.cpu,
            "num-cores": self.cores,
        }
        if self.attributes:
            config["mattr"] = list(self.attributes)
        return TvmTarget(config)
