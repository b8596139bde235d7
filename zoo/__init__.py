"""A zoo of spiking backbones, trained with detachable shortcut heads.

>>> import zoo
>>> model = zoo.create_model("short_bp_resnet18", num_classes=10, time_steps=4)
"""

from zoo.deployment.fold import deploy
from zoo.deployment.grid import NotExactError
from zoo.deployment.unroll import unroll
from zoo.factory import create_model, list_models
from zoo.hub.download import PullError
from zoo.hub.folder import save_pretrained
from zoo.inference.classifier import load_onnx
from zoo.layers.shortcut_heads import strip_heads
from zoo.models.spikingjelly import load_spikingjelly
from zoo.neurons import LIF, lif_step

__version__ = "0.1.0"
__all__ = [
    "LIF",
    "NotExactError",
    "PullError",
    "create_model",
    "deploy",
    "lif_step",
    "list_models",
    "load_onnx",
    "load_spikingjelly",
    "save_pretrained",
    "strip_heads",
    "unroll",
]
