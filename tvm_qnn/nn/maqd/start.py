"""Start of a quantized network from its trained full-precision twin."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from tvm_qnn.nn.maqd.layers import EPSILON, LayerBatchNorm, MaqdWeight
from tvm_qnn.nn.maqd.networks import NormActivation


@torch.no_grad()
def start_from(net: nn.Module, twin: nn.Module, images: Tensor) -> None:
    """Take over weights, and set normalizations so that channels look as in the twin.

    Latent weights are the twin's, standardized. The map of every normalization is chosen layer by
    layer from a forward pass: a channel gets the mean and deviation that batch normalization gave
    it in the twin, all of them times one factor, such that the mean square of the layer is 1. The
    sizes of filters are lost, as standardized weights have none: plain networks then start close to
    the twin, while the sums of a residual network mix their parts in other proportions.

    Args:
        net: A new network of quantized layers with layer-batch or batch normalization, changed in
            place and left in eval mode.
        twin: The network of the same shape with ``precision="float"``.
        images: ``[N, C, H, W]`` float32 in [0, 1], a few hundred training images.
    """
    theirs: dict[str, Any] = dict(twin.named_modules())
    hooks = []
    for name, module in net.named_modules():
        if isinstance(module, MaqdWeight):
            module.weight.copy_(_standard(theirs[name].weight))
        if isinstance(module, NormActivation):
            hooks.append(module.register_forward_pre_hook(_calibration(theirs[name].norm)))
    net.eval()(images)
    for hook in hooks:
        hook.remove()


def _standard(weight: Tensor) -> Tensor:
    axes = tuple(range(1, weight.ndim))
    var, mean = torch.var_mean(weight, dim=axes, correction=0, keepdim=True)
    return (weight - mean) / torch.sqrt(var + 1e-12)


def _calibration(theirs: nn.BatchNorm2d) -> Any:
    gain, bias = theirs.weight, theirs.bias
    factor = (gain.square() + bias.square()).mean().rsqrt()

    def calibrate(module: NormActivation, inputs: tuple[Tensor]) -> None:
        z, norm = inputs[0].float(), cast("Any", module.norm)
        var, mean = torch.var_mean(z, dim=(0, 2, 3), correction=0)
        slope = factor * gain / torch.sqrt(var + EPSILON)
        if isinstance(norm, LayerBatchNorm):
            norm.running_mean.copy_(z.mean())
            norm.running_var.copy_(z.var(correction=0))
            norm.gain.copy_(slope * torch.sqrt(norm.running_var + EPSILON))
            norm.bias.copy_(factor * bias + slope * (norm.running_mean - mean))
        else:
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
            norm.weight.copy_(factor * gain)
            norm.bias.copy_(factor * bias)

    return calibrate
