"""The bit-serial convolutions of TVM 0.19: tunes, checks and times them for ``benchmarks.relay``.

Runs in an environment of its own, where that TVM is installed, and knows nothing of this project.
It reads requests from standard input and answers each with one line of JSON.

Its two convolutions on x86 are taken as they are, and without the loops that pack weights and lay
them out in every call: these are left away there and what they would have computed is handed over.
"""

import json
import os
import sys

import numpy as np
import tvm
from tvm import autotvm, te, topi
from tvm.autotvm.tuner import XGBTuner
from tvm.target import codegen

WORD = 32
BATCH = 16
"""Schedules that one server runs."""


@autotvm.template("bitserial_conv2d_3x3")
def convolution(layout, ready, size, channels, out_channels, x_bits, w_bits, unipolar):
    """A 3x3 convolution of codes; the result is its last argument.

    Args:
        layout: ``nchw`` or ``nhwc``.
        ready: weights come as the innermost loops read them. Otherwise as the operator takes them:
            packed for NHWC, as codes for NCHW.
        size: height and width, padded by 1.
        channels: that go in.
        out_channels: that come out.
        x_bits: of the activations, codes from 0 on.
        w_bits: of the weights.
        unipolar: each bit of a weight means -1 or 1, not 0 or 1.
    """
    if layout == "nchw":
        x_shape, w_shape = (1, channels, size, size), (out_channels, channels, 3, 3)
    else:
        x_shape, w_shape = (1, size, size, channels), (3, 3, channels // WORD, out_channels, w_bits)
    x = te.placeholder(x_shape, "uint8", "x")
    w = te.placeholder(w_shape, "uint8" if layout == "nchw" else "uint32", "w")
    compute = getattr(topi.x86, f"bitserial_conv2d_{layout}")
    schedule = getattr(topi.x86, f"schedule_bitserial_conv2d_{layout}")
    out = compute(x, w, 1, 1, x_bits, w_bits, f"uint{WORD}", "int32", unipolar)
    s = schedule([out])
    config = autotvm.get_config()
    config.define_split(
        "tile_oh",
        config.axis(size),
        num_outputs=2,
        filter=lambda split: _works(layout, size, split.size[-1]),
    )
    if not ready:
        return s, [x, w, out]
    prepared = out.op.input_tensors[0].op.input_tensors[1]
    for op in {prepared.op, *_computed_before(prepared.op)}:
        s[op].pragma(s[op].leaf_iter_vars[0], "debug_skip_region")
    return s, [x, w, prepared, out]


def _works(layout, size, rows):
    """Tell whether the schedule of a layout is right for tiles of so many rows.

    It divides the tiles by ``rows`` once more. For NCHW it then refers to a variable that does not
    exist, for NHWC it writes beyond the result where tiles are left over.
    """
    tiles = size // rows
    return rows == 1 if layout == "nchw" else rows <= 16 and (tiles <= rows or tiles % rows == 0)


def _computed_before(op):
    """Return the operations that an operation needs, placeholders left out."""
    found = set()
    for tensor in op.input_tensors:
        if isinstance(tensor.op, te.ComputeOp):
            found |= {tensor.op, *_computed_before(tensor.op)}
    return found


def pack(codes, w_bits):
    """Pack weight codes [O, 3, 3, C] to words [bits, O, 3, 3, C / 32]."""
    planes = np.stack([(codes >> bit) & 1 for bit in range(w_bits)])
    words = planes.reshape(*planes.shape[:-1], -1, WORD).astype(np.uint32)
    shifts = np.arange(WORD - 1, -1, -1, dtype=np.uint32)
    return (words << shifts).sum(-1, dtype=np.uint32)


def lay_out(packed, layout, lanes, shape):
    """Order words as the innermost loops read them; NHWC declares more space than it uses."""
    bits, out_channels, kh, kw, groups = packed.shape
    tiled = packed.reshape(bits, out_channels // lanes, lanes, kh, kw, groups)
    axes = (1, 5, 3, 4, 0, 2) if layout == "nchw" else (1, 3, 4, 5, 2, 0)
    result = np.zeros(shape, np.uint32)
    result[: out_channels // lanes] = tiled.transpose(axes)
    return result


def values_of(kernel, given, shapes, lanes):
    """Return the arguments of a kernel for codes NHWC and OHWI."""
    layout, packed = kernel["layout"], pack(given["w"], kernel["w_bits"])
    if layout == "nchw":
        x, w = given["x"].transpose(0, 3, 1, 2), given["w"].transpose(0, 3, 1, 2)
    else:
        x, w = given["x"], packed.transpose(2, 3, 4, 1, 0)
    values = [x, w]
    if kernel["ready"]:
        values.append(lay_out(packed, layout, lanes, shapes[2]))
    values.append(np.zeros(shapes[-1], np.int32))
    return [tvm.nd.array(np.ascontiguousarray(value)) for value in values]


class Worker:
    """Answers requests; a kernel that was loaded can be timed by its number.

    Args:
        cpu: processor name of LLVM.
    """

    def __init__(self, cpu):
        self._target = tvm.target.Target(f"llvm -mcpu={cpu}")
        self._loaded = []

    def tune(self, kernel, trials, log):
        """Try schedules until the log holds so many; tell how many it holds and how many failed."""
        task, tuner = self._task(kernel), None
        done = _records(log)
        wanted = min(trials, len(task.config_space))
        while len(done) < wanted:
            if tuner is None:
                tuner = XGBTuner(task, feature_type="knob")
                if done:
                    tuner.load_history(done)
            # The server that runs candidates dies with one that crashes, so it is a new one here.
            tuner.tune(
                n_trial=min(wanted - len(done), BATCH),
                measure_option=autotvm.measure_option(
                    builder=autotvm.LocalBuilder(timeout=60),
                    runner=autotvm.LocalRunner(number=5, repeat=3, min_repeat_ms=20, timeout=10),
                ),
                callbacks=[autotvm.callback.log_to_file(log)],
            )
            tried, done = len(done), _records(log)
            if len(done) == tried:
                break
        failed = sum(result.error_no != 0 for _, result in done)
        return {"trials": len(done), "failed": failed}

    def load(self, kernel, logs, arrays, output):
        """Build the best schedule of several logs; store what it makes of given codes."""
        given, found = np.load(arrays), []
        for config in filter(None, map(_best, logs)):
            with self._target:
                s, arguments = self._task(kernel).instantiate(config)
                module = tvm.build(s, arguments, self._target)
            shapes = [tuple(int(n) for n in argument.shape) for argument in arguments]
            tensors = values_of(kernel, given, shapes, config["tile_co"].size[-1])
            timer = module.time_evaluator(module.entry_name, tvm.cpu(), number=20, repeat=5)
            found.append((timer(*tensors).median, config, module, tensors))
        if not found:
            return {"error": "no schedule works"}
        _, config, module, tensors = min(found, key=lambda made: made[0])
        y = tensors[-1].numpy()
        np.save(output, y if kernel["layout"] == "nhwc" else y.transpose(0, 2, 3, 1))
        self._loaded.append((module, tensors))
        return {"number": len(self._loaded) - 1, "schedule": str(config)}

    def run(self, kernel, number):
        """Time a loaded kernel: seconds a call."""
        module, tensors = self._loaded[kernel]
        timer = module.time_evaluator(module.entry_name, tvm.cpu(), number=number, repeat=1)
        return {"seconds": float(timer(*tensors).mean)}

    def _task(self, kernel):
        return autotvm.task.create(
            "bitserial_conv2d_3x3", args=tuple(kernel.values()), target=self._target
        )


def _best(log):
    """Return the fastest schedule of a log; None where none works."""
    works = [(np.mean(r.costs), m.config) for m, r in _records(log) if r.error_no == 0]
    return min(works, key=lambda record: record[0])[1] if works else None


def _records(log):
    return list(autotvm.record.load_from_file(log)) if os.path.exists(log) else []


def main():
    """Answer until standard input ends."""
    # What the tuner prints must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    cpu = codegen.llvm_get_system_cpu()
    worker = Worker(cpu)
    print(json.dumps({"version": tvm.__version__, "cpu": str(cpu)}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("do"))(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
