"""From a training checkpoint to the network that is published: the same bits without the heads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from export.card.browser import PREPROCESSOR, preprocessor
from export.card.history import CURVES, change_each_run, draw
from zoo import create_model, hub, strip_heads


@dataclass(frozen=True)
class Source:
    """A trained network: its folder, its config.json, and the module."""

    folder: Path
    config: dict[str, Any]
    model: nn.Module


def load_source(source: str) -> Source:
    """Load a trained network for export, in eval mode.

    Args:
        source: A name for create_model: ``arch``, ``arch.tag``, a run, a checkpoint or another
            folder, or ``hf-hub:org/name[@revision]``.
    """
    folder = hub.locate(source, (hub.CONFIG, hub.WEIGHTS))
    model = create_model(f"local-dir:{folder}", pretrained=True).eval()
    return Source(folder, hub.read_config(folder), model)


def write_stripped(
    source: Source, folder: Path, license: str = "", notes: tuple[str, ...] = ()
) -> nn.Module:
    """Write the network without heads into a folder: weights, config, curves and preprocessor.

    Args:
        license: License of the weights; the source's if empty.
        notes: Sentences on the training for the card; the source's if empty.

    Returns:
        The network as loaded back from that folder, in eval mode.
    """
    extra = {key: source.config[key] for key in ("label_names", "training") if key in source.config}
    if "training" in extra:
        extra["training"] = change_each_run(extra["training"], _without_paths)
        draw(extra["training"], folder / CURVES)
    stripped = strip_heads(source.model)
    if license:
        stripped.pretrained_cfg["license"] = license
    notes = notes or source.config["pretrained_cfg"].get("notes") or ()
    hub.save_pretrained(stripped, folder, notes, **extra)
    if described := preprocessor(folder):
        (folder / PREPROCESSOR).write_text(described)
    return create_model(f"local-dir:{folder}", pretrained=True).eval()


def _without_paths(run: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a run without folders of this machine."""
    data = {key: value for key, value in run["data"].items() if key != "root"}
    places = ("output", "start_from")
    return {key: value for key, value in run.items() if key not in places} | {"data": data}
