"""Pretrained networks as folders: model.safetensors beside a config.json in timm's schema.

A weight file without its neuron constants is another network, so every folder that this module
writes or reads has them in ``config.json["model_args"]``: time_steps and spike_layer. A folder
that lists the hashes of its files, as a published one or a checkpoint does, loads only where they
match.
"""

import inspect
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models import build_model_with_cfg, is_model, model_entrypoint
from timm.models._hub import save_config_for_hf
from timm.utils import unwrap_model
from torch import Tensor, nn

from zoo.hub import files as disk
from zoo.hub.download import MAX_BYTES
from zoo.hub.run_folder import LOG, LOGGED, RECIPE, SEAL, is_history
from zoo.models._backbone import CONFIG, COUNTER, NEEDED
from zoo.models._build import check_created
from zoo.neurons import LIF
from zoo.validation import is_list, plain

WEIGHTS = "model.safetensors"
SCRATCH = ".save."  # beside what it is to replace
UINT8_GRAPH = "onnx/model_uint8.onnx"
REPORT = "verification.json"  # of a published folder: what was checked, and all hashes
UNTRAINED = "untrained"  # the tag of every architecture in timm's registry

KINDS = dict.fromkeys(("F64", "F32", "F16", "BF16"), "float") | dict.fromkeys(
    ("I64", "I32", "I16", "I8", "U8"), "integer"
)

# Bounds on what a config.json may ask to build, far above any network that is known here.
MAX_HEADER, MAX_WIDTH, MAX_TIME_STEPS, MAX_BLOCKS = 2**24, 2**16, 2**12, 2**12
MAX_PARAMETERS = 2**30
LARGEST = 2**16  # of a mean or a deviation
MAX_SIDE = 2**12  # pixels, of an image to classify or to verify on
# By timm, and never handed on to a network, of which a pretrained_cfg_overlay names other weights;
# or by who builds it.
TAKEN = {
    *inspect.signature(timm.create_model).parameters,
    *inspect.signature(build_model_with_cfg).parameters,
    *("features_only", "feature_cls", "out_indices", "pruned"),
    *("device", "dtype"),
}


def neuron_constants(model: nn.Module) -> dict[str, Any]:
    """The constants that all spiking layers of a network share, as LIF's arguments.

    Raises:
        ValueError: There is no LIF layer, two of them differ, or one is of a subclass, which no
            constants would bring back, or has tensors for constants.
    """
    kinds = {type(module) for module in model.modules() if isinstance(module, LIF)} - {LIF}
    if kinds:
        names = sorted(kind.__name__ for kind in kinds)
        raise ValueError(f"model: expected LIF layers themselves, got of its subclasses {names}")
    found = [module.constants() for module in model.modules() if isinstance(module, LIF)]
    tensors = {key for c in found for key, value in c.items() if isinstance(value, Tensor)}
    if tensors:
        raise ValueError(
            f"model: expected numbers as its neurons' constants, got tensors for {sorted(tensors)}"
        )
    if not found or any(constants != found[0] for constants in found):
        raise ValueError(
            f"model: expected LIF layers that share their constants, got {len(found)} LIF layers "
            f"with {len({str(c) for c in found})} sets of constants"
        )
    return found[0]


