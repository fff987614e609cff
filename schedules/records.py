"""Tuned kernels as plain records: what was decided, what it cost, on what.

A record belongs to a piece of work, a kernel family and the features of a target. It also bears the
digest of the kernel before it is scheduled: once the code of a family makes another kernel for that
work, the record no longer fits and is never applied.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tvm_qnn.ops.workload import CodebookWork, ConvWork, Epilogue
from tvm_qnn.schedules.family import Family
from tvm_qnn.spec import Codes
from tvm_qnn.targets.record import Target

Work = ConvWork | CodebookWork
Unit = Literal["seconds", "cycles"]


@dataclass(frozen=True)
class Record:
    """The best schedule that was found for one kernel.

    Attributes:
        target: :func:`target_key` of the device.
        work: :func:`work_key` of what the kernel computes.
        family: name of the kernel family.
        kernel: :func:`digest` of the kernel before it is scheduled.
        cost: of one call, on one core.
        default: cost of the default schedule, measured in the same session.
        unit: ``seconds`` where it ran on the device, ``cycles`` where it was estimated.
        trials: schedules that were tried.
        device: what it ran on, or the model that estimated it.
        trace: decisions as MetaSchedule writes them; None where the default schedule is the best.
    """

    target: str
    work: str
    family: str
    kernel: str
    cost: float
    default: float
    unit: Unit
    trials: int
    device: str
    trace: Any = None

    @property
    def gain(self) -> float:
        """How many times faster than the default schedule."""
        return self.default / self.cost

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What two records of one kernel have in common."""
        return (self.target, self.work, self.family, self.kernel, self.unit)


def target_key(target: Target) -> str:
    """Name what tuned schedules depend on: the features on x86, the processor model on ARM."""
    if target.gpu is not None:
        return f"cuda-{target.gpu.arch}"
    if target.arch == "aarch64":
        return f"aarch64-{target.cpu}"
    return "-".join([target.arch, *sorted(target.features)])


def work_key(work: Work) -> str:
    """Write a piece of work as JSON, without what has its default value."""
    return json.dumps(_fields(work), separators=(",", ":"))


def _fields(record: Any) -> Any:
    """Return the fields of nested dataclasses that differ from their defaults."""
    if not hasattr(record, "__dataclass_fields__"):
        return record
    found = {}
    for name, field in record.__dataclass_fields__.items():
        value = getattr(record, name)
        if value != field.default:
            found[name] = _fields(value)
    return found


@functools.lru_cache(maxsize=4096)
def digest(family: Family[Any], work: Work, target: Target) -> str:
    """Identify the kernel that a family makes for some work before it is scheduled."""
    text = family.compute(work, target).script()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_work(key: str) -> Work:
    """Undo :func:`work_key`.

    Raises:
        ValueError: the text describes no work.
    """
    try:
        fields = json.loads(key)
        conv = fields.get("conv", fields)
        parsed = ConvWork(
            **{
                name: _PARTS[name](value) if name in _PARTS else _tuples(value)
                for name, value in conv.items()
            }
        )
        return CodebookWork(parsed, fields.get("rows", 1)) if "conv" in fields else parsed
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no work: {key}") from error


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _epilogue(fields: Any) -> Epilogue:
    codes = Codes(**fields["codes"]) if "codes" in fields else None
    return Epilogue(**{**fields, "codes": codes})


_PARTS: dict[str, Callable[[Any], Any]] = {
    "x": lambda fields: Codes(**fields),
    "w": lambda fields: Codes(**fields),
    "epilogue": _epilogue,
}
