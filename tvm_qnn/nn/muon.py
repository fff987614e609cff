"""Muon: steps of orthogonalized momentum for weights, Adam for all other parameters.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

ITERATIONS = 4
# The quintic of the source: it sends every singular value from (0, 1] to about 0.7 ... 1.2.
QUINTIC = (3.4445, -4.7750, 2.0315)
ADAM = (0.9, 0.999, 1e-8)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Replace the singular values of a matrix by about 1, with Newton-Schulz steps in bfloat16.

    Args:
        matrix: ``[R, C]`` float32.

    Returns:
        ``[R, C]`` float32, scaled so that the root mean square of its values is 1.
    """
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    y = (x.T if tall else x).float()
    return y * (y.numel() ** 0.5 / (y.norm() + 1e-7))


class Muon(torch.optim.Optimizer):
    """Parameters of two or more axes move by orthogonalized Nesterov momentum, others by Adam.

    A step of a weight has the root mean square ``lr`` times that of its first values (times 1 where
    these are all 0), whatever the gradient: ``lr`` is a relative rate, one for all layers. Decay
    multiplies weights by ``1 - lr * weight_decay``.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.03, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; ``closure`` is refused."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                move = self._muon if parameter.ndim > 1 else self._adam
                move(parameter, parameter.grad, group)

    def _muon(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            size = parameter.square().mean().sqrt()
            state["size"] = torch.where(size > 0, size, torch.ones(()))
        momentum = state["momentum"].mul_(group["momentum"]).add_(grad)
        ahead = grad + group["momentum"] * momentum
        step = orthogonalize(ahead.reshape(len(ahead), -1)).view(parameter.shape)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(step * state["size"], alpha=-group["lr"])

    def _adam(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = (torch.zeros_like(parameter) for _ in range(2))
        first, second, epsilon = ADAM
        state["step"] += 1
        count = float(state["step"])
        mean = state["mean"].lerp_(grad, 1 - first) / (1 - first**count)
        square = state["square"].lerp_(grad.square(), 1 - second) / (1 - second**count)
        parameter.addcdiv_(mean, square.sqrt_().add_(epsilon), value=-group["lr"])
