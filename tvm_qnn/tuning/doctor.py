"""Check what tuning and measuring need, each with its remedy."""

from __future__ import annotations

import itertools
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tvm_qnn import fleet, gpu_run, targets
from tvm_qnn._tvm import tvm
from tvm_qnn.device_run import DeviceError
from tvm_qnn.errors import QnnError
from tvm_qnn.estimate import blocks, kernels
from tvm_qnn.gpu import toolkit
from tvm_qnn.system import file_text, package_version
from tvm_qnn.targets import cuda
from tvm_qnn.targets.instructions import required_flags
from tvm_qnn.targets.link import linker
from tvm_qnn.targets.record import Target
from tvm_qnn.tuning.pool import Pool, missing
from tvm_qnn.tuning.probe import build_probe, read_board, reader

Read = Callable[[str], str]
_PATIENCE = 40
"""Seconds that a board may take for one round trip."""
_VERSION = "/proc/version"
_PROCESSOR = "/proc/cpuinfo"
_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        found: what was found.
        remedy: what to do about it; "" where all is well.
        fatal: tuning cannot work so.
    """

    name: str
    found: str
    remedy: str = ""
    fatal: bool = False


def checks(target: Target, device: str) -> Iterator[Check]:
    """Check all that tuning for ``target`` on ``device`` needs.

    Raises:
        TargetError: ``device`` is neither ``host`` nor ``estimate`` nor an address of boards.
    """
    if device not in ("host", "estimate"):
        fleet.address(device)
    yield from _this_machine(target, needs_estimates=device == "estimate")
    if device.startswith("rpc://"):
        yield from check_boards(target, device)


def _this_machine(target: Target, needs_estimates: bool) -> Iterator[Check]:
    """Check versions, tool chain, emulation, clock."""
    yield _packages()
    yield _cost_model()
    yield _linker(target)
    if target.gpu is not None:
        yield from _gpu(target)
        return
    if target.mca_cpu or needs_estimates:
        yield _estimates(target, needs_estimates)
    if targets.reachable(target).startswith("native"):
        yield from _machine(file_text, target)
        yield _round_trip_here(target)


def _gpu(target: Target) -> Iterator[Check]:
    """Check the GPU of this machine, and what compiles and runs code for it."""
    compiler = toolkit.compiler()
    yield Check(
        "CUDA compiler", compiler or "none",
        "" if compiler else "pip install 'tvm-qnn[cuda]'", fatal=compiler is None,
    )  # fmt: skip
    found = cuda.here()
    if found is None:
        yield Check(
            "GPU", "the driver finds none", "tune on the machine that has one; verify needs none",
            fatal=True,
        )  # fmt: skip
        return
    fits = targets.reachable(target).startswith("native")
    yield Check(
        "GPU", found.description, "" if fits else f"choose -t {found.name}", fatal=not fits
    )  # fmt: skip
    try:
        gpu_run.load_cuda()
    except DeviceError as error:
        yield Check("TVM on the GPU", str(error), "see what is missing", fatal=True)
    else:
        yield Check("TVM on the GPU", "loads")


def check_boards(target: Target, address: str) -> Iterator[Check]:
    """Check a tracker and one board of a key.

    Args:
        target: what code for the board is built for.
        address: ``rpc://HOST:PORT/KEY``.
    """
    host, port, key = fleet.address(address)
    try:
        known = fleet.boards(host, port)
    except QnnError:
        yield Check(
            "tracker", f"none answers at {host}:{port}", f"tvm-qnn device tracker --port {port}",
            fatal=True,
        )  # fmt: skip
        return
    yield Check("tracker", f"{host}:{port}, {sum(known.values())} boards")
    if not known.get(key, 0):
        others = f"; it knows {', '.join(sorted(known))}" if known else ""
        yield Check(
            "boards", f"none of key {key}{others}",
            f"on the board: tvm-qnn device serve --tracker {host}:{port} --key {key}", fatal=True,
        )  # fmt: skip
        return
    yield Check("boards", f"{known[key]} of key {key}")
    files, failure = _files_of(target, host, port, key)
    if failure:
        yield Check(
            "kernel round trip", f"fails: {failure}",
            f"is the board free (tvm-qnn device list), is its processor {target.arch}, and is its "
            "tvm-qnn of the version of this one? else start its tvm-qnn device serve again",
            fatal=True,
        )  # fmt: skip
        return
    yield Check("kernel round trip", f"works: {_system(files[_VERSION])}")
    yield from _machine(files.__getitem__, target)


def _files_of(target: Target, host: str, port: int, key: str) -> tuple[dict[str, str], str]:
    """Read what is looked at on a board, or say why that fails; a board may never answer."""
    pool = Pool(_PATIENCE, 1)
    try:
        with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
            path = build_probe(target, Path(folder) / "probe.so")
            names = (_VERSION, _PROCESSOR, _GOVERNOR, _THROTTLED)
            return pool.run(read_board, [(str(path), host, port, key, names)])[0]
    finally:
        pool.close()


def _system(version: str) -> str:
    return version.partition("(")[0].strip() or "no /proc"


def _machine(read: Read, target: Target) -> Iterator[Check]:
    """Check the processor of a machine whose files ``read`` reads."""
    info = read(_PROCESSOR)
    lines = [line.partition(":") for line in info.splitlines()]
    flags = next((set(v.split()) for k, _, v in lines if k.strip() in ("flags", "Features")), None)
    if flags is None:
        yield Check("processor", "does not tell its instruction sets")
    else:
        lacking = sorted(required_flags(target) - flags)
        names = [v.strip() for k, _, v in lines if k.strip() in ("model name", "Model")]
        yield Check(
            "processor",
            f"lacks {', '.join(lacking)}" if lacking else (names[-1] if names else target.cpu),
            f"it is no {target.name}; choose another --target" if lacking else "",
            fatal=bool(lacking),
        )
    governor = read(_GOVERNOR)
    if governor:
        steady = governor == "performance"
        remedy = (
            ""
            if steady
            else (
                "for steady times: echo performance | sudo tee "
                "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
            )
        )
        yield Check("clock governor", governor, remedy)
    throttled = read(_THROTTLED)
    if throttled:
        now = int(throttled, 16) & 0xF
        remedy = (
            "better cooling or power supply; times are not comparable until then" if now else ""
        )
        yield Check("throttling", "now" if now else "no", remedy)


def _packages() -> Check:
    versions = {name: package_version(name) for name in ("apache-tvm", "apache-tvm-ffi")}
    found = f"Python {platform.python_version()}, " + ", ".join(
        f"{name} {version or 'missing'}" for name, version in versions.items()
    )
    ffi = versions["apache-tvm-ffi"] or ""
    right = ffi.startswith("0.1.14") and (versions["apache-tvm"] or "").startswith("0.27")
    remedy = "" if right else "pip install 'apache-tvm>=0.27,<0.28' 'apache-tvm-ffi<0.1.15'"
    return Check("packages", found, remedy)


def _cost_model() -> Check:
    if lacking := missing():
        return Check("tuner", f"no {', '.join(lacking)}", "pip install 'tvm-qnn[tune]'", fatal=True)
    return Check("tuner", f"xgboost {package_version('xgboost-cpu') or package_version('xgboost')}")


def _linker(target: Target) -> Check:
    try:
        words = itertools.takewhile(
            lambda word: word[0] != "-" or word == "-m", linker(target).command
        )
        return Check("linker", f"{' '.join(words)} for {target.triple}")
    except QnnError as error:
        return Check("linker", str(error), "pip install 'tvm-qnn[cross]'", fatal=True)


def _estimates(target: Target, needed: bool) -> Check:
    if not target.mca_cpu:
        found = f"no model of {target.name}"
        return Check("--device estimate", found, "choose a board, such as -t rpi4", fatal=True)
    tools = blocks.Tools.find()
    if (lacking := kernels.missing()) or tools is None:
        found = str(lacking)
        return Check("--device estimate", found, "apt-get install qemu-user llvm", fatal=needed)
    return Check("--device estimate", f"qemu-aarch64, llvm-mca of {tools.version()}")


def _round_trip_here(target: Target) -> Check:
    with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
        try:
            path = build_probe(target, Path(folder) / "probe.so")
            module = tvm.runtime.load_module(str(path))
            text = reader(module, tvm.cpu())(_VERSION)
        except Exception as error:  # a tool chain may fail in any way
            last = str(error).strip().splitlines()[-1:]
            return Check(
                "kernel round trip", f"fails: {' '.join(last)}", "see the linker", fatal=True
            )
    return Check("kernel round trip", f"works: {_system(text)}")
