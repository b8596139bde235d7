"""Pretrained networks as folders: model.safetensors beside a config.json in timm's schema.

A weight file without its neuron constants is another network, so every folder that this module
writes or reads has them in ``config.json["model_args"]``: time_steps and spike_layer.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models import is_model, model_entrypoint
from timm.models._hub import save_config_for_hf
from torch import nn

from zoo.neurons import LIF

CONFIG, WEIGHTS = "config.json", "model.safetensors"
WEIGHTS_FOLDER_VARIABLE = "SHORT_BP_ZOO_WEIGHTS"
BUNDLED = Path(__file__).parent / "weights"


def neuron_constants(model: nn.Module) -> dict[str, Any]:
    """The constants that all spiking layers of a network share, as LIF's arguments.

    Raises:
        ValueError: There is no LIF layer, or two of them differ.
    """
    found = [module.constants() for module in model.modules() if isinstance(module, LIF)]
    if not found or any(constants != found[0] for constants in found):
        raise ValueError(
            f"model: expected LIF layers that share their constants, got {len(found)} LIF layers "
            f"with {len({str(c) for c in found})} sets of constants"
        )
    return found[0]


def save_pretrained(model: nn.Module, folder: Path, **extra: Any) -> None:
    """Write model.safetensors and config.json into an existing folder.

    Args:
        extra: More keys for config.json, e.g. label_names.
    """
    model_args = {
        "time_steps": model.time_steps,
        "spike_layer": neuron_constants(model),
        "shortcut_heads": model.shortcut_heads is not None,
    }
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    save_config_for_hf(model, folder / CONFIG, model_config=extra, model_args=model_args)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a pretrained folder, checked.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON, names an architecture that is not ours, or lacks the constants
            without which the weights are another network.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file in timm's schema, found none")
    try:
        config = json.loads(path.read_text())
        architecture, model_args = config["architecture"], config["model_args"]
        missing = {"time_steps", "spike_layer"} - model_args.keys()
        constants = model_args.get("spike_layer", {})
        missing |= {f"spike_layer.{name}" for name in LIF().constants().keys() - constants.keys()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected JSON with 'architecture' and 'model_args', got {error!r}"
        ) from None
    if not (isinstance(architecture, str) and is_model(architecture) and _is_ours(architecture)):
        raise ValueError(f"{path}: expected an architecture of zoo, got {architecture!r}")
    if missing:
        raise ValueError(
            f"{path}: expected the neuron constants in model_args, got none for {sorted(missing)}; "
            "without them the weights are another network"
        )
    return config


def _is_ours(architecture: str) -> bool:
    return model_entrypoint(architecture).__module__.startswith("zoo.")


def weight_names(folder: Path) -> list[str]:
    """Names of the tensors in model.safetensors.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, or not in the safetensors format (a pickle, for example).
    """
    path = folder / WEIGHTS
    if not path.is_file():
        others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth"))
        found = f"only {others}, which are pickles and are never loaded" if others else "none"
        raise FileNotFoundError(f"{path}: expected safetensors weights, found {found}")
    try:
        with safe_open(path, framework="pt") as weights:
            return list(weights.keys())
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected a whole safetensors file, got {path.stat().st_size} bytes that do "
            f"not parse ({error})"
        ) from None


def pretrained_folders() -> dict[str, Path]:
    """Folders that hold pretrained networks, by their name ``arch.tag``.

    A folder under $SHORT_BP_ZOO_WEIGHTS stands before one of that name in the package.
    """
    roots = [BUNDLED]
    if WEIGHTS_FOLDER_VARIABLE in os.environ:
        roots.insert(0, Path(os.environ[WEIGHTS_FOLDER_VARIABLE]))
    return {
        config.parent.name: config.parent
        for root in reversed(roots)
        for config in sorted(root.glob(f"*/{CONFIG}"))
        if (config.parent / WEIGHTS).is_file()
    }


def find_pretrained(name: str) -> Path:
    """The folder of ``arch`` or ``arch.tag``; of several tags the first in the alphabet.

    Raises:
        ValueError: There is none.
    """
    folders = pretrained_folders()
    architecture, _, tag = name.partition(".")
    for found in sorted(folders):
        if found == name or (not tag and found.partition(".")[0] == architecture):
            inside = read_config(folders[found])["architecture"]
            if inside != architecture:
                raise ValueError(f"{folders[found]}: expected {architecture}, got {inside}")
            return folders[found]
    raise ValueError(
        f"{name}: expected pretrained weights, found none; weights exist for "
        f"{sorted(folders) or 'no network yet'}"
    )


def hashes(folder: Path, but: str) -> dict[str, str]:
    """sha256 of every file by its path in a folder, the one left out that shall hold them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / but:
            with path.open("rb") as file:
                name = path.relative_to(folder).as_posix()
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def download(repo_id: str) -> Path:
    """Fetch config.json and model.safetensors of ``org/name[@revision]``, and nothing else."""
    repo_id, _, revision = repo_id.partition("@")
    return Path(
        snapshot_download(repo_id, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS])
    )
