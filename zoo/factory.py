"""From a name to a network; a thin door to timm's registry that opens on spiking networks only."""

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
        filter: A wildcard such as ``"*slim*"`` for the name, or for ``arch.tag`` with pretrained;
            or several.
        pretrained: Only those whose weights load, as ``arch.tag``.
        exclude_filters: Wildcards as well, of names to leave out.

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
    """Whether one of them means a name, ``arch.tag`` by its arch alone too."""
    wildcards = [wildcards] if isinstance(wildcards, str) else wildcards
    return any(fnmatch(part, w) for w in wildcards for part in (name, name.partition(".")[0]))


def create_model(
    name: str, pretrained: bool = False, cache_dir: str | Path | None = None, **kwargs
) -> nn.Module:
    """Build a spiking network, with random or pretrained weights.

    Args:
        name: ``arch`` or ``arch.tag`` of the zoo, ``local-dir:FOLDER``, or ``hf-hub:org/name``
            with an optional ``@revision``. Of a run folder it is the newest checkpoint.
        pretrained: Load spiking weights, or raise.
        cache_dir: For what comes from the Hub; huggingface_hub's own cache if None.
        kwargs: Arguments of the network: time_steps, spike_layer, shortcut_heads, num_classes, ...
            What a spike_layer mapping omits comes from the named config.json, or for a bare
            architecture without weights from LIF.

    Returns:
        The network, in training mode as from timm: images [B, C, H, W] or event frames
        [T, B, C, H, W] -> logits [B, K], and with shortcut heads in training mode
        ``(logits, side_logits)``, side_logits [heads, B, K].

    Raises:
        ValueError: An unknown name (the message has the closest ones), no weights to load, a folder
            that does not hold a network of ours, files that are not those it was published with,
            a checkpoint_path that is no .safetensors file, lies beside its config.json or holds
            other weights, a pretrained_cfg beside a name that has one, or other weights in
            pretrained_cfg_overlay.
        FileNotFoundError: There is no such folder or checkpoint_path, it lacks config.json or
            model.safetensors, the run has no checkpoint yet, or $SHORT_BP_ZOO_WEIGHTS names no
            folder.
        PullError: The Hub does not give it; the message says why and what to do.
        TypeError: The network, or LIF, takes no such argument.
        AssertionError: timm's, of a global_pool that it does not know.
    """
    check_name(name)
    kwargs = plain(kwargs)
    architecture, _, tag = name.partition(".")
    _check_checkpoint(kwargs.get("checkpoint_path"))
    misfit = f"{name}: expected arguments that its weights fit, got {sorted(kwargs)}"
    if not pretrained and tag in ("", hub.UNTRAINED) and ":" not in name:
        return _built(architecture, False, kwargs, misfit)
    if kwargs.get("pretrained_cfg"):
        raise ValueError(
            f"pretrained_cfg: expected none beside {name}, which has its own; "
            "pretrained_cfg_overlay changes parts of it"
        )
    # A tag says which settings, with or without weights.
    files = (hub.CONFIG, hub.WEIGHTS) if pretrained else (hub.CONFIG,)
    folder = hub.locate(name, files, cache_dir)
    asked_for = hub.network_asked_for(folder)
    if pretrained and (wrong := hub.unlike_weights(folder, asked_for)):
        raise ValueError(f"{_other_weights(folder)}: {wrong[:5]} of {len(wrong)} that differ")
    misfit = misfit if kwargs else _other_weights(folder)
    return _built(f"local-dir:{folder}", pretrained, kwargs, misfit)


def check_name(name: str) -> None:
    """Raise for what names no network of the zoo, and no place of one.

    Raises:
        ValueError: It is none; the message has the closest ones.
    """
    if not isinstance(name, str):
        raise ValueError(f"name: expected one as `python -m zoo list` has it, got {name!r}")
    architecture = name.partition(".")[0]
    if ":" not in name and architecture not in list_models():
        if "/" in name:
            raise ValueError(
                f"unknown model {name!r}; a folder is local-dir:{name}, a repository hf-hub:{name}"
            )
        close = difflib.get_close_matches(architecture, list_models(), n=3)
        where = f"closest names: {close}"
        if not close:
            where = f"`python -m zoo list` names all; a folder is local-dir:{name}"
        raise ValueError(f"unknown model {name!r}, {where}")


def _built(source: str, pretrained: bool, kwargs: dict[str, Any], misfit: str) -> nn.Module:
    """timm's network of that name; misfit begins what is said of weights of another."""
    try:
        return timm.create_model(source, pretrained=pretrained, **kwargs)
    except SafetensorError as error:  # a folder's own were looked at before
        raise ValueError(
            f"checkpoint_path: expected a whole file, got {kwargs['checkpoint_path']}: {error}"
        ) from None
    except OtherWeightsError as error:
        raise ValueError(f"{misfit}: {error}") from None
    except RuntimeError as error:
        if "loading state_dict" not in str(error):  # of no device that is here, say
            raise
        raise ValueError(f"{misfit}: {shorten(str(error), 300)}") from None  # it names all tensors


def _check_checkpoint(checkpoint: str | Path | None) -> None:
    """Raise for no file, for another kind, and for weights that are not alone."""
    if not checkpoint:
        return
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f"checkpoint_path: expected a file of weights, found none at {str(checkpoint)!r}"
        )
    if Path(checkpoint).suffix != ".safetensors":
        raise ValueError(
            f"checkpoint_path: expected a .safetensors file, got {str(checkpoint)!r}; where you "
            "trust it, save its state_dict with safetensors.torch.save_file"
        )
    check_weights_alone("checkpoint_path", checkpoint)


def _other_weights(folder: Path) -> str:
    return f"{folder / hub.WEIGHTS}: expected the weights of its {hub.CONFIG}, got others"