def save_pretrained(
    model: nn.Module, folder: str | Path, notes: Sequence[str] = (), **extra: Any
) -> None:
    """Write model.safetensors and config.json into a folder that create_model loads by local-dir:,
    with shortcut heads if there are any. What fails leaves the folder as it was, and a kill never
    weights beside the constants of others.

    Args:
        model: A network of the zoo, also in torch.compile's or DistributedDataParallel's wrapping.
        folder: It is made if it is not there.
        notes: Sentences on the training for a card. Those of the weights that it began with are of
            another training, and are not kept.
        extra: More keys for config.json, e.g. label_names, which are pretrained_cfg's if not given.

    Raises:
        ValueError: It is no whole network of the zoo, as features_only and pruning leave none;
            notes are one string; its neurons are none that config.json can hold, as
            neuron_constants says; read_config would refuse what is to be written; or the folder is
            a run, whose recipe it would write over, or a published one or a checkpoint, whose
            hashes would.
        OSError: The folder cannot be written to.
    """
    model = unwrap_model(model)  # of torch.compile or DistributedDataParallel, with other names
    check_created(model)
    model_args = {
        "time_steps": model.time_steps,
        "spike_layer": neuron_constants(model),
        "shortcut_heads": model.shortcut_heads is not None,
    }
    extra = plain(extra)
    if isinstance(notes, str):
        raise ValueError(f"notes: expected sentences, got one string; pass [{notes!r:.50}]")
    if names := model.pretrained_cfg.get("label_names"):
        extra = {"label_names": list(names)} | extra
    cfg = {}
    if model.pretrained_cfg.get("tag") == UNTRAINED:  # by now it may be trained
        cfg["tag"] = ""
    cfg |= extra.get("pretrained_cfg", {})
    if notes or "notes" in model.pretrained_cfg:
        cfg["notes"] = [*notes]
    extra["pretrained_cfg"] = cfg
    folder = Path(folder)
    if (folder / LOG).is_file():
        raise ValueError(
            f"{folder}: expected a folder to write to, got a run, whose config.json is its recipe; "
            "choose another"
        )
    if sealed := [kept for kept in (REPORT, SEAL) if (folder / kept).is_file()]:
        raise ValueError(
            f"{folder}: expected a folder to write to, got one whose {sealed[0]} holds the hashes "
            "of other weights; choose another"
        )
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with _made(folder), TemporaryDirectory(prefix=SCRATCH, dir=folder) as scratch:
        disk.clear_away(folder, SCRATCH)
        new = Path(scratch)
        save_config_for_hf(model, new / CONFIG, model_config=extra, model_args=model_args)
        with said_of(str(folder), new):
            asked_for = network_asked_for(new)
        (new / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        if wrong := unlike_weights(new, asked_for) or _unlike_layers(model, asked_for):
            raise ValueError(
                "model: expected a whole network of its name and arguments, got one of which "
                f"{wrong[:3]} and {len(wrong[3:])} more differ, so that another would load"
            )
        before = new / "before.json"
        try:
            if (folder / CONFIG).exists():  # of other weights, should a kill come between
                os.replace(folder / CONFIG, before)
            os.replace(new / WEIGHTS, folder / WEIGHTS)
            os.replace(new / CONFIG, folder / CONFIG)
        except BaseException:
            # What is not there was moved, or was not there before.
            with suppress(FileNotFoundError):
                os.replace(before if (new / WEIGHTS).exists() else new / CONFIG, folder / CONFIG)
            raise


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder to write to; what fails leaves none where there was none."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):  # by now it may hold what others wrote
                folder.rmdir()
        raise


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a pretrained folder, checked.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON, names an architecture that is not ours, lacks the constants
            without which the weights are another network, or asks for what no network of ours is.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file in timm's schema, found none")
    try:
        config = json.loads(bounded(path))
        architecture, model_args = config["architecture"], config["model_args"]
        classes, cfg = config["num_classes"], config["pretrained_cfg"]
        custom = cfg.get("custom_load")
        missing = {"time_steps", "spike_layer"} - model_args.keys()
        constants = model_args.get("spike_layer", {})
        missing |= {f"spike_layer.{name}" for name in NEEDED - constants.keys()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected JSON with 'architecture', 'model_args', 'num_classes' and "
            f"'pretrained_cfg', got {error!r}"
        ) from None
    if not (isinstance(architecture, str) and is_ours(architecture)):
        raise ValueError(f"{path}: expected an architecture of zoo, got {architecture!r}")
    if missing:
        raise ValueError(
            f"{path}: expected the neuron constants in model_args, got none for {sorted(missing)}; "
            "without them the weights are another network; zoo.hub.save_pretrained writes them all"
        )
    if wrong := sorted(TAKEN & model_args.keys()) + ["custom_load"] * bool(custom):
        raise ValueError(f"{path}: expected arguments of the network, got {wrong}")
    _check_pretrained_cfg(path, cfg)
    if not isinstance(classes, int) or classes < 0:
        raise ValueError(f"{path}: expected num_classes as a number >= 0, got {classes!r}")
    if cfg.get("label_names") and "label_names" not in config:  # timm would take those
        raise ValueError(
            f"{path}: expected label_names beside pretrained_cfg, got them in it, as timm has "
            "them; zoo.hub.save_pretrained writes them beside it"
        )
    labels = config.get("label_names", [])
    if labels != [] and not is_list(labels, classes, str):
        raise ValueError(
            f"{path}: expected label_names as a list of {classes} names, got {labels!r:.100}"
        )
    if "training" in config and not is_history(config["training"]):
        raise ValueError(
            f"{path}: expected as training a recipe with {', '.join(RECIPE)}, such as zoo.training "
            "writes, with the coefficient of a loss that has one and "
            f"{', '.join(LOGGED)} in each line of its log, got "
            f"{config['training']!r:.100}"
        )
    _check_sizes(path, model_args)
    return config


def _check_pretrained_cfg(path: Path, cfg: dict[str, Any]) -> None:
    """Raise ValueError where timm's part of a config.json would make timm, or a card, go wrong."""
    if (offset := cfg.get("label_offset")) not in (None, 0):  # timm would cut the classifier
        raise ValueError(f"{path}: expected no label_offset in pretrained_cfg, got {offset!r}")
    if (layer := cfg.get("classifier", "head.fc")) != "head.fc":  # timm would leave it random
        raise ValueError(f"{path}: expected classifier 'head.fc' in pretrained_cfg, got {layer!r}")
    for key in ("paper_ids", "paper_name"):
        if not isinstance(cfg.get(key), str | None):
            raise ValueError(
                f"{path}: expected {key} as a text in pretrained_cfg, got {cfg[key]!r:.100}"
            )
    if not isinstance(cfg.get("notes"), list | None):
        raise ValueError(
            f"{path}: expected notes as a list in pretrained_cfg, got {cfg['notes']!r:.100}"
        )
    first = cfg.get("first_conv")
    if not (is_list(first, 1, str) or isinstance(first, str | None)):
        raise ValueError(f"{path}: expected first_conv as a name in pretrained_cfg, got {first!r}")
    size, mean, std = (cfg.get(key) for key in ("input_size", "mean", "std"))
    if not is_list(size, 3, int) or not all(
        is_list(values, size[0], int | float) and all(abs(value) <= LARGEST for value in values)
        for values in (mean, std)
    ):
        raise ValueError(
            f"{path}: expected input_size as three whole numbers, mean and std as one up to "
            f"{LARGEST} for each channel in pretrained_cfg, got {size!r:.100}, {mean!r:.100} and "
            f"{std!r:.100}"
        )
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise ValueError(
            f"{path}: expected input_size in pretrained_cfg from 1 to {MAX_SIDE}, got {size!r}"
        )


def bounded(path: Path) -> bytes:
    """A JSON file's content; a large one is refused unread."""
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_BYTES} bytes, got {size}")
    return path.read_bytes()


