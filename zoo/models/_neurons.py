"""The neuron constants of a network as a small tensor that every state dict holds.

Weights with other neurons are another network. As a tensor, the constants go wherever the weights
go: torch.save, safetensors, timm's checkpoints, Lightning's, moving averages.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn

from zoo.neurons import LIF

KEY = "neurons"  # in a state dict
DEFAULTS = {"levels": 1}  # of constants that are left out
DECISIVE = ("decay", "v_threshold", "reset", "levels")  # the others change gradients alone


def neurons_of(model: nn.Module) -> dict[str, Any]:
    """time_steps and, if all neurons share their constants, spike_layer, for create_model."""
    neurons: dict[str, Any] = {"time_steps": model.time_steps}
    layers = [layer.constants() for layer in model.modules() if isinstance(layer, LIF)]
    # Constants that learn are weights themselves.
    found = [{k: v for k, v in of.items() if not isinstance(v, Tensor)} for of in layers]
    if found and all(constants == found[0] for constants in found):
        neurons["spike_layer"] = found[0]
    return neurons


def to_tensor(neurons: dict[str, Any]) -> Tensor:
    """The constants as JSON in a uint8 tensor, which no cast to another precision changes."""
    return torch.tensor([*json.dumps(neurons).encode()], dtype=torch.uint8, device="cpu")


def from_tensor(tensor: Tensor) -> dict[str, Any]:
    """The constants in a tensor of to_tensor."""
    return json.loads(bytes(tensor.tolist()))


def decisive(neurons: dict[str, Any]) -> dict[str, Any]:
    """The constants that the outputs of a network depend on."""
    constants = DEFAULTS | neurons.get("spike_layer", {})
    return {"time_steps": neurons["time_steps"]} | {key: constants.get(key) for key in DECISIVE}
