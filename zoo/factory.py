"""Create and list models; a thin wrapper over timm's registry."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from textwrap import shorten
from typing import Any

import timm
from safetensors import SafetensorError
from torch import nn

from zoo import hub, models
from zoo.models._backbone import OtherWeightsError
from zoo.models._build import check_weights_alone
from zoo.validation import plain


def list_models(
    filter: str | Sequence[str] = "",
    *,
    pretrained: bool = False,
    exclude_filters: str | Sequence[str] | None = None,
) -> list[str]:
    """Names of the networks, sorted.

    Args:
        filter: One or several wildcards such as ``"*slim*"``, for the name or, with pretrained, for
            ``arch.tag``.
        pretrained: Only networks with weights, as ``arch.tag``.
        exclude_filters: Wildcards of names to leave out.

    Raises:
        FileNotFoundError: pretrained, and $SHORT_BP_ZOO_WEIGHTS names no folder.
    """
    if pretrained:
        names = hub.pretrained_names()
    else:
        names = [name for family in models.__all__ for name in timm.list_models(module=family)]
    return sorted(
        name
        for name in names
        if (not filter or _matches(name, filter)) and not _matches(name, exclude_filters or ())
    )


def _matches(name: str, wildcards: str | Sequence[str]) -> bool:
    """Whether a wildcard matches ``arch.tag`` or its arch alone."""
    wildcards = [wildcards] if isinstance(wildcards, str) else wildcards
    return any(fnmatch(part, w) for w in wildcards for part in (name, name.partition(".")[0]))


def create_model(
    name: str, pretrained: bool = False, cache_dir: str | Path | None = None, **kwargs
) -> nn.Module:
    """Build a spiking network, with random or pretrained weights.

    Args:
        name: ``arch`` or ``arch.tag`` of the zoo, ``local-dir:FOLDER``, or ``hf-hub:org/name``
            with an optional ``@revision``. A run folder stands for its newest checkpoint.
        pretrained: Load spiking weights, or raise.
        cache_dir: For downloads; huggingface_hub's own cache if None.
        kwargs: Arguments of the network: time_steps, spike_layer, shortcut_heads, num_classes, ...
            A spike_layer mapping changes some constants; the others come from config.json, or for a
            bare architecture without weights from LIF.

    Returns:
        The network, in training mode as from timm: images [B, C, H, W] or event frames
        [T, B, C, H, W] -> logits [B, K], and with shortcut heads in training mode
        ``(logits, side_logits)``, side_logits [heads, B, K].

    Raises:
        ValueError: The name is unknown (the message has the closest ones), there are no weights,
            the weights are damaged or do not fit, or checkpoint_path is no .safetensors file.
        FileNotFoundError: A folder, its config.json, its weights or checkpoint_path do not exist,
            or the run has no checkpoint yet.
        PullError: The Hub does not give it; the message says why and what to do.
        TypeError: The network, or LIF, takes no such argument.
        AssertionError: timm's, for an unknown global_pool, or a pretrained_cfg beside a folder.
    """
    check_name(name)
    kwargs = plain(kwargs)
    architecture, _, tag = name.partition(".")
    _check_checkpoint(kwargs.get("checkpoint_path"))
    misfit = f"{name}: expected arguments that its weights fit, got {sorted(kwargs)}"
    if not pretrained and tag in ("", hub.UNTRAINED) and ":" not in name:
        return _build(architecture, False, kwargs, misfit)
    # A tag stands for its arguments too, with or without weights.
    files = (hub.CONFIG, hub.WEIGHTS) if pretrained else (hub.CONFIG,)
    folder = hub.locate(name, files, cache_dir)
    weights = folder / hub.WEIGHTS
    if pretrained and not weights.is_file():
        raise FileNotFoundError(f"{weights}: no such file; only safetensors weights are loaded")
    hub.network_asked_for(folder)  # errors of the arguments in config.json name it
    if not kwargs:
        misfit = f"{weights}: expected the weights of its {hub.CONFIG}, got others"
    return _build(f"local-dir:{folder}", pretrained, kwargs, misfit)


def check_name(name: str) -> None:
    """Raise ValueError for an unknown name; the message has the closest ones."""
    architecture = name.partition(".")[0]
    if ":" in name or architecture in list_models():
        return
    if "/" in name:
        advice = f"a folder is local-dir:{name}, a repository hf-hub:{name}"
    elif close := difflib.get_close_matches(architecture, list_models(), n=3):
        advice = f"closest names: {close}"
    else:
        advice = f"`short-bp-zoo list` names all; a folder is local-dir:{name}"
    raise ValueError(f"unknown model {name!r}, {advice}")


def _build(source: str, pretrained: bool, kwargs: dict[str, Any], misfit: str) -> nn.Module:
    """timm's network of that name.

    Args:
        misfit: The error for weights that do not fit.
    """
    try:
        return timm.create_model(source, pretrained=pretrained, **kwargs)
    except (OtherWeightsError, SafetensorError, RuntimeError) as error:
        if type(error) is RuntimeError and "loading state_dict" not in str(error):
            raise  # about a device, for example
        raise ValueError(f"{misfit}: {shorten(str(error), 300)}") from None  # it names all tensors


def _check_checkpoint(checkpoint: str | Path | None) -> None:
    """Raise unless a checkpoint_path is a .safetensors file apart from its config.json."""
    if not checkpoint:
        return
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f"checkpoint_path: expected a file of weights, found none at {str(checkpoint)!r}"
        )
    if Path(checkpoint).suffix != ".safetensors":
        raise ValueError(
            f"checkpoint_path: expected a .safetensors file, got {str(checkpoint)!r}; if you trust "
            "it, save its state_dict with safetensors.torch.save_file"
        )
    check_weights_alone("checkpoint_path", checkpoint)
