"""Tune the layers that are benchmarked, and networks, into one database.

    python -m benchmarks.tune_kernels --database DIR [NAME ...] [--target T] [--device D]
        [--trials N] [--bits NAME ...] [--resume]

Names are parts of layers' names, models of the zoo (``zoo:NAME``) or networks of
``benchmarks.models``; without any, all layers are tuned: those of ``benchmarks.kernels`` for x86,
those of ``benchmarks.arm`` for boards. Each layer is a session of its own, so that short ones get
as many trials as long ones; the families that may be the fastest for it share them, and the
database keeps the kernels of all. Networks get N for each kernel. ``--resume`` goes on after an
interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.arm.works import describe, works
from benchmarks.cases import BITS, CASES, host_target, methods, work_of
from benchmarks.models import SHAPES
from tvm_qnn import targets
from tvm_qnn.compiler import read
from tvm_qnn.schedules import family
from tvm_qnn.schedules.database import load
from tvm_qnn.targets.record import Target
from tvm_qnn.tuning import Tuning, tasks_of, tune
from tvm_qnn.tuning.device import open_device
from tvm_qnn.tuning.session import Session
from tvm_qnn.tuning.stop import deferred_interrupts
from tvm_qnn.tuning.task import Task


def layers(target: Target) -> dict[tuple[str, str], list[Task]]:
    """Return the benchmarked layers by name and bits: a task for each family that may win."""
    found: dict[tuple[str, str], list[Task]] = {}
    if target.arch != "aarch64":
        for case in CASES:
            for bits in case.variants:
                for method in methods(work_of(case, bits, "dot"), target):
                    task = Task(work_of(case, bits, method), family(method), target, (case.name,))
                    found.setdefault((case.name, bits), []).append(task)
        return found
    for listed, work in works():
        # Bit planes are what bit-serial kernels read; others get codes.
        codes = replace(work, x_planes=False, epilogue=replace(work.epilogue, pack=False))
        name = (describe(codes), f"w{work.w.bits}a{work.x.bits}")
        tasks = found.setdefault(name, [])
        for method in dict.fromkeys([listed, *methods(codes, target)]):
            made = work if method == "bitserial" else codes
            task = Task(made, family(method), target, (describe(codes),))
            if task not in tasks:
                tasks.append(task)
    return found


def tried(tasks: Sequence[Task], folder: Path) -> int:
    """Return how many schedules of some kernels a database knows to have been tried."""
    known = {record.key[:-1]: record.trials for record in load(folder)} if folder.is_dir() else {}
    return sum(known.get(task.key, 0) for task in tasks)


def show(name: str, tunings: Sequence[Tuning]) -> None:
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
    parser.add_argument(
        "--trials",
        type=int,
        default=64,
        help="schedules of each layer, of each kernel of a network",
    )
    parser.add_argument("--bits", nargs="*", choices=list(BITS), help="of layers; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    target = targets.get(args.target) if args.target else host_target()
    models = [name for name in args.names if name in SHAPES or name.startswith("zoo:")]
    parts = [name for name in args.names if name not in models]
    resume = args.resume
    with deferred_interrupts() as check, open_device(args.device, target) as device:
        for (name, bits), tasks in layers(target).items() if parts or not models else ():
            if parts and not any(part in name for part in parts):
                continue
            if args.bits and bits not in args.bits:
                continue
            if args.resume and tried(tasks, args.database) >= args.trials:
                continue
            session = Session(
                tasks, device, args.database, trials=args.trials, seed=args.seed, resume=resume,
                report=lambda tunings, done, total: None, check=check,
            )  # fmt: skip
            session.run()
            resume = True
            show(name, session.tunings)
    for name in models:
        model: Any = name
        if name in SHAPES:
            graph = SHAPES[name][0]()
            model = graph.model(graph.out)
        kernels = len(tasks_of(read(model), target))
        outcome = tune(
            model, target, args.database, device=args.device, trials=args.trials * kernels,
            seed=args.seed, resume=resume,
        )  # fmt: skip
        resume = True
        show(name, outcome.tunings)


if __name__ == "__main__":
    main()
