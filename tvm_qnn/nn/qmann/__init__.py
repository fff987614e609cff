"""Q-MANN: memory networks in float, fixed point and binary; training, export, energy."""

from tvm_qnn.nn.qmann.config import QmannConfig, QmannRecipe
from tvm_qnn.nn.qmann.network import QmannNet

__all__ = ["QmannConfig", "QmannNet", "QmannRecipe"]
