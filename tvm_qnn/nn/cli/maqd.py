"""``tvm-qnn train maqd``: M-state weights and activations."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from tvm_qnn.errors import QnnError
from tvm_qnn.nn.cli.run import Batch, Data, Epochs, Export, Out, Resume, Seed, Threads, require, run


class Network(str, Enum):
    """Which network to train."""

    SMALL = "small"
    VGG = "vgg"
    RESNET = "resnet"


def maqd(
    data: Data,
    out: Out,
    network: Annotated[
        Network, typer.Option(help="small: plain; vgg: with pools; resnet: pre-activation.")
    ] = Network.SMALL,
    epochs: Epochs = None,
    seed: Seed = 0,
    weight_states: Annotated[
        int, typer.Option(min=0, max=128, help="States of a weight; 0 for full precision.")
    ] = 3,
    activation_states: Annotated[
        int | None,
        typer.Option(min=2, max=256, help="States of an activation.", show_default="4 or 8"),
    ] = None,
    first_states: Annotated[
        int, typer.Option(min=0, help="Weight states of the first layer; 0: as all.")
    ] = 0,
    last_states: Annotated[
        int, typer.Option(min=0, help="Weight states of the last layer; 0: as all.")
    ] = 0,
    channels: Annotated[
        str, typer.Option(help="Channels of vgg's convolutions, such as 32,64,128,128.")
    ] = "",
    pretrained: Annotated[
        Path | None, typer.Option(help="Run to start from: full precision, or the same network.")
    ] = None,
    bfloat16: Annotated[
        bool, typer.Option(help="Train vgg and resnet in bfloat16; slow on processors without it.")
    ] = True,
    resume: Resume = False,
    threads: Threads = 1,
    export: Export = None,
    batch: Batch = 1,
) -> None:
    """Train a MaQD network: M-state weights and activations, layer-batch normalization.

    For the best accuracy train vgg or resnet with --weight-states 0 first, and give that run to
    --pretrained with --first-states 127 --last-states 127.
    """
    require("torch", "torch")
    from tvm_qnn.nn import datasets
    from tvm_qnn.nn.maqd import train
    from tvm_qnn.nn.networks import build

    chosen: dict[str, Any] = {
        "weight_states": weight_states, "activation_states": activation_states,
        "first_states": first_states, "last_states": last_states, "channels": _numbers(channels),
    }  # fmt: skip
    _check(network, weight_states, first_states or last_states, channels, pretrained)
    images = datasets.load(data)
    _, planes, size, _ = images.train_images.shape
    given = {key: value for key, value in chosen.items() if value}
    if channels:
        pools = train.NETWORKS["vgg"].pools
        given["pools"] = tuple(pool for pool in pools if pool < len(given["channels"]))
    shape = train.NETWORKS[network.value](image_size=size, image_channels=planes, **given)
    if not weight_states:
        shape = shape.full_precision()
    base = train.QUANTIZED if weight_states else train.FULL
    if pretrained is None:
        net = build(shape, seed)
    else:
        net, base = train.network(shape, seed, images, pretrained)
    recipe = train.recipe(network.value, images, base, epochs, seed)
    recipe = replace(recipe, bfloat16=recipe.bfloat16 and bfloat16)
    run(net, images, recipe, out, resume, threads, export, batch)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        found = (0,)
    if any(number < 1 for number in found):
        raise QnnError(f"--channels {text}: give numbers of channels such as 32,64,128,128")
    return found


def _check(
    network: Network, weight_states: int, ends: int, channels: str, pretrained: Path | None
) -> None:
    """Refuse options that do not go together."""
    if weight_states == 1:
        raise QnnError("--weight-states 1: weights need 2 to 128 states; 0 stands for float")
    if network is Network.SMALL and (not weight_states or ends or pretrained):
        raise QnnError(
            "--network small has one number of states and no full-precision twin; use "
            "--network vgg or resnet"
        )
    if channels and network is not Network.VGG:
        raise QnnError("--channels is for --network vgg")
    if pretrained is not None and not weight_states:
        raise QnnError("--pretrained starts a network of few states; leave --weight-states 0 out")
