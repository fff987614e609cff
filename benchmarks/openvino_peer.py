"""The int8 convolutions of OpenVINO as a peer of ``benchmarks.kernels``.

The peer runs in an environment of its own::

    python3.11 -m venv openvino
    openvino/bin/pip install openvino
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cases import Case
from benchmarks.peer import Peer

WORKER = Path(__file__).with_name("openvino_worker.py")
FORMS = {"uint8 NCHW": (True, False), "float NHWC": (False, True)}
"""How images go in (codes, or floats that it quantizes first) and in what order of axes.

Codes in NHWC would be the natural form, but with them OpenVINO leaves the convolution in float.
"""


def model(case: Case, codes: bool) -> onnx.ModelProto:
    """Return one quantized convolution from codes or floats to uint8."""
    rng = np.random.default_rng(0)
    shape = (case.out_channels, case.in_channels // case.groups, case.kernel, case.kernel)
    constants = {
        "x_scale": np.float32(0.02),
        "y_scale": np.float32(0.5),
        "zero": np.uint8(0),
        "w": rng.integers(-127, 128, shape).astype(np.int8),
        "w_scale": np.full(case.out_channels, 0.01, np.float32),
        "w_zero": np.zeros(case.out_channels, np.int8),
        "bias": (rng.integers(-1000, 1000, case.out_channels) * 0.0002).astype(np.float32),
    }
    first = [] if codes else [helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["q"])]
    nodes = [
        *first,
        helper.make_node("DequantizeLinear", ["x" if codes else "q", "x_scale", "zero"], ["f"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0),
        helper.make_node(
            "Conv", ["f", "wf", "bias"], ["c"], pads=[case.kernel // 2] * 4,
            strides=[case.strides] * 2, group=case.groups,
        ),
        helper.make_node("QuantizeLinear", ["c", "y_scale", "zero"], ["y"]),
    ]  # fmt: skip
    x_type = TensorProto.UINT8 if codes else TensorProto.FLOAT
    x_shape = [1, case.in_channels, case.height, case.width]
    graph = helper.make_graph(
        nodes,
        "peer",
        [helper.make_tensor_value_info("x", x_type, x_shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


class OpenVino:
    """A process that times convolutions.

    Args:
        python: of the environment.
    """

    def __init__(self, python: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tvm-qnn-")
        self._path = Path(self._folder.name)
        self._peer = Peer(python, WORKER, self._path / "messages.txt")
        self.version = str(self._peer.about["version"])

    def runners(self, case: Case) -> dict[str, Callable[[int], float]]:
        """Return what times the forms of a layer that run in int8, by the names of its kernels.

        Raises:
            RuntimeError: none does.
        """
        found: dict[str, Callable[[int], float]] = {}
        seen: list[dict[str, Any]] = []
        for form, (codes, channels_last) in FORMS.items():
            file = self._path / "model.onnx"
            onnx.save(model(case, codes), file)
            made = self._peer.ask("load", path=str(file), channels_last=channels_last)
            seen.append(made)
            if made["execution"].endswith("_I8"):
                found[f"{form}, {made['execution']}"] = self._peer.runner(made["number"])
        if not found:
            raise RuntimeError(f"OpenVINO runs {case.name} as {[m['execution'] for m in seen]}")
        return found

    def close(self) -> None:
        """End the process."""
        self._peer.close()
        self._folder.cleanup()
