"""Small M-ary networks with lively numbers, and images for them."""

from dataclasses import replace

import numpy as np
import torch

from tvm_qnn.nn.mqnn.network import MqnnConfig, MqnnNet

SMALL = MqnnConfig(image_size=9, channels=(7, 33), strides=(1, 2), classes=5)
KINDS = {
    "binary": replace(SMALL, states=2),
    "three": SMALL,
    "four, 2-bit activations": replace(SMALL, states=4, activation_bits=2),
    "five a channel": replace(SMALL, states=5, per_channel=True, thresholds="learned"),
    "sixteen": replace(SMALL, states=16),
    "colour, with a pool": replace(SMALL, image_channels=3, strides=(1, 1), pools=(2, 1)),
    "float ends": replace(SMALL, quantized_ends=False),
    "full precision": SMALL.full_precision(),
}


def lively(cfg, seed=0):
    """A network with asymmetric levels, and statistics that differ from channel to channel."""
    torch.manual_seed(seed)
    net = MqnnNet(cfg).train()
    size = cfg.image_size
    with torch.no_grad():
        for block in net.each_block():
            block.norm.weight.uniform_(0.5, 1.5)
            block.norm.bias.uniform_(-0.5, 1.0)
        for layer in net.weights():
            if layer.how is not None:
                layer.levels.add_(torch.rand_like(layer.levels) * 0.05)
        for _ in range(20):
            net(torch.rand(16, cfg.image_channels, size, size))
        net.eval()
        # No class wins everywhere.
        net.linear.bias -= net(torch.rand(64, cfg.image_channels, size, size)).mean(0)
    return net


def random_images(count, size, channels=1):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, channels, size, size)).astype(np.uint8)
