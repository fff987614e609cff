"""The records of a comparison."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

HERE = "measured here"
REMOTE = "measured over RPC"
ELSEWHERE = "measured in another run"
ESTIMATED = "estimated cycles"
TABLE = "cycles by the cost table"
EMULATED = "emulated (correctness only)"
COUNTED = "counted"
RECORDED = "recorded in the zoo"

KINDS = {
    HERE: "wall time of this machine, median of interleaved rounds",
    REMOTE: "wall time of a board behind a TVM RPC tracker, in the same rounds",
    ELSEWHERE: "wall time of the machine of another report, see Machines",
    ESTIMATED: "executed blocks under qemu-user times llvm-mca cycles of each block, one core; "
    "knows no caches and no mispredicted branches",
    TABLE: "analytic cost of the kernel family; only good for choosing among families",
    EMULATED: "the code ran on an emulated processor: its integers say something, its time nothing",
    COUNTED: "read off the compiled program",
    RECORDED: "measured over the whole test set when the model was published",
}
"""What a figure may be, and what that means."""


@dataclass(frozen=True)
class Cost:
    """The time or the cycles of an inference, or of one kernel.

    Attributes:
        kind: a key of :data:`KINDS`.
        unit: ``seconds`` or ``cycles``.
        median: over the rounds; the figure itself where it was not measured.
        p10: one round in ten was faster.
        p90: nine rounds in ten were faster.
        rounds: how many rounds; 0 where nothing was measured.
        noise: what is wrong with it; "" if nothing.
    """

    kind: str
    unit: str
    median: float
    p10: float
    p90: float
    rounds: int = 0
    noise: str = ""

    @staticmethod
    def model(kind: str, cycles: float) -> Cost:
        """Return cycles that were not measured."""
        return Cost(kind, "cycles", cycles, cycles, cycles)


@dataclass(frozen=True)
class Ratio:
    """How many times faster than another variant, from the pairs of each round.

    Attributes:
        against: label of the other variant.
        median: over the rounds.
        p10: one round in ten gave less.
        p90: one round in ten gave more.
    """

    against: str
    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Roof:
    """Where an operator lies under the roof of its device.

    Attributes:
        intensity: multiply-accumulates for each byte of weights and activations.
        compute: least time of its arithmetic, in the unit of its cost.
        memory: least time of its bytes, in the unit of its cost; 0 where no bandwidth is known.
        bound: ``compute`` or ``memory``, the larger of both; "" where no bandwidth is known.
        share: of the larger of both in the cost: 1 is the roof.
    """

    intensity: float
    compute: float
    memory: float
    bound: str
    share: float


@dataclass(frozen=True)
class Operator:
    """A kernel of the compiled model, under the name of the operator that it computes.

    Attributes:
        name: as ``inspect`` shows it.
        operator: what it is.
        kernel: name of the kernel.
        shape: of its result.
        weight_bits: of a weight; 0 without weights, 32 for float.
        activation_bits: of a code, 32 for float.
        codebook: number of values of M-ary weights, 0 for others.
        macs: multiply-accumulates.
        weight_bytes: of its weights in the artifact.
        moved_bytes: of all that it reads and writes: weights as it reads them, activations.
        gain: how many times faster than by its default schedule; 0 where it is not tuned.
        cost: None where nothing tells it.
        missing: why there is no cost.
        roof: None without a cost, or without multiply-accumulates.
    """

    name: str
    operator: str
    kernel: str
    shape: tuple[int, ...]
    weight_bits: int
    activation_bits: int
    codebook: int
    macs: int
    weight_bytes: int
    moved_bytes: int
    gain: float
    cost: Cost | None
    missing: str
    roof: Roof | None = None


@dataclass(frozen=True)
class Check:
    """Outputs of the compiled program beside the definition, on the inputs that were timed.

    Attributes:
        kind: a key of :data:`KINDS`.
        elements: of all outputs.
        differing: how many of them differ.
        largest: largest difference.
    """

    kind: str
    elements: int
    differing: int
    largest: float


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers.

    Attributes:
        value: 0 to 1.
        samples: how many.
        kind: a key of :data:`KINDS`.
    """

    value: float
    samples: int
    kind: str


