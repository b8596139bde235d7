"""From a training checkpoint to the network that is published: the same bits without the heads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from export.card.browser import PREPROCESSOR, browser_config, preprocessor
from export.card.history import CURVES, draw, each_run
from zoo import create_model, hub, strip_heads


@dataclass(frozen=True)
class Source:
    """A trained network as it was found: its folder, its config.json, and the module itself."""

    folder: Path
    config: dict[str, Any]
    model: nn.Module


def load_source(source: str) -> Source:
    """Load what shall be exported, in eval mode.

    Args:
        source: A run folder (its newest checkpoint is taken), a checkpoint or any other folder
            with config.json and model.safetensors, or what create_model takes: a name of weights,
            local-dir:FOLDER or hf-hub:org/name.

    Raises:
        FileNotFoundError, ValueError: As zoo.create_model; the message says what was expected.
    """
    folder = Path(source)
    if source and folder.is_dir():
        source = f"local-dir:{source}"
    if ":" not in source:
        if folder.suffix == ".safetensors" or len(folder.parts) > 1:
            raise FileNotFoundError(
                f"{source}: expected a run folder, a folder with {hub.CONFIG} and {hub.WEIGHTS}, "
                "or the name of a network with weights, found no such folder"
            )
        create_model(source)  # raises for an unknown name
    folder = hub.locate(source, (hub.CONFIG, hub.WEIGHTS))
    config = hub.read_config(folder)
    model = create_model(f"local-dir:{folder}", pretrained=True).eval()
    return Source(folder, config, model)


def write_stripped(
    source: Source, folder: Path, license: str = "", notes: tuple[str, ...] = ()
) -> nn.Module:
    """Write the network without heads into a folder: model.safetensors and the files beside it.

    Args:
        license: Of the weights; as the source says if empty.
        notes: Sentences on the training for the card; as the source says if none.

    Returns:
        The network as loaded back from that folder, in eval mode.
    """
    extra = {key: source.config[key] for key in ("label_names", "training") if key in source.config}
    extra |= browser_config(extra.get("label_names", []))
    if "training" in extra:
        extra["training"] = each_run(extra["training"], _without_paths)
        draw(extra["training"], folder / CURVES)
    stripped = strip_heads(source.model)
    if license:
        stripped.pretrained_cfg["license"] = license
    notes = notes or source.config["pretrained_cfg"].get("notes") or ()
    hub.save_pretrained(stripped, folder, notes, **extra)
    with hub.said_of(str(source.folder), folder):
        described = preprocessor(folder)
    if described:
        (folder / PREPROCESSOR).write_text(described)
    return create_model(f"local-dir:{folder}", pretrained=True).eval()


def _without_paths(run: dict[str, Any]) -> dict[str, Any]:
    """A recipe that says nothing of the machine's folders."""
    data = {key: value for key, value in run["data"].items() if key != "root"}
    places = ("output", "start_from")
    return {key: value for key, value in run.items() if key not in places} | {"data": data}
