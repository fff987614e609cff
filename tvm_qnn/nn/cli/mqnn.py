"""``tvm-qnn train mqnn``: weights with M free levels, from full precision or from random."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tvm_qnn.nn.cli.run import Batch, Data, Epochs, Export, Out, Resume, Seed, Threads, require, run


class ThresholdRule(str, Enum):
    """How the partitions are found."""

    LLOYD = "lloyd"
    LEARNED = "learned"


def mqnn(
    data: Data,
    out: Out,
    epochs: Epochs = None,
    seed: Seed = 0,
    states: Annotated[
        int, typer.Option(min=0, max=16, help="Levels M of a weight; 0 for full precision.")
    ] = 3,
    thresholds: Annotated[
        ThresholdRule, typer.Option(help="Midpoints of the levels, or learned.")
    ] = ThresholdRule.LLOYD,
    per_channel: Annotated[
        bool, typer.Option("--per-channel", help="Levels for every output channel.")
    ] = False,
    activation_bits: Annotated[
        int, typer.Option(min=1, max=8, help="Bits of an activation, unless M is 0.")
    ] = 8,
    pretrained: Annotated[
        Path | None, typer.Option(help="Run to start from: a folder, or its checkpoint.")
    ] = None,
    resume: Resume = False,
    threads: Threads = 1,
    export: Export = None,
    batch: Batch = 1,
) -> None:
    """Train an MQNN network: M asymmetric levels and their partitions, learned together.

    Train with --states 0 first and give that run to --pretrained: the levels then start by k-means
    from its weights.
    """
    require("torch", "torch")
    from tvm_qnn.errors import QnnError
    from tvm_qnn.nn import datasets
    from tvm_qnn.nn.mqnn import train as mqnn_train

    if states == 1:
        raise QnnError("--states 1: weights need at least 2 levels; use 2 to 16, or 0 for float")
    images = datasets.load(data)
    cfg = mqnn_train.shape(images)
    if states:
        cfg = replace(
            cfg,
            states=states,
            thresholds=thresholds.value,
            per_channel=per_channel,
            activation_bits=activation_bits,
        )
    else:
        cfg = cfg.full_precision()
    recipe = mqnn_train.recipe(images, pretrained is not None, epochs, seed)
    net = mqnn_train.network(cfg, seed, pretrained)
    run(net, images, recipe, out, resume, threads, export, batch)
