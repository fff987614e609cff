"""What training asks of a network, and how a checkpoint finds the class of the network it holds."""

from __future__ import annotations

import importlib
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import nn

CONFIGS = {
    "maqd": "tvm_qnn.nn.maqd.small:MaqdConfig",
    "maqd-vgg": "tvm_qnn.nn.maqd.networks:VggConfig",
    "maqd-resnet": "tvm_qnn.nn.maqd.networks:ResNetConfig",
    "mqnn": "tvm_qnn.nn.mqnn.network:MqnnConfig",
}
"""Module and class of every kind of network, by the name that checkpoints keep."""


class Config(Protocol):
    """Shape of a network: a frozen dataclass of plain values, one class for each kind of network.

    Attributes:
        kind: Name of the class in :data:`CONFIGS`.
    """

    kind: ClassVar[str]

    def build(self) -> nn.Module:
        """Return a new network, whose attribute ``cfg`` is this object."""


def build(cfg: Config, seed: int) -> nn.Module:
    """Return a new network with the weights of ``seed``."""
    torch.manual_seed(seed)
    return cfg.build()


def config(model: nn.Module) -> Config:
    """Return the shape of a network."""
    return cast("Config", model.cfg)


def fields_of(cfg: Config) -> dict[str, Any]:
    """Return kind and fields of a shape as plain values."""
    assert is_dataclass(cfg)
    return {"kind": cfg.kind, **asdict(cfg)}


def config_of(fields: dict[str, Any]) -> Config:
    """Undo :func:`fields_of`; lists become tuples, and what names no kind is "maqd".

    Raises:
        KeyError: The kind is unknown.
        TypeError: The fields are not those of the kind.
    """
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    module, name = CONFIGS[str(plain.pop("kind", "maqd"))].split(":")
    made: Config = getattr(importlib.import_module(module), name)(**plain)
    return made
