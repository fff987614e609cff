"""Train memory networks on the bAbI tasks and record their errors in benchmarks/results/qmann.csv.

    python -m benchmarks.qmann --data DIR --out DIR [--tasks 1,6] [--configs float,mann8] [--runs 3]

Resumable: a (task, network) whose seeds are finished is not trained again, an unfinished one goes
on from its last checkpoint in OUT. Trained networks stay in OUT/models. Early stopping only chooses
an epoch, so a configuration with and without it come from one training.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tvm_qnn.nn.qmann import babi
from tvm_qnn.nn.qmann import state as qmann_state
from tvm_qnn.nn.qmann.config import CONFIGS, QmannConfig, QmannRecipe
from tvm_qnn.nn.qmann.train import QmannRun, train, trained

CSV = Path(__file__).resolve().parent / "results" / "qmann.csv"
COLUMNS = (
    *("task", "config", "seed", "questions", "test_error", "validation_error"),
    *("epochs", "epoch", "stopped", "seconds"),
)
FIRST = (1, 5, 6, 8, 15, 20)
"""Tasks with the largest differences in the published table: a partial result begins with them."""
TASKS = (*FIRST, *(task for task in range(1, 21) if task not in FIRST))
AUTHORS_CODE = {
    f"{name}-code": (
        replace(CONFIGS[name][0], similarity="hamming-code", read_gradient="quantized"),
        CONFIGS[name][1],
    )
    for name in ("qmann8", "qmann8-es", "qmann8-es-mq", "qmann1", "qmann1-es", "qmann1-es-mq")
}
"""The similarity and the gradient of the authors' code, beside what their paper says."""
ALL: dict[str, tuple[QmannConfig, bool]] = {**CONFIGS, **AUTHORS_CODE}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    unknown = [name for name in options.configs if name not in ALL]
    if unknown:
        raise SystemExit(f"no configuration {unknown[0]!r}; there are {', '.join(ALL)}")
    seeds = list(range(options.runs))
    tasks = [task for task in TASKS if task in options.tasks]
    for group in ([t for t in tasks if t in FIRST], [t for t in tasks if t not in FIRST]):
        for number in group:
            task = babi.load(options.data, number)
            for cfg, names in _networks(options.configs):
                missing = [s for s in seeds if not _finished(options.out, number, names, s)]
                if missing:
                    _train(options.out, task, cfg, names, missing, options.epochs)
                    write(options.out)


def _networks(configs: list[str]) -> list[tuple[QmannConfig, list[str]]]:
    """Each different network once, with the configurations that it answers for."""
    found: dict[QmannConfig, list[str]] = {}
    for name in configs:
        found.setdefault(ALL[name][0], []).append(name)
    return list(found.items())


def _train(
    out: Path, task: babi.Task, cfg: QmannConfig, names: list[str], seeds: list[int], epochs: int
) -> None:
    label = f"task{task.number:02d}-{names[0]}"
    state = out / "state" / f"{label}-{seeds[0]}-{seeds[-1]}.npz"
    recipe = QmannRecipe(epochs=epochs)
    # Where a configuration wants the last weights, no seed may end early.
    stop = all(ALL[name][1] for name in names)
    start = time.process_time()
    runs = train(cfg, recipe, task, seeds, stop=stop, state=state, resume=True, every=5)
    seconds = (time.process_time() - start) / len(seeds)
    for run in runs:
        for name in names:
            row = _row(out, task, cfg, recipe, run, name, seconds)
            path = _row_path(out, task.number, name, run.seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(row) + "\n")
            print(f"{label} {name} seed {run.seed}: test error {row['test_error']} %", flush=True)
    state.unlink()


def _row(
    out: Path,
    task: babi.Task,
    cfg: QmannConfig,
    recipe: QmannRecipe,
    run: QmannRun,
    name: str,
    seconds: float,
) -> dict[str, Any]:
    stops = ALL[name][1]
    result = trained(cfg, recipe, task, run, stops)
    path = out / "models" / f"task{task.number:02d}-{name}-seed{run.seed}.npz"
    qmann_state.save_trained(path, result)
    return {
        "task": task.number,
        "config": name,
        "seed": run.seed,
        "questions": task.size,
        "test_error": round(100 * result.record["test_error"], 2),
        "validation_error": round(100 * result.record["validation_error"], 2),
        "epochs": len(run.epochs),
        "epoch": result.record["epoch"],
        "stopped": run.stopped if stops else 0,
        "seconds": round(seconds, 1),
    }


def _row_path(out: Path, task: int, name: str, seed: int) -> Path:
    return out / "rows" / f"task{task:02d}-{name}-seed{seed}.json"


def _finished(out: Path, task: int, names: list[str], seed: int) -> bool:
    return all(_row_path(out, task, name, seed).exists() for name in names)


def write(out: Path) -> None:
    """Merge the finished rows of ``out`` into the committed table."""
    rows: dict[tuple[int, str, int], dict[str, Any]] = {}
    if CSV.exists():
        with CSV.open(newline="") as file:
            rows = {_key(row): row for row in csv.DictReader(file)}
    for path in (out / "rows").glob("*.json"):
        row = json.loads(path.read_text())
        rows[_key(row)] = row
    order = list(ALL)
    partial = CSV.with_name(CSV.name + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        for key in sorted(rows, key=lambda k: (k[0], order.index(k[1]), k[2])):
            writer.writerow(rows[key])
    partial.replace(CSV)


def _key(row: dict[str, Any]) -> tuple[int, str, int]:
    return int(row["task"]), row["config"], int(row["seed"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the bAbI archives")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and models")
    parser.add_argument("--runs", type=int, default=3, help="seeds of every task and network")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument(
        "--tasks", type=lambda x: [int(task) for task in x.split(",")], default=list(TASKS)
    )
    parser.add_argument("--configs", type=lambda x: x.split(","), default=list(CONFIGS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
