"""Weights of SpikingJelly 2.x in networks of the zoo.

Both compute the same network; only the names of the tensors differ. KEYS has the rules that turn
our names into SpikingJelly's, per family. A weight file holds neither neuron constants nor layers
without weights: docs/convert.md says which networks match, and which arguments of LIF.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.utils import unwrap_model
from torch import Tensor, nn

from zoo.models._backbone import SpikingBackbone
from zoo.models._neurons import KEY
from zoo.models.ms_resnet import MSResNet
from zoo.models.sew_resnet import SEWResNet
from zoo.models.short_bp_resnet import ShortBPResNet

PARALLEL = "module."  # prefix of all names in torch's DataParallel and DDP
Rule = tuple[str, str | Callable[[re.Match], str]]  # for re.sub: part of our name, its replacement


def _layer(stage: re.Match) -> str:
    return f"layer{int(stage[1]) + 1}."


RESNET: Sequence[Rule] = (
    (r"^stem\.0\.conv\.", "conv1."),
    (r"^stem\.0\.norm\.", "bn1."),
    (r"^stages\.(\d+)\.", _layer),
    (r"\.conv(\d)\.conv\.", r".conv\1."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.conv\.", ".downsample.0."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"^head\.fc\.", "fc."),
)
SEW: Sequence[Rule] = ((r"\.shortcut\.conv\.", ".shortcut."), *RESNET)
MS: Sequence[Rule] = (
    (r"^stem\.0\.conv\.", "stem.0."),
    (r"^stem\.0\.norm\.", "stem.1."),
    (r"^head\.fc\.", "head."),
    *RESNET,
)
KEYS: dict[type[SpikingBackbone], Sequence[Rule]] = {
    ShortBPResNet: RESNET,  # spiking_resnet18 to 152
    SEWResNet: SEW,
    MSResNet: MS,  # without attention or a gate
}


def load_spikingjelly(model: nn.Module, source: str | Path | Mapping[str, Any]) -> None:
    """Load the weights of a SpikingJelly network; shortcut heads stay as they are.

    Args:
        model: The same architecture: ``short_bp_resnet*`` with stem="conv7x7_maxpool" for its
            spiking ResNets, ``sew_resnet*`` for its SEW ResNets, ``ms_resnet*`` for its MS-ResNets.
        source: A ``state_dict``, or its file: .safetensors, or what torch.save wrote, which is read
            with weights_only=True.

    Raises:
        ValueError: SpikingJelly has no such network, or the weights do not fit. The message names
            every missing, unexpected and wrongly shaped tensor, and nothing is loaded.
    """
    model = unwrap_model(model)
    names = spikingjelly_names(model)
    own, theirs = model.state_dict(), _read(source)
    wrong = {
        "missing": [name for name in names.values() if name not in theirs],
        "unexpected": [name for name in theirs if name not in names.values()],
        "of another shape": [
            f"{theirs_name}: expected {tuple(own[name].shape)}, got {tuple(tensor.shape)}"
            for name, theirs_name in names.items()
            if (tensor := theirs.get(theirs_name, own[name])).shape != own[name].shape
        ],
    }
    if any(wrong.values()):
        found = "; ".join(f"{what}: {which}" for what, which in wrong.items() if which)
        kind = type(model).__name__
        raise ValueError(f"weights: expected SpikingJelly's of this {kind}, got {found}")
    model.load_state_dict({ours: theirs[name] for ours, name in names.items()}, strict=False)


def spikingjelly_names(model: nn.Module) -> dict[str, str]:
    """Our names of a network's tensors -> SpikingJelly's, without those of shortcut heads."""
    rules = KEYS.get(type(model))
    if rules is None:
        known = sorted(kind.__name__ for kind in KEYS)
        raise ValueError(f"model: expected one of {known}, got {type(model).__name__}")
    if pools := [n for n, module in model.named_modules() if isinstance(module, nn.AvgPool2d)]:
        raise ValueError(
            f"model: SpikingJelly's networks have no average pooling, as here at {pools[0]}; for "
            'its spiking ResNets take stem="conv7x7_maxpool"'
        )
    names = {}
    for ours in model.state_dict():
        if ours != KEY and not ours.startswith("shortcut_heads."):
            names[ours] = ours
            for part, replacement in rules:
                names[ours] = re.sub(part, replacement, names[ours])
    return names


def _read(source: str | Path | Mapping[str, Any]) -> Mapping[str, Tensor]:
    if isinstance(source, Mapping):
        weights = source
    elif Path(source).suffix == ".safetensors":
        weights = load_file(source)
    else:
        weights = torch.load(source, map_location="cpu", weights_only=True)
    if all(name.startswith(PARALLEL) for name in weights):
        return {name.removeprefix(PARALLEL): tensor for name, tensor in weights.items()}
    return weights
