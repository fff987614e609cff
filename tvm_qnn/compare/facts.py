"""Facts about the machines that measure."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import tvm_qnn
from tvm_qnn.compare.rows import Machine
from tvm_qnn.device_run import machine_arch
from tvm_qnn.system import file_text, package_version
from tvm_qnn.targets import Target

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "onnxruntime", "numpy")
_CLOCK = "/sys/devices/system/cpu/cpu0/cpufreq/"


def this_machine(target: Target, bandwidth: float, rates: dict[str, float]) -> Machine:
    """Describe this machine.

    Args:
        target: what code was made for it.
        bandwidth: bytes a second, from :func:`tvm_qnn.compare.rates.measured`.
        rates: operations a second, from there.
    """
    found = describe(file_text, target, bandwidth, rates)
    versions = {"python": platform.python_version(), "tvm-qnn": tvm_qnn.__version__}
    versions |= {name: v for name in _PACKAGES if (v := package_version(name)) is not None}
    return Machine(
        cpu=found.cpu, arch=machine_arch(), features=found.features, cores=found.cores,
        governor=found.governor, clock_hz=found.clock_hz, bandwidth=bandwidth, rates=rates,
        system=f"{platform.system()} {platform.release()}", versions=versions, commit=commit(),
    )  # fmt: skip


def describe(
    read: Callable[[str], str], target: Target, bandwidth: float, rates: dict[str, float]
) -> Machine:
    """Describe the machine whose files ``read`` reads; it returns "" for those that are missing."""
    lines = [line.partition(":") for line in read("/proc/cpuinfo").splitlines()]
    fields = [(name.strip(), value.strip()) for name, _, value in lines]
    # A Raspberry Pi names the board where a PC names the processor.
    names = [v for wanted in ("model name", "Model") for name, v in fields if name == wanted]
    found = re.match(r"Linux version (\S+)", read("/proc/version"))
    return Machine(
        cpu=names[0] if names else target.cpu,
        arch=target.arch,
        features=tuple(sorted(target.features)),
        cores=sum(name == "processor" for name, _ in fields) or target.cores,
        governor=read(f"{_CLOCK}scaling_governor"),
        clock_hz=_clock(read, fields),
        bandwidth=bandwidth,
        rates=rates,
        system=f"Linux {found[1]}" if found else "",
        versions={},
        commit="",
    )


def _clock(read: Callable[[str], str], fields: list[tuple[str, str]]) -> float | None:
    """Return the highest clock that the system allows, else the one that it shows now, in Hz."""
    highest = read(f"{_CLOCK}scaling_max_freq")
    if highest.isdigit():
        return 1e3 * int(highest)
    shown = [float(value) for name, value in fields if name == "cpu MHz"]
    return 1e6 * max(shown) if shown else None


def commit() -> str:
    """Return the commit of the repository that this package lies in, with ``+`` if it is changed.

    "" where it does not come from a repository, or git is missing.
    """
    folder = Path(tvm_qnn.__file__).parent
    # An environment for Python may lie inside of some other repository.
    if not _git(folder, "ls-files", "__init__.py"):
        return ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return _git(folder, "rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
