"""From a name to a network; a thin door to timm's registry that opens on spiking networks only."""

import difflib
from pathlib import Path

import timm
from torch import nn

from zoo import hub, models


def list_models(filter: str = "", pretrained: bool = False) -> list[str]:
    """Names of the networks, sorted.

    Args:
        filter: A wildcard such as ``"*slim*"``.
        pretrained: Only those whose weights load, as ``arch.tag``.
    """
    if pretrained:
        known = set(list_models(filter))
        return [name for name in sorted(hub.pretrained_folders()) if name.split(".")[0] in known]
    names = {name for family in models.__all__ for name in timm.list_models(filter, module=family)}
    return sorted(names)


def create_model(name: str, pretrained: bool = False, **kwargs) -> nn.Module:
    """Build a spiking network, with random or pretrained weights.

    Args:
        name: ``arch`` or ``arch.tag`` of the zoo, ``local-dir:FOLDER``, or ``hf-hub:org/name``
            with an optional ``@revision``.
        pretrained: Load spiking weights, or raise.
        kwargs: Arguments of the network: time_steps, spike_layer, shortcut_heads, num_classes, ...

    Raises:
        ValueError: An unknown name (the message has the closest ones), no weights to load, or
            a folder that does not hold a network of ours.
        FileNotFoundError: The folder lacks config.json or model.safetensors.
    """
    source, _, place = name.partition(":")
    if place and source == "local-dir":
        return _from_folder(Path(place), pretrained, kwargs)
    if place and source == "hf-hub":
        return _from_folder(hub.download(place), pretrained, kwargs)

    architecture = name.partition(".")[0]
    if architecture not in list_models():
        close = difflib.get_close_matches(architecture, list_models(), n=3)
        raise ValueError(f"unknown model {name!r}, closest names: {close or list_models()}")
    if pretrained or architecture != name:  # a tag says which settings, with or without weights
        return _from_folder(hub.find_pretrained(name), pretrained, kwargs)
    return timm.create_model(architecture, **kwargs)


def _from_folder(folder: Path, pretrained: bool, kwargs) -> nn.Module:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder with {hub.CONFIG}, found none")
    hub.read_config(folder)
    if pretrained:
        hub.weight_names(folder)  # raises unless the file is whole
    try:
        return timm.create_model(f"local-dir:{folder}", pretrained=pretrained, **kwargs)
    except RuntimeError as error:
        raise ValueError(
            f"{folder / hub.WEIGHTS}: expected the weights of its {hub.CONFIG}, got others: {error}"
        ) from None
