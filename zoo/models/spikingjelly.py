"""Weights of SpikingJelly 2.x in networks of the zoo.

Both compute the same network; only their names for its tensors differ. A family's entry in KEYS
turns ours into theirs, rule by rule. A weight file knows neither neuron constants nor layers
without weights: docs/convert.md says which arguments of LIF give the neurons of SpikingJelly, and
which of its networks are ours.
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
from zoo.models.ms_resnet import MSResNet
from zoo.models.sew_resnet import Bottleneck as SEWBottleneck
from zoo.models.sew_resnet import SEWResNet
from zoo.models.short_bp_resnet import ShortBPResNet

PARALLEL = "module."  # before each name of a network that torch's DataParallel or DDP held
Rule = tuple[str, str | Callable[[re.Match], str]]  # for re.sub: part of our name, theirs


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
    ShortBPResNet: RESNET,  # spiking_resnet18 and its kin
    SEWResNet: SEW,
    MSResNet: MS,  # without attention or a gate
}


def load_spikingjelly(model: nn.Module, source: str | Path | Mapping[str, Any]) -> None:
    """Put the weights of SpikingJelly's network into ours; shortcut heads stay as they are.

    Args:
        model: The same architecture: ``short_bp_resnet*`` with stem="conv7x7_maxpool" for its
            spiking ResNets, ``sew_resnet*`` for its SEW ResNets, ``ms_resnet*`` for its MS-ResNets.
        source: A ``state_dict``, or its file: .safetensors, or .pt and .pth if they hold tensors
            and nothing that would have to be run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is another, SpikingJelly has no such network, or its weights do not
            fit; the message has every missing, unexpected and wrongly shaped tensor.
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
    """Our names of a network's tensors -> SpikingJelly's; shortcut heads, which it lacks, left out.

    Raises:
        ValueError: SpikingJelly has no such network.
    """
    rules = next((KEYS[kind] for kind in type(model).__mro__ if kind in KEYS), None)
    if rules is None:
        known = sorted(kind.__name__ for kind in KEYS)
        raise ValueError(f"model: expected one of {known}, got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, nn.AvgPool2d):
            hint = '; its stem pools by the maximum, stem="conv7x7_maxpool"'
            raise ValueError(
                f"model: expected the layers of SpikingJelly, got an average pooling at {name}"
                f"{hint if name.startswith('stem') else ''}"
            )
        if isinstance(module, SEWBottleneck) and module.residual == "iand":
            raise ValueError(
                f"model: expected the layers of SpikingJelly, whose bottlenecks exchange the two "
                f"sides of IAND, got the paper's at {name}"
            )
    names = {}
    for ours in model.state_dict():
        if not ours.startswith("shortcut_heads."):
            names[ours] = ours
            for part, replacement in rules:
                names[ours] = re.sub(part, replacement, names[ours])
    return names


def _read(source: str | Path | Mapping[str, Any]) -> Mapping[str, Tensor]:
    if isinstance(source, Mapping):
        weights, where = source, "state_dict"
    else:
        where = Path(source)
        weights = _read_file(where)
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        found = list(weights) if isinstance(weights, Mapping) else type(weights).__name__
        raise ValueError(
            f"{where}: expected tensors by their names, got {found}; a training checkpoint often "
            'has them under "model" or "state_dict": pass that'
        )
    if weights and all(name.startswith(PARALLEL) for name in weights):
        return {name.removeprefix(PARALLEL): tensor for name, tensor in weights.items()}
    return weights


def _read_file(path: Path) -> Any:
    """Tensors of a file; nothing in it is ever run."""
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(f"{path}: expected a .safetensors, .pt or .pth file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file of weights, found none")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises of a damaged file has no kind in common
        raise ValueError(
            f"{path}: expected a whole file of tensors alone, got one that is not ({error}); where "
            "you trust it, save its state_dict with safetensors.torch.save_file"
        ) from None
