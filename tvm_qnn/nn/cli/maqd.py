"""``tvm-qnn train maqd-vgg`` and ``maqd-resnet``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tvm_qnn.nn.cli.run import (
    Batch,
    Data,
    Epochs,
    Export,
    Out,
    Resume,
    Seed,
    Threads,
    require,
    run,
)

WeightStates = Annotated[int, typer.Option(min=2, max=128, help="States of a weight.")]
ActivationStates = Annotated[int, typer.Option(min=2, max=256, help="States of an activation.")]
First = Annotated[int, typer.Option(help="Weight states of the first layer; 0: as all.")]
Last = Annotated[int, typer.Option(help="Weight states of the last layer; 0: as all.")]
Bfloat16 = Annotated[bool, typer.Option(help="Train in bfloat16 where the processor has it.")]


def maqd_vgg(
    data: Data,
    out: Out,
    epochs: Epochs = 30,
    seed: Seed = 0,
    weight_states: WeightStates = 3,
    activation_states: ActivationStates = 8,
    first_states: First = 0,
    last_states: Last = 0,
    bfloat16: Bfloat16 = True,
    resume: Resume = False,
    threads: Threads = 1,
    export: Export = None,
    batch: Batch = 1,
) -> None:
    """Train a MaQD network in VGG style: convolutions, pools, layer-batch normalization."""
    require("torch", "torch")
    from tvm_qnn.nn.maqd.networks import VggConfig

    shape = (weight_states, activation_states, first_states, last_states)
    _train(VggConfig, shape, data, out, epochs, seed, bfloat16, resume, threads, export, batch)


def maqd_resnet(
    data: Data,
    out: Out,
    epochs: Epochs = 30,
    seed: Seed = 0,
    weight_states: WeightStates = 3,
    activation_states: ActivationStates = 8,
    first_states: First = 0,
    last_states: Last = 0,
    bfloat16: Bfloat16 = True,
    resume: Resume = False,
    threads: Threads = 1,
    export: Export = None,
    batch: Batch = 1,
) -> None:
    """Train a pre-activation residual MaQD network: the stream carries integer sums."""
    require("torch", "torch")
    from tvm_qnn.nn.maqd.networks import ResNetConfig

    shape = (weight_states, activation_states, first_states, last_states)
    _train(ResNetConfig, shape, data, out, epochs, seed, bfloat16, resume, threads, export, batch)


def _train(
    config: Any, states: tuple[int, int, int, int], data: Any, out: Any, epochs: int, seed: int,
    bfloat16: bool, resume: bool, threads: int, export: Any, batch: int,
) -> None:  # fmt: skip
    from tvm_qnn.nn import datasets
    from tvm_qnn.nn.checkpoint import Recipe
    from tvm_qnn.nn.networks import build

    images = datasets.load(data)
    recipe = Recipe(
        epochs=epochs, seed=seed, optimizer="muon", norm_rate=0.05, schedule="linear",
        warmup=0.05, smoothing=0.1, shift=2, flip=images.name != "mnist", bfloat16=bfloat16,
    )  # fmt: skip
    _, channels, size, _ = images.train_images.shape
    weights, activations, first, last = states
    cfg = config(
        image_size=size,
        image_channels=channels,
        weight_states=weights,
        activation_states=activations,
        first_states=first,
        last_states=last,
    )
    run(build(cfg, seed), images, recipe, out, resume, threads, export, batch)
