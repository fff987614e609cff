"""Times ONNX files in OpenVINO for ``benchmarks.kernels``, on one thread.

Runs in an environment of its own. It reads requests from standard input and answers
each with one line of JSON.
"""

import json
import sys
import time

import numpy as np
import openvino
from openvino.preprocess import PrePostProcessor

OPTIONS = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "PERFORMANCE_HINT": "LATENCY",
}


class Worker:
    """Answers requests; a model that was loaded can be timed by its number."""

    def __init__(self):
        self._core = openvino.Core()
        self._loaded = []

    def load(self, path, channels_last):
        """Load an ONNX file; tell what executes its convolution."""
        model = self._core.read_model(path)
        if channels_last:
            process = PrePostProcessor(model)
            for side in (process.input(), process.output()):
                side.tensor().set_layout(openvino.Layout("NHWC"))
                side.model().set_layout(openvino.Layout("NCHW"))
            model = process.build()
        profiled = self._request(model, {**OPTIONS, "PERF_COUNT": True})
        profiled.infer()
        kernels = [
            node.exec_type
            for node in profiled.profiling_info
            if node.node_type in ("Convolution", "GroupConvolution")
        ]
        self._loaded.append(self._request(model, OPTIONS))
        return {"number": len(self._loaded) - 1, "execution": ", ".join(kernels)}

    def run(self, kernel, number):
        """Time a loaded model: seconds a call."""
        request = self._loaded[kernel]
        start = time.perf_counter()
        for _ in range(number):
            request.infer()
        return {"seconds": (time.perf_counter() - start) / number}

    def _request(self, model, options):
        request = self._core.compile_model(model, "CPU", options).create_infer_request()
        given = request.get_input_tensor()
        given.data[:] = np.random.default_rng(1).integers(0, 256, given.shape)
        return request


def main():
    """Answer until standard input ends."""
    worker = Worker()
    print(json.dumps({"version": openvino.__version__.split("-")[0]}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("do"))(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
