"""Tune the layers that are benchmarked, and networks, into one database.

    python -m benchmarks.tune_kernels --database DIR [NAME ...] [--target T] [--device D]
        [--trials N] [--bits NAME ...] [--resume]

Names are parts of layers' names, models of the zoo (``zoo:NAME``) or networks of
``benchmarks.models``; without any, all layers are tuned: those of ``benchmarks.kernels`` for x86,
those of ``benchmarks.arm`` for boards. Each layer is a session of its own with the families that
may be the fastest for it, so that short kernels get as many trials as long ones, and the database
keeps the kernels of all families. ``--resume`` goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tvm_qnn.tune
from benchmarks.arm.works import describe, works
from benchmarks.cases import BITS, CASES, host_target, methods, work_of
from benchmarks.models import SHAPES
from tvm_qnn import targets
from tvm_qnn.schedules import family
from tvm_qnn.targets.record import Target
from tvm_qnn.tune.device import open_device
from tvm_qnn.tune.session import Session
from tvm_qnn.tune.task import Task


def layers(target: Target) -> Iterator[tuple[str, str, list[Task]]]:
    """Yield the benchmarked layers: name, bits, and a task for each family that may win."""
    if target.arch == "aarch64":
        for work in dict.fromkeys(work for _, work in works()):
            name = describe(work)
            made = dict.fromkeys(methods(work, target), work)
            # Bit planes are what bit-serial kernels read; others get codes.
            if work.x_planes:
                codes = replace(work, x_planes=False, epilogue=replace(work.epilogue, pack=False))
                made = {m: work if m == "bitserial" else codes for m in made}
            yield name, f"w{work.w.bits}a{work.x.bits}", _tasks(made, target, name)
        return
    for case in CASES:
        for bits in case.variants:
            able = methods(work_of(case, bits, "dot"), target)
            made = {method: work_of(case, bits, method) for method in able}
            yield case.name, bits, _tasks(made, target, case.name)


def _tasks(works_: dict[str, Any], target: Target, name: str) -> list[Task]:
    return [Task(work, family(method), target, (name,)) for method, work in works_.items()]


def show(name: str, tunings: Sequence[tvm_qnn.tune.Tuning]) -> None:
    """Print what a session found."""
    for tuning in tunings:
        best = "failed" if tuning.best is None else f"{tuning.best:.4g}"
        print(
            f"{name:42} {tuning.task.name:26} {best:>10} gain {tuning.gain:.3f}, "
            f"{tuning.trials} tried, {tuning.failed} failed {tuning.dropped}",
            flush=True,
        )


def main() -> None:
    """Tune what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="layers and networks; default: all layers")
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--target", choices=targets.names(), help="default: this machine")
    parser.add_argument("--device", default="host", help="host, estimate or rpc://HOST:PORT/KEY")
    parser.add_argument("--trials", type=int, default=64, help="of each kernel, on average")
    parser.add_argument("--bits", nargs="*", choices=list(BITS), help="of layers; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    target = targets.get(args.target) if args.target else host_target()
    models = [name for name in args.names if name in SHAPES or name.startswith("zoo:")]
    parts = [name for name in args.names if name not in models]
    resume = args.resume
    with open_device(args.device, target) as device:
        for name, bits, tasks in layers(target) if parts or not models else ():
            if parts and not any(part in name for part in parts):
                continue
            if args.bits and bits not in args.bits:
                continue
            session = Session(
                tasks, device, args.database, trials=args.trials * len(tasks), seed=args.seed,
                resume=resume, report=lambda tunings, done, total: None,
            )  # fmt: skip
            session.run()
            resume = True
            show(name, session.tunings)
    for name in models:
        model: Any = name
        if name in SHAPES:
            graph = SHAPES[name][0]()
            model = graph.model(graph.out)
        kernels = len(tvm_qnn.tune.tasks_of(tvm_qnn.compiler.read(model), target))
        outcome = tvm_qnn.tune.tune(
            model, target, args.database, device=args.device, trials=args.trials * kernels,
            seed=args.seed, resume=resume,
        )  # fmt: skip
        resume = True
        show(name, outcome.tunings)


if __name__ == "__main__":
    main()
