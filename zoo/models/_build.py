"""Build one architecture with timm: its configuration, and which weights fit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg
from torch import Tensor, nn

from zoo.models._backbone import (
    CONFIG,
    COUNTER,
    NEEDED,
    Backbone,
    OtherWeightsError,
    SpikingBackbone,
    forget_classes,
    stages_with_heads,
)
from zoo.validation import sizes


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
        {name for name in names if not name.startswith((prefix, "head.fc."))}
        for names in (model.state_dict(), state_dict)
    )
    missing, others = sorted(here - there), sorted(there - here)
    missing = [name for name in missing if not name.endswith(COUNTER)]
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
        ValueError: A config.json has only some of the neuron constants, pretrained_cfg names a
            weight file that lies beside a config.json, or feature_cls is not timm's getter.
    """
    saved = kwargs.get("pretrained_model_args", {}).get("spike_layer")
    if saved and isinstance(given := kwargs.get("spike_layer"), Mapping):
        constants = saved | given  # what it leaves out is as it was trained
        if missing := NEEDED - constants.keys():
            raise ValueError(
                "spike_layer: expected all constants of its neurons in config.json, got none of "
                f"{sorted(missing)}, as timm alone saves it; zoo.save_pretrained writes them, "
                "or name them here"
            )
        kwargs = kwargs | {"spike_layer": constants}
    overlay = kwargs.get("pretrained_cfg_overlay") or {}
    if pretrained:
        source = kwargs.get("pretrained_cfg")  # timm's scripts make one with a file in it
        if not isinstance(source, Mapping):
            source = getattr(source, "__dict__", {})
        check_weights_alone("pretrained_cfg", source.get("file"))
        if "input_size" in overlay and "input_size" in source:
            # timm adapts the stem from the channels of the weights.
            size = (source["input_size"][0], *overlay["input_size"][1:])
            kwargs = kwargs | {"pretrained_cfg_overlay": overlay | {"input_size": size}}
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


def check_created(model: nn.Module) -> None:
    """Raise ValueError for a network that zoo.create_model did not build; only timm's build gives
    it a pretrained_cfg.
    """
    if not (isinstance(model, SpikingBackbone) and hasattr(model, "pretrained_cfg")):
        raise ValueError(
            f"model: expected a network of zoo.create_model, got a {type(model).__name__}"
        )


def check_weights_alone(argument: str, file: str | Path | None) -> None:
    """Raise ValueError for a weight file beside its config.json: timm reads the weights alone, and
    with other neurons they are another network.
    """
    if not (file and Path(file).is_file()):
        return
    for folder in (Path(file).parent, Path(file).resolve().parent):  # a link may lie elsewhere
        if (folder / CONFIG).is_file():
            raise ValueError(
                f"{argument}: expected weights alone, got those of {folder}, whose config.json has "
                f"their neurons; use create_model('local-dir:{folder}', pretrained=True)"
            )


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
