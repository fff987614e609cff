"""Candidates that go wrong in every way that one can."""

import numpy as np

from tvm_qnn._tvm import tirx, tvm
from tvm_qnn.schedules import ir
from tvm_qnn.tuning import workers
from tvm_qnn.tuning.device import Job
from tvm_qnn.tuning.task import ENTRY


def candidate(*calls, value=7):
    """A kernel (x int32 [4], out int32 [4]) that calls C functions, then writes ``value``."""
    with ir.function(ENTRY) as finished:
        x = ir.argument("x", (4,), "int32")
        out = ir.argument("out", (4,), "int32")
        for number, (name, *arguments) in enumerate(calls):
            with ir.stage(f"call{number}", (1,)) as (_,):
                ir.accesses([ir.whole(x)], [ir.whole(out)])
                ir.store(out, tirx.call_extern("int32", name, *arguments), 0)
        with ir.stage("write", (4,)) as (i,):
            ir.store(out, x[i] + value, i)
    return tvm.IRModule({ENTRY: finished()})


GOOD = candidate()
WRONG = candidate(value=8)
CRASHING = candidate(("abort",))
HANGING = candidate(("sleep", 3600))


def jobs_of(modules, folder):
    """Jobs with arguments for which ``GOOD`` is right."""
    x = np.arange(4, dtype=np.int32)
    path = folder / "arguments.npz"
    workers.save_arguments(path, (x, np.zeros(4, np.int32)), x + 7)
    return [Job(module, path) for module in modules]
