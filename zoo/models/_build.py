"""Build one architecture with timm: its configuration, and which weights fit."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from timm.models import (
    DefaultCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
)
from torch import Tensor, nn

from zoo.models._backbone import (
    CONFIG,
    COUNTER,
    Backbone,
    OtherWeightsError,
    SpikingBackbone,
    forget_classes,
    stages_with_heads,
)
from zoo.models._neurons import KEY, from_tensor
from zoo.neurons.lif import changed_constants
from zoo.validation import sizes

UNTRAINED = "untrained"  # the tag of random weights
WEIGHTS = Path(__file__).parent.parent / "weights"


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Adapt the weights that pretrained=True loads.

    Weights with heads fit a network without them, and the reverse. Heads on other stages keep their
    random start.

    Raises:
        OtherWeightsError: A tensor of the backbone is missing, which timm would leave random, or
            there are more, of another network.
    """
    prefix = "shortcut_heads."
    backbone = {k: v for k, v in state_dict.items() if not k.startswith(prefix)}
    here, there = (
        {name for name in names if name != KEY and not name.startswith((prefix, "head.fc."))}
        for names in (model.state_dict(), state_dict)
    )
    missing, others = sorted(here - there), sorted(there - here)
    missing = [name for name in missing if not name.endswith(COUNTER)]
    backbone.pop(KEY, None)  # whoever loads by name or folder may ask for other neurons
    if missing or others:
        raise OtherWeightsError(
            f"weights: expected the tensors of this network, got {len(missing)} less "
            f"{missing[:3]} and {len(others)} more {others[:3]}"
        )
    if model.shortcut_heads is None:
        return backbone
    own = {k: v for k, v in model.state_dict().items() if k.startswith(prefix)}
    theirs = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    stages = stages_with_heads(model.pretrained_model_args.get("head_stages"), len(model.stages))
    fit = stages == model.head_stages and (
        {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in theirs.items()}
    )
    return backbone | (theirs if fit else own)


def build(
    network: type[Backbone],
    variant: str,
    pretrained: bool,
    model_args: dict[str, Any],
    kwargs: dict[str, Any],
) -> Backbone:
    """Build one architecture with timm.

    Args:
        network: The class; its defaults are those of the family.
        model_args: The arguments in which this variant differs.
        kwargs: The user's, which come before those.

    Raises:
        ValueError: feature_cls is not timm's getter.
    """
    overlay, source = kwargs.get("pretrained_cfg_overlay") or {}, kwargs.get("pretrained_cfg")
    if source is None and not pretrained:
        kwargs["pretrained_cfg"] = source = UNTRAINED
    if not isinstance(source, Mapping):  # a tag, timm's PretrainedCfg, or the default one
        tag = f".{source}" if isinstance(source, str) else ""
        found = get_pretrained_cfg(variant + tag) if source is None or tag else source
        source = found.to_dict() if found else {}
    saved = kwargs.get("pretrained_model_args") or arguments_of(
        overlay.get("file") or source.get("file")
    )
    if saved:
        kwargs = saved | kwargs | {"pretrained_model_args": saved}
    given = changed_constants(kwargs.get("spike_layer"))
    if given is not None:  # what it leaves out is as it was trained
        kwargs["spike_layer"] = saved.get("spike_layer", {}) | given
    if pretrained and "input_size" in overlay and "input_size" in source:
        # timm adapts the stem from the channels of the weights.
        size = (source["input_size"][0], *overlay["input_size"][1:])
        kwargs["pretrained_cfg_overlay"] = overlay | {"input_size": size}
    args = model_args | kwargs
    stages = len(sizes("depths", args["depths"])) if "depths" in args else network.usual_stages
    if kwargs.get("features_only"):
        if kwargs.get("feature_cls", "getter") != "getter":  # the others know nothing of time steps
            raise ValueError(f"feature_cls: expected 'getter', got {kwargs['feature_cls']!r}")
        args.pop("global_pool", None)  # the head goes
    model = build_model_with_cfg(
        network,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=tuple(range(stages)), feature_cls="getter"),
        **args,
    )
    cfg = model.pretrained_cfg
    known = cfg.get("num_classes")
    if getattr(model, "num_classes", known) != known:  # the classifier is new, for other classes
        forget_classes(cfg, kept=overlay)
    mean, size = cfg.get("mean"), cfg.get("input_size")
    if size and isinstance(mean, Sequence) and len(mean) == getattr(model, "in_chans", 0):
        cfg["input_size"] = (len(mean), *size[1:])
    return model


def arguments_of(weights: str | Path | None) -> dict[str, Any]:
    """The arguments of the network that a weight file belongs to, as create_model takes them.

    They stand in the config.json beside it, or its neurons in the file itself; empty for a file
    that has neither.
    """
    if not weights:
        return {}
    path = Path(weights)
    for folder in (path.parent, path.resolve().parent):  # a link may lie elsewhere
        if (folder / CONFIG).is_file():
            args = json.loads((folder / CONFIG).read_text())["model_args"]
            return {key: value for key, value in args.items() if key != "shortcut_heads"}
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return from_tensor(file.get_tensor(KEY)) if KEY in file.keys() else {}  # noqa: SIM118


def check_created(model: nn.Module) -> None:
    """Raise ValueError for a network that zoo.create_model did not build; only timm's build gives
    it a pretrained_cfg.
    """
    if not (isinstance(model, SpikingBackbone) and hasattr(model, "pretrained_cfg")):
        raise ValueError(
            f"model: expected a network of zoo.create_model, got a {type(model).__name__}"
        )


def with_releases(cfgs: dict[str, dict[str, Any]]) -> dict[str, DefaultCfg]:
    """timm's default_cfgs of a family, with a tag for each weight file in the package.

    Args:
        cfgs: pretrained_cfg by ``arch.untrained``.
    """
    known, released = {name.partition(".")[0] for name in cfgs}, {}
    for path in sorted(WEIGHTS.glob(f"*/{CONFIG}")):
        if path.parent.name.partition(".")[0] in known:
            found = json.loads(path.read_text())["pretrained_cfg"]
            released[path.parent.name] = found | {"file": str(path.parent / "model.safetensors")}
    return generate_default_cfgs(released | cfgs)


def cfg(**kwargs) -> dict[str, Any]:
    """A pretrained_cfg for 32-pixel images and ten classes; kwargs replace parts of it."""
    # Means and deviations are whole numbers over 255, so that a normalised pixel is still a pixel.
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (4, 4),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (125 / 255, 123 / 255, 114 / 255),
        "std": (63 / 255, 62 / 255, 67 / 255),
        "first_conv": "stem.0.conv",
        "classifier": "head.fc",
        **kwargs,
    }


def cfg_imagenet(**kwargs) -> dict[str, Any]:
    """A pretrained_cfg for 224-pixel images and ImageNet's classes; kwargs replace parts of it."""
    return cfg(
        **{
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": (124 / 255, 116 / 255, 104 / 255),
            "std": (58 / 255, 57 / 255, 57 / 255),
            **kwargs,
        }
    )
