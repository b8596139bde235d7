"""Save and read pretrained folders: model.safetensors beside a config.json in timm's schema.

A weight file without its neuron constants is another network, so that config.json always holds
them, as ``model_args["time_steps"]`` and ``model_args["spike_layer"]``.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
from safetensors import safe_open
from safetensors.torch import save
from timm.models import is_model, model_entrypoint
from timm.models._hub import save_config_for_hf
from timm.utils import unwrap_model
from torch import nn

from zoo.hub.run_folder import LOG, SEAL
from zoo.models._backbone import CONFIG, COUNTER, NEEDED
from zoo.models._build import UNTRAINED, check_created
from zoo.neurons import LIF
from zoo.validation import plain

WEIGHTS = "model.safetensors"
INT8_GRAPH = "onnx/model_int8.onnx"  # in whole numbers of 8 bits, where a network can be
UINT8_GRAPH = "onnx/model_uint8.onnx"  # in fp32, where not
REPORT = "verification.json"  # of a published folder: its checks, and the hashes of its files


def neuron_constants(model: nn.Module) -> dict[str, Any]:
    """The constants that all spiking layers of a network share, as arguments of LIF.

    Raises:
        ValueError: The layers have no or different constants, or are of a subclass of LIF.
    """
    layers = [module for module in model.modules() if isinstance(module, LIF)]
    if other := sorted({type(layer).__name__ for layer in layers if type(layer) is not LIF}):
        raise ValueError(f"model: cannot save LIF subclasses {other}; use zoo.LIF")
    found = [layer.constants() for layer in layers]
    if not found or any(constants != found[0] for constants in found):
        raise ValueError(
            f"model: expected LIF layers that share their constants, got {len(found)} LIF layers "
            f"with {len({str(constants) for constants in found})} sets of constants"
        )
    return found[0]


def save_pretrained(
    model: nn.Module, folder: str | Path, notes: Sequence[str] = (), **extra: Any
) -> None:
    """Write model.safetensors and config.json, which ``create_model("local-dir:FOLDER")`` loads.

    A kill never leaves weights beside the constants of another network.

    Args:
        model: A network of the zoo, with or without shortcut heads; torch.compile and
            DistributedDataParallel are unwrapped.
        folder: Made if it does not exist.
        notes: Sentences on the training for the card. Notes of the weights that the training began
            with are dropped.
        extra: More keys for config.json, such as label_names, by default the model's own.

    Raises:
        ValueError: The network would not load again, for example after pruning; or the folder is a
            run, a checkpoint or a published folder.
        OSError: The folder cannot be written to.
    """
    model, folder, extra = unwrap_model(model), Path(folder), plain(extra)
    check_created(model)
    if kept := [name for name in (LOG, REPORT, SEAL) if (folder / name).is_file()]:
        raise ValueError(
            f"{folder}: has a {kept[0]}: it is a run, a checkpoint or a published folder; choose "
            "another folder"
        )
    model_args = {
        "time_steps": model.time_steps,
        "spike_layer": neuron_constants(model),
        "shortcut_heads": model.shortcut_heads is not None,
    }
    if names := model.pretrained_cfg.get("label_names"):
        extra = {"label_names": list(names)} | extra
    cfg = {"tag": ""} if model.pretrained_cfg.get("tag") == UNTRAINED else {}  # it may be trained
    cfg |= extra.get("pretrained_cfg", {})
    if notes or "notes" in model.pretrained_cfg:
        cfg["notes"] = [*notes]
    extra["pretrained_cfg"] = cfg
    with TemporaryDirectory() as scratch:
        config = Path(scratch, CONFIG)
        save_config_for_hf(model, config, model_config=extra, model_args=model_args)
        with said_of(str(folder), Path(scratch)):
            if differ := _differences(model, network_asked_for(Path(scratch))):
                raise ValueError(
                    f"model: {differ[:3]} and {len(differ[3:])} more differ from a network of its "
                    "name and arguments, which would be loaded instead"
                )
        content = json.loads(config.read_text())
        del content["model_args"]["num_classes"]  # stands beside them; transformers takes it once
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    # One entry of metadata: safetensors writes several in an order that changes from run to run.
    weights = save(tensors, metadata={"format": "pt"})
    _replace(folder, json.dumps(content, indent=2).encode(), weights)


def _replace(folder: Path, config: bytes, weights: bytes) -> None:
    """Replace both files, without a moment in which weights lie beside the config of others."""
    new = {folder / f"{WEIGHTS}.partial": weights, folder / f"{CONFIG}.partial": config}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for partial, content in new.items():
            partial.write_bytes(content)
        (folder / CONFIG).unlink(missing_ok=True)
        for partial in new:
            os.replace(partial, partial.with_suffix(""))
    finally:
        for partial in new:
            partial.unlink(missing_ok=True)


def _differences(*networks: nn.Module) -> list[str]:
    """Names of layers that only one of two networks has or that are no neurons in the other, and of
    tensors that it lacks or has in another shape.

    Shortcut heads are ignored.
    """
    one, other = (
        {name: isinstance(module, LIF) for name, module in network.named_modules()}
        | {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        for network in networks
    )
    return sorted(
        name
        for name in one.keys() | other.keys()
        if one.get(name) != other.get(name)
        and not name.startswith("shortcut_heads")
        and not name.endswith(COUNTER)  # frozen norms have none
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a pretrained folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not in timm's schema, names no architecture of the zoo, or lacks
            neuron constants.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a folder with {CONFIG}")
    try:
        config = json.loads(path.read_text())
        wrong = "; ".join(_problems(config))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected JSON with 'architecture', 'model_args', 'num_classes' and "
            f"'pretrained_cfg', got {error!r}"
        ) from None
    if wrong:
        raise ValueError(f"{path}: {wrong}")
    return config


def _problems(config: dict[str, Any]) -> Iterator[str]:
    """What makes a config.json none of a network of the zoo."""
    architecture, args, classes = (
        config[key] for key in ("architecture", "model_args", "num_classes")
    )
    if not is_ours(architecture):
        yield f"expected an architecture of zoo, got {architecture!r}"
    missing = {"time_steps", "spike_layer"} - args.keys()
    missing |= {f"spike_layer.{name}" for name in NEEDED - args.get("spike_layer", {}).keys()}
    if missing:
        yield (
            f"model_args lacks the neuron constants {sorted(missing)}, without which the weights "
            "are another network; zoo.save_pretrained writes them"
        )
    labels = config.get("label_names") or ["?"] * classes
    if len(labels) != classes or not all(isinstance(label, str) for label in labels):
        yield f"expected {classes} label_names, got {labels!r:.100}"


def is_ours(architecture: str) -> bool:
    """Whether this is the name of an architecture of the zoo."""
    return is_model(architecture) and model_entrypoint(architecture).__module__.startswith("zoo.")


def weight_tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in model.safetensors by name, from the file's header."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def network_asked_for(folder: Path) -> nn.Module:
    """The network of a folder's config.json, without memory, on the meta device.

    Raises:
        ValueError: Its arguments give no network, or one with another number of classes.
    """
    classes, path = read_config(folder)["num_classes"], folder / CONFIG
    try:
        built = timm.create_model(f"local-dir:{folder}", device="meta")
        found = built.num_classes
    except Exception as error:  # constructors raise all kinds
        raise ValueError(
            f"{path}: expected arguments of its architecture, got {type(error).__name__}: {error}"
        ) from None
    if found != classes:  # timm would leave the classifier random
        raise ValueError(f"{path}: expected model_args with num_classes {classes}, got {found}")
    return built


@contextmanager
def said_of(place: str, folder: Path) -> Iterator[None]:
    """Name the place that a scratch folder is written for in errors, not the scratch folder."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace(str(folder), place)) from None
