"""Train MaQD networks on CIFAR-10 and write what they reach to benchmarks/results/maqd_*.csv.

    python -m benchmarks.maqd --data DIR --out DIR [--part headline] [--part grid] ...

Every network is a cell with a folder below OUT. A finished cell is not trained again, an unfinished
one goes on after its last whole epoch, so that the same command continues whatever was cut off.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from tvm_qnn.nn import checkpoint, cifar
from tvm_qnn.nn.checkpoint import Epoch, Recipe
from tvm_qnn.nn.data import Images
from tvm_qnn.nn.maqd.layers import MaqdWeight
from tvm_qnn.nn.maqd.networks import ResNetConfig, VggConfig, fuse_training
from tvm_qnn.nn.maqd.train import FULL, QUANTIZED, TUNING, network
from tvm_qnn.nn.networks import build
from tvm_qnn.nn.train import train

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("headline", "resnet", "surrogate", "grid", "norm")

ENDS = 127
LARGE = VggConfig()
SMALL = VggConfig(channels=(16, 32, 64, 64), pools=(0, 1, 3))


@dataclass(frozen=True)
class Cell:
    """A network to train.

    Attributes:
        name: Name of its folder.
        cfg: Shape.
        recipe: How to train.
        images: Number of training images, the first ones; 0 stands for all.
        start: Name of the cell that it starts from, or "".
    """

    name: str
    cfg: VggConfig | ResNetConfig
    recipe: Recipe
    images: int = 0
    start: str = ""


def beside(part: str, cfg: VggConfig | ResNetConfig, full_epochs: int, epochs: int) -> list[Cell]:
    """Full precision; (3, 8) from it; (3, 8) from it with finer first and last layers."""
    full = f"{part}-float-{full_epochs}"
    first = f"{part}-3-8-{epochs}-after-{full_epochs}"
    ends = replace(cfg, first_states=ENDS, last_states=ENDS)
    recipe = replace(QUANTIZED, epochs=epochs)
    return [
        Cell(full, replace(cfg, precision="float"), replace(FULL, epochs=full_epochs)),
        Cell(first, cfg, recipe, start=full),
        Cell(f"{first}-ends", ends, recipe, start=full),
    ]


def headline(full_epochs: int, epochs: int) -> list[Cell]:
    """The larger network, and what training on changes."""
    full, first, ends = beside("headline", LARGE, full_epochs, epochs)
    tuning = replace(TUNING, epochs=epochs)
    return [full, first, Cell(f"{first.name}-tuned", LARGE, tuning, start=first.name), ends]


def surrogate(images: int, epochs: int, seeds: int) -> list[Cell]:
    """Scaled sigmoid against straight-through on the smaller network, from random weights."""
    recipe = replace(QUANTIZED, epochs=epochs, batch=128)
    return [
        Cell(
            f"surrogate-{kind}-{states[0]}-{states[1]}-seed{seed}",
            replace(SMALL, surrogate=kind, weight_states=states[0], activation_states=states[1]),
            replace(recipe, seed=seed),
            images,
        )
        for seed in range(seeds)
        for states in ((3, 2), (3, 8))
        for kind in ("sigmoid", "straight-through")
    ]


def grid(images: int, epochs: int) -> list[Cell]:
    """All (M_w, M_a) of the smaller network from random weights, and its full-precision twin."""
    recipe = replace(QUANTIZED, epochs=epochs, batch=128)
    twin = Cell(
        "grid-float", replace(SMALL, precision="float"),
        replace(FULL, epochs=epochs, batch=128, shift=2, cutout=0), images,
    )  # fmt: skip
    return [twin] + [
        Cell(
            f"grid-{weights}-{activations}",
            replace(SMALL, weight_states=weights, activation_states=activations),
            recipe,
            images,
        )
        for weights in (3, 5, 7, 15)
        for activations in (2, 4, 8, 16)
    ]


def norm(images: int, epochs: int) -> list[Cell]:
    """Layer-batch, batch and layer normalization at four batch sizes; rates go with the root."""
    cells = []
    for batch in (128, 32, 8, 2):
        scale = (batch / 128) ** 0.5
        recipe = replace(
            QUANTIZED, epochs=epochs, batch=batch,
            rate=QUANTIZED.rate * scale, norm_rate=QUANTIZED.norm_rate * scale,
        )  # fmt: skip
        cells += [
            Cell(f"norm-{kind}-{batch}", replace(SMALL, norm=kind), recipe, images)
            for kind in ("layer-batch", "batch", "layer")
        ]
    return cells


def run(cell: Cell, data: Images, out: Path, fuse: bool) -> None:
    """Train a cell as far as it is not trained yet."""
    folder = out / cell.name
    rows = trained(cell, out)[1]
    if len(rows) == cell.recipe.epochs:
        return
    if cell.start and not rows:
        net: nn.Module = network(cell.cfg, cell.recipe.seed, data, out / cell.start)[0]
    else:
        net = build(cell.cfg, cell.recipe.seed)
    if fuse:
        fuse_training(net)
    chosen = slice(0, cell.images or None)
    part = replace(
        data, train_images=data.train_images[chosen], train_labels=data.train_labels[chosen]
    )

    def done(row: Epoch) -> None:
        print(
            f"{cell.name}: epoch {row.epoch}/{cell.recipe.epochs}, loss {row.loss:.4f}, test "
            f"accuracy {100 * row.test_accuracy:.2f} %, {row.seconds:.0f} s",
            flush=True,
        )

    train(net, part, cell.recipe, folder, resume=True, done=done)


def trained(cell: Cell, out: Path) -> tuple[nn.Module | None, list[Epoch]]:
    """Return the network of a cell, None if it has none yet, and its finished epochs."""
    path = out / cell.name / checkpoint.NAME
    if not path.exists():
        return None, []
    net, _, rows = checkpoint.load_trained(path)
    return net, rows


@torch.no_grad()
def weights(net: nn.Module) -> dict[str, str]:
    """Return number, share of zeros, and sizes of the quantized weights; nothing for float."""
    layers = [module for module in net.modules() if isinstance(module, MaqdWeight)]
    codes = [layer.weight_codes() for layer in layers]
    count = sum(c.numel() for c in codes)
    if not count:
        return {"weights": "", "zeros": "", "packed_bytes": "", "ideal_bytes": ""}
    states = [layer.quantizer.states for layer in layers]
    packed = sum(c.numel() * math.ceil(math.log2(m)) for c, m in zip(codes, states, strict=True))
    ideal = sum(c.numel() * math.log2(m) for c, m in zip(codes, states, strict=True))
    return {
        "weights": str(count),
        "zeros": f"{sum(int((c == 0).sum()) for c in codes) / count:.4f}",
        "packed_bytes": f"{packed / 8:.0f}",
        "ideal_bytes": f"{ideal / 8:.0f}",
    }


def shape(cfg: VggConfig | ResNetConfig) -> str:
    """Write the channels of a network; ``p`` stands for a pool, ``x`` for blocks of a stage."""
    if isinstance(cfg, ResNetConfig):
        return "-".join([str(cfg.stem), *(f"{c}x{cfg.blocks}" for c in cfg.stages)])
    return "-".join(f"{c}{'p' if i in cfg.pools else ''}" for i, c in enumerate(cfg.channels))


def row(cell: Cell, net: nn.Module, rows: list[Epoch]) -> dict[str, str]:
    """Return what the table says about a cell."""
    fields, recipe = asdict(cell.cfg), asdict(cell.recipe)
    columns = (
        "precision", "weight_states", "activation_states", "first_states", "last_states", "norm",
        "surrogate",
    )  # fmt: skip
    return {
        "cell": cell.name,
        "network": shape(cell.cfg),
        **{key: str(fields[key]) for key in columns},
        "start": cell.start or "random",
        "images": str(cell.images or 50_000),
        **{key: str(recipe[key]) for key in ("optimizer", "rate", "batch", "seed", "epochs")},
        "epochs_done": str(len(rows)),
        "train_accuracy": f"{rows[-1].train_accuracy:.4f}",
        "test_accuracy": f"{rows[-1].test_accuracy:.4f}",
        **weights(net),
    }


def write(part: str, cells: Sequence[Cell], out: Path, results: Path) -> None:
    """Write the table of a part: a row for every cell that has finished an epoch."""
    found = [(cell, *trained(cell, out)) for cell in cells]
    table = [row(cell, net, rows) for cell, net, rows in found if net is not None]
    if not table:
        return
    results.mkdir(parents=True, exist_ok=True)
    with (results / f"maqd_{part}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the chosen parts one after the other."""
    parser = argparse.ArgumentParser(description="Train MaQD networks on CIFAR-10.")
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    parser.add_argument("--images", type=int, default=10_000, help="training images of the tables")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the tables")
    parser.add_argument("--full-epochs", type=int, default=20, help="epochs of headline's twin")
    parser.add_argument("--headline-epochs", type=int, default=20, help="epochs of (3, 8) after it")
    parser.add_argument("--norm-epochs", type=int, default=2, help="epochs of part norm")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of part surrogate")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--fuse", action="store_true", help="compile; needs a C++ compiler")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    data = cifar.load(options.data)
    parts = {
        "headline": headline(options.full_epochs, options.headline_epochs),
        "resnet": beside("resnet", ResNetConfig(), options.full_epochs, options.headline_epochs),
        "surrogate": surrogate(options.images, options.epochs, options.seeds),
        "grid": grid(options.images, options.epochs),
        "norm": norm(options.images, options.norm_epochs),
    }
    for part in options.part or parts:
        for cell in parts[part]:
            run(cell, data, options.out, options.fuse)
            write(part, parts[part], options.out, options.results)


if __name__ == "__main__":
    main()