def _check_sizes(path: Path, model_args: dict[str, Any]) -> None:
    """Raise for a network that would take all memory or time before its weights are looked at."""
    depths, steps = [*_numbers(model_args.get("depths", ()))], model_args["time_steps"]
    numbers = [value for value in _numbers(model_args) if isinstance(value, int)]
    bounds = {
        "numbers": (max(map(abs, numbers), default=0), MAX_WIDTH),
        "count of numbers": (len(numbers), MAX_BLOCKS),
        "time_steps": (steps if isinstance(steps, int) else 0, MAX_TIME_STEPS),
        "depths": (sum(map(abs, depths)), MAX_BLOCKS),
    }
    for name, (found, most) in bounds.items():
        if found > most:
            raise ValueError(f"{path}: expected {name} of model_args up to {most}, got {found}")


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, dict | list):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inside)
    elif isinstance(value, int | float):
        yield value


def is_ours(architecture: str) -> bool:
    return is_model(architecture) and model_entrypoint(architecture).__module__.startswith("zoo.")


def weight_tensors(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and kind of each tensor in model.safetensors, by name, from its header alone; a kind is
    "float", "integer", or the name of a type that no weight of a network has.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, or not in the safetensors format (a pickle, for example).
    """
    path = folder / WEIGHTS
    if not path.is_file():
        others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth"))
        found = f"only {others}, which are pickles and are never loaded" if others else "none"
        raise FileNotFoundError(f"{path}: expected safetensors weights, found {found}")
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    try:
        if header > min(size - 8, MAX_HEADER):
            raise SafetensorError(f"a header of {header} bytes")
        with safe_open(path, framework="pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            return {
                name: (tuple(part.get_shape()), KINDS.get(part.get_dtype(), part.get_dtype()))
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected a whole safetensors file, got {size} bytes that do not parse "
            f"({error})"
        ) from None


def network_asked_for(folder: Path) -> nn.Module:
    """The network that a folder's config.json asks for, on the meta device.

    Raises:
        ValueError: It asks for none, or for one that would take all memory; before any is taken.
    """
    config, path = read_config(folder), folder / CONFIG
    try:
        built = timm.create_model(f"local-dir:{folder}", device="meta")
    except Exception as error:  # whatever arguments lead a constructor to
        raise ValueError(
            f"{path}: expected arguments of its architecture, got {type(error).__name__}: {error}"
        ) from None
    parameters = sum(parameter.numel() for parameter in built.parameters())
    if parameters > MAX_PARAMETERS:
        raise ValueError(
            f"{path}: expected a network of up to {MAX_PARAMETERS} parameters, got {parameters}"
        )
    if built.num_classes != config["num_classes"]:  # timm would leave the classifier random
        raise ValueError(
            f"{path}: expected model_args with num_classes {config['num_classes']}, got "
            f"{built.num_classes}"
        )
    return built


def unlike_weights(folder: Path, network: nn.Module) -> list[str]:
    """Names of the tensors in model.safetensors that have not a network's shapes and kinds, or are
    not there; shortcut heads aside, and a norm's counter that is not there.

    Raises:
        FileNotFoundError, ValueError: As weight_tensors.
    """
    expected = {
        name: (tuple(tensor.shape), "float" if tensor.is_floating_point() else "integer")
        for name, tensor in network.state_dict().items()
    }
    found = weight_tensors(folder)
    found = {name: expected[name] for name in expected if name.endswith(COUNTER)} | found
    return sorted(
        name
        for name in found.keys() | expected.keys()
        if not name.startswith("shortcut_heads.") and found.get(name) != expected.get(name)
    )


def _unlike_layers(*networks: nn.Module) -> list[str]:
    """Names of the layers that are not of one kind in two networks, or in one alone, and of norms
    that differ in their epsilon: of what no weight file tells that which timm's own methods change.
    Shortcut heads aside; a frozen norm is of the kind of any other.
    """
    one, other = (
        {
            name: ("a norm", module.eps) if hasattr(module, "running_var") else type(module)
            for name, module in network.named_modules()
            if not name.startswith("shortcut_heads")
        }
        for network in networks
    )
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@contextmanager
def said_of(place: str, folder: Path) -> Iterator[None]:
    """Errors name the place that a folder was filled for."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace(str(folder), place)) from None