@dataclass(frozen=True)
class Variant:
    """A model, compiled in one way for one target.

    Attributes:
        model: its name.
        target: name of the target.
        lowering: as for ``compile``, or ``onnxruntime``.
        machine: key in :attr:`Run.machines` of what was measured on; "" where nothing was.
        latency: of one inference; None where nothing tells it.
        parts: what ``latency`` leaves out, or why there is none; "" if nothing.
        ratio: to the baseline of the model; None where it was not measured beside one.
        operators: in order.
        weight_bits: mean of a stored weight.
        weight_bytes: of the weights in the artifact.
        float_weight_bytes: of the same weights in float32.
        artifact_bytes: of the artifact without what a bundle adds.
        planned_bytes: of weights and activations in memory, as the compiler planned them.
        peak_bytes: that a process needs more at its peak than before it loads the artifact; None
            where it was not measured.
        macs: multiply-accumulates.
        picojoules: modelled energy of the arithmetic.
        operations: how often each operation behind ``picojoules`` happens.
        accuracy: None where nothing tells it.
        check: None where the program did not run.
        refusals: what stays float, why, and what would help.
        inputs: where the inputs come from.
    """

    model: str
    target: str
    lowering: str
    machine: str = ""
    latency: Cost | None = None
    parts: str = ""
    ratio: Ratio | None = None
    operators: tuple[Operator, ...] = ()
    weight_bits: float | None = None
    weight_bytes: int | None = None
    float_weight_bytes: int | None = None
    artifact_bytes: int | None = None
    planned_bytes: int | None = None
    peak_bytes: int | None = None
    macs: int | None = None
    picojoules: float | None = None
    operations: dict[str, float] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    check: Check | None = None
    refusals: tuple[str, ...] = ()
    inputs: str = ""

    @property
    def label(self) -> str:
        """The variant in words."""
        how = "" if self.lowering == "auto" else f", {self.lowering}"
        return f"{self.model} on {self.target}{how}"

    @property
    def tuned(self) -> int:
        """Number of kernels with a tuned schedule."""
        return sum(operator.gain > 0 for operator in self.operators)

    @property
    def tunable(self) -> int:
        """Number of kernels that could be tuned."""
        return sum(operator.kernel.startswith(("qconv", "qdense")) for operator in self.operators)


@dataclass(frozen=True)
class Machine:
    """What measured.

    Attributes:
        cpu: what it calls its processor.
        arch: ``x86_64`` or ``aarch64``.
        features: of the target that code was made for.
        cores: that could be used.
        governor: of the clock; "" where the system does not tell.
        clock_hz: as the system reports it; None where it does not.
        bandwidth: of a copy between arrays larger than the caches, bytes read and written in a
            second, by one core.
        rates: operations a second that the kernel families reach with a large convolution:
            multiply-accumulates, for ``bitserial`` of single bits.
        system: kernel.
        versions: of Python and the packages that matter.
        commit: of tvm-qnn, "" where it does not come from a repository.
    """

    cpu: str
    arch: str
    features: tuple[str, ...]
    cores: int
    governor: str
    clock_hz: float | None
    bandwidth: float
    rates: dict[str, float]
    system: str
    versions: dict[str, str]
    commit: str


@dataclass(frozen=True)
class Run:
    """One session of ``compare``.

    Attributes:
        when: UTC, ISO 8601.
        threads: of a kernel.
        seconds: of interleaved measuring.
        machines: what measured, by key.
        variants: in the order they were asked for.
    """

    when: str
    threads: int
    seconds: float
    machines: dict[str, Machine]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Report:
    """All runs of a report, this one first."""

    runs: tuple[Run, ...]

    @property
    def whole(self) -> Run:
        """All runs as one: later ones have their number behind targets and machines."""
        first, *others = self.runs
        variants, machines = list(first.variants), dict(first.machines)
        for number, run in enumerate(others, start=1):
            machines |= {f"{key} [{number}]": m for key, m in run.machines.items()}
            variants += [_elsewhere(variant, number) for variant in run.variants]
        return replace(first, machines=machines, variants=tuple(variants))

    def joined(self, other: Report) -> Report:
        """Add the runs of another report that are not here yet."""
        return Report((*self.runs, *(run for run in other.runs if run not in self.runs)))


def _elsewhere(variant: Variant, number: int) -> Variant:
    """Return a variant of another run, under names of its own."""

    def cost(found: Cost | None) -> Cost | None:
        if found is None or found.kind not in (HERE, REMOTE):
            return found
        return replace(found, kind=ELSEWHERE)

    return replace(
        variant,
        target=f"{variant.target} [{number}]",
        machine=f"{variant.machine} [{number}]",
        latency=cost(variant.latency),
        operators=tuple(replace(o, cost=cost(o.cost)) for o in variant.operators),
    )
