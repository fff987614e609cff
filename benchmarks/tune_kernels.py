"""Tune the layers that are benchmarked, and networks, into one database.

    python -m benchmarks.tune_kernels --database DIR [NAME ...] [--target T] [--device D]
        [--trials N] [--bits NAME ...] [--resume]

Names are parts of layers' names, models of the zoo (``zoo:NAME``) or networks of
``benchmarks.models``; without any, all layers are tuned: those of ``benchmarks.kernels`` for x86,
those of ``benchmarks.arm`` for boards. Each kernel is a session of its own, so that short ones get
as many trials as long ones: for every layer and number of bits one of each family that may be the
fastest. The database keeps them all. ``--resume`` goes on after an interruption.
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


def layers(target: Target) -> Iterator[tuple[str, str, Task]]:
    """Yield the benchmarked layers: name, bits and a task, for each family that may win."""
    if target.arch == "aarch64":
        yield from _board_layers(target)
        return
    for case in CASES:
        for bits in case.variants:
            for method in methods(work_of(case, bits, "dot"), target):
                made = work_of(case, bits, method)
                yield case.name, bits, Task(made, family(method), target, (case.name,))


def _board_layers(target: Target) -> Iterator[tuple[str, str, Task]]:
    seen = set()
    for listed, work in works():
        # Bit planes are what bit-serial kernels read; others get codes.
        codes = replace(work, x_planes=False, epilogue=replace(work.epilogue, pack=False))
        for method in dict.fromkeys([listed, *methods(codes, target)]):
            made = work if method == "bitserial" else codes
            if (made, method) not in seen:
                seen.add((made, method))
                name = describe(made)
                yield (
                    name,
                    f"w{work.w.bits}a{work.x.bits}",
                    Task(made, family(method), target, (name,)),
                )


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
    parser.add_argument("--trials", type=int, default=64, help="schedules of each kernel")
    parser.add_argument("--bits", nargs="*", choices=list(BITS), help="of layers; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    target = targets.get(args.target) if args.target else host_target()
    models = [name for name in args.names if name in SHAPES or name.startswith("zoo:")]
    parts = [name for name in args.names if name not in models]
    resume = args.resume
    with open_device(args.device, target) as device:
        for name, bits, task in layers(target) if parts or not models else ():
            if parts and not any(part in name for part in parts):
                continue
            if args.bits and bits not in args.bits:
                continue
            session = Session(
                [task], device, args.database, trials=args.trials, seed=args.seed, resume=resume,
                report=lambda tunings, done, total: None,
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
