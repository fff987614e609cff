"""The record that describes a device to the compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_qnn.errors import TargetError


@dataclass(frozen=True)
class Rates:
    """Peak rates of one core, the analytic cost of a kernel family before anything is measured.

    Attributes:
        dot: 8-bit multiply-accumulates a cycle; of a GPU, as all of them, of one multiprocessor.
        bitserial: AND-popcount-accumulates of single bits a cycle.
        reference: multiply-accumulates a cycle of plain scalar code.
        source: where the figures come from.
        tensor8: 8-bit multiply-accumulates a cycle of tensor cores.
        tensor1: single-bit ones.
    """

    dot: float
    bitserial: float
    reference: float
    source: str
    tensor8: float = 0
    tensor1: float = 0


@dataclass(frozen=True)
class Gpu:
    """The chip of a GPU.

    Attributes:
        arch: NVIDIA's name of its instructions, such as ``sm_80``.
        tensor: tensor core instructions that the chip executes as such: ``s8`` (mma m16n8k32),
            ``b1`` (mma m16n8k256 with AND) and ``s4`` (mma m16n8k64). What it lacks the compiler
            replaces by slow sequences, which kernels avoid.
        processors: streaming multiprocessors of the largest chip of its kind.
        bandwidth: bytes that its memory delivers in a cycle of a multiprocessor.
        portable: kernels are stored as PTX, which the driver of any later chip compiles.
        threads: of a block at most.
        shared_bytes: of shared memory that a block may declare.
    """

    arch: str
    tensor: frozenset[str]
    processors: int
    bandwidth: int
    portable: bool = False
    threads: int = 1024
    shared_bytes: int = 48 * 1024


@dataclass(frozen=True)
class Target:
    """A device: what code to make for it, how to link it, and what it is good at.

    Attributes:
        name: what users write after ``--target``.
        description: the device in words.
        triple: LLVM target triple; of a GPU's host, as all that is about a CPU.
        cpu: LLVM processor name; it implies the instruction set.
        arch: ``x86_64`` or ``aarch64``; an artifact loads only where ``platform.machine()`` agrees.
        features: what the kernels ask for: ``avx2``, ``avx512``, ``vnni`` (512-bit VPDPBUSD),
            ``vpopcntdq``, ``neon``, ``dotprod``.
        rates: analytic cost.
        cores: number of cores.
        attributes: LLVM features to add to those of ``cpu``, such as ``+avx512vnni``.
        qemu_cpu: ``-cpu`` of qemu-user that traps on instructions which the device lacks.
        mca_cpu: the processor model of llvm-mca and extra flags, for estimates.
        gpu: what runs the kernels if not the CPU.
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
    gpu: Gpu | None = None

    @property
    def processor(self) -> str:
        """What kernels are written for: ``cuda``, or the architecture of the CPU."""
        return self.arch if self.gpu is None else "cuda"

    @property
    def vector_bytes(self) -> int:
        """The width of a vector register; of a GPU, of one of its threads."""
        if self.gpu is not None:
            return 4
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
        if self.gpu is None:
            return TvmTarget(config)
        return TvmTarget(
            {
                "kind": "cuda",
                "arch": self.gpu.arch,
                "max_threads_per_block": self.gpu.threads,
                "max_shared_memory_per_block": self.gpu.shared_bytes,
                "thread_warp_size": 32,
                "host": config,
            }
        )
