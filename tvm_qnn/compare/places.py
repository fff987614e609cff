"""Where programs are measured: this machine, or a board behind a tracker."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tvm import rpc

from tvm_qnn import fleet, targets
from tvm_qnn._tvm import relax, tvm
from tvm_qnn.compare import facts, rates
from tvm_qnn.compare.measure import LostError, Runner
from tvm_qnn.compare.rows import HERE, REMOTE, Machine
from tvm_qnn.compiler import Artifact
from tvm_qnn.device_run import use_threads
from tvm_qnn.errors import InputError, QnnError, TargetError
from tvm_qnn.manifest import LIBRARY
from tvm_qnn.runtime import load
from tvm_qnn.targets import Target
from tvm_qnn.targets.link import linker
from tvm_qnn.tuning.probe import build_probe, reader

Array = NDArray[Any]
THIS = "this machine"
_SESSION = 3600
"""Seconds after which a board ends a session that nobody ended."""


class Place(Protocol):
    """A machine that runs code for a target.

    Attributes:
        kind: of what it measures.
        key: name of the machine in a report.
        device: TVM's device.
    """

    kind: str
    key: str
    device: Any

    def load(self, module: Any) -> Any:
        """Compile a module of PrimFuncs and return its functions on the machine."""

    def program(self, artifact: Artifact, arrays: dict[str, Array]) -> tuple[Runner, list[Array]]:
        """Return what times an artifact on inputs, and its outputs."""

    def machine(self) -> Machine:
        """Return facts about the machine; measures its bandwidth and rates."""

    def guarded(self) -> AbstractContextManager[None]:
        """Turn errors of a machine elsewhere into one clear line."""


class Here:
    """This machine."""

    kind = HERE

    def __init__(self, target: Target, threads: int) -> None:
        self.key = THIS if target.name == "host" else f"{THIS} as {target.name}"
        self.device = tvm.cpu()
        self._target, self._threads = target, threads

    def load(self, module: Any) -> Any:
        """See :class:`Place`."""
        use_threads(self._threads)
        return tvm.compile(module, self._target.tvm()).jit()

    def program(self, artifact: Artifact, arrays: dict[str, Array]) -> tuple[Runner, list[Array]]:
        """See :class:`Place`."""
        program = load(artifact.path, self._threads)
        outputs = list(program.run(arrays).values())
        return lambda count: program.benchmark(arrays, repeat=count, warmup=1).median, outputs

    def machine(self) -> Machine:
        """See :class:`Place`."""
        return facts.this_machine(targets.host(), *rates.measured(self, self._target))

    def guarded(self) -> AbstractContextManager[None]:
        """See :class:`Place`."""
        return nullcontext()


class Board:
    """A board that a TVM tracker lends.

    Args:
        target: what it runs.
        address: ``rpc://HOST:PORT/KEY``.
        threads: of a kernel.

    Raises:
        TargetError: there is no such board, or it does not answer.
    """

    kind = REMOTE

    def __init__(self, target: Target, address: str, threads: int) -> None:
        host, port, key = fleet.address(address)
        fleet.required_boards(host, port, key)
        # The tracker would let a request wait until a board is free.
        if not fleet.summary(host, port)["queue_info"].get(key, {}).get("free", 0):
            raise TargetError(f"{address}: all boards of that key are lent; try again later")
        self.key = f"{key} over RPC"
        self._target, self._address = target, address
        self._loaded = 0
        with self.guarded():
            tracker = rpc.connect_tracker(host, port)
            self._session = tracker.request(key, session_timeout=_SESSION)
            self._session.get_function("runtime.config_threadpool")(1, threads)
        self.device = self._session.cpu(0)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn whatever a foreign machine answers into one clear line."""
        try:
            yield
        except QnnError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise LostError(
                f"{self._address}: {lines[-1]}; check it with: tvm-qnn doctor "
                f"-t {self._target.name} --device {self._address}"
            ) from error

    def load(self, module: Any) -> Any:
        """See :class:`Place`."""
        made = tvm.compile(module, self._target.tvm())
        with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
            path = Path(folder) / LIBRARY
            made.export_library(str(path), fcompile=linker(self._target))
            return self._upload(path)

    def _upload(self, path: Path) -> Any:
        # A name of its own: the loader of the board returns what it has when it meets one again.
        self._loaded += 1
        name = f"compare{self._loaded}.so"
        self._session.upload(str(path), name)
        return self._session.load_module(name)

    def program(self, artifact: Artifact, arrays: dict[str, Array]) -> tuple[Runner, list[Array]]:
        """See :class:`Place`."""
        library = self._upload(artifact.path / LIBRARY)
        machine = relax.VirtualMachine(library, self.device)
        machine.set_input("prepare")
        machine.invoke_stateful("prepare")
        weights = _flat(machine.get_outputs("prepare"))
        names = [info.name for info in artifact.manifest.inputs]
        inputs = [tvm.runtime.tensor(arrays[name], self.device) for name in names]
        machine.set_input("main", *inputs, *weights)
        machine.invoke_stateful("main")
        outputs = [o.numpy() for o in _flat(machine.get_outputs("main"))]

        def run(count: int) -> float:
            timer = machine.time_evaluator("invoke_stateful", self.device, number=count, repeat=1)
            return float(timer("main").mean)

        return run, outputs

    def machine(self) -> Machine:
        """See :class:`Place`."""
        with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
            library = self._upload(build_probe(self._target, Path(folder) / "probe.so"))
        read = reader(library, self.device)
        return facts.describe(read, self._target, *rates.measured(self, self._target))


def _flat(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def onnx_runtime(path: Path, arrays: dict[str, Array], threads: int) -> Runner:
    """Return what times ONNX Runtime on a model file.

    Raises:
        InputError: it is not installed, or does not take the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "--baseline onnxruntime: it is not installed; pip install 'tvm-qnn[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        session.run(None, arrays)
    except Exception as error:  # its errors have no base of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise InputError(f"--baseline onnxruntime: {path.name}: {reason}") from error

    def run(count: int) -> float:
        session.run(None, arrays)
        times: Sequence[float] = [_seconds(session, arrays) for _ in range(count)]
        return float(np.median(times))

    return run


def _seconds(session: Any, arrays: dict[str, Array]) -> float:
    start = time.perf_counter()
    session.run(None, arrays)
    return time.perf_counter() - start
