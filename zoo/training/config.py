"""What a run is: typed defaults, a YAML file of differences, and the command line."""

import contextlib
import dataclasses
import difflib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from timm.optim import get_optimizer_info, list_optimizers

from zoo.data import DataConfig
from zoo.training.augment import AugmentConfig
from zoo.training.losses import LossConfig

Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    name: str = "adamw"
    """Any optimizer of timm.optim that needs no second derivatives; norms and biases are not
    decayed."""
    lr: float = 0.01
    """Peak learning rate; this and weight_decay: Take A Shortcut Back, sec. 5."""
    weight_decay: float = 0.02
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises to its peak; cosine to 0 after that."""
    ema_decay: float = 0.0
    """Decay of the weights' moving average, which is then what is measured, saved and exported; 0
    keeps none. The first two steps use 0, later ones 1 - n^(-2/3) while that is less, n from 0."""

    def __post_init__(self):
        _at_least("optim.lr", self.lr, 0)
        _at_least("optim.weight_decay", self.weight_decay, 0)
        if self.name not in list_optimizers():
            close = difflib.get_close_matches(self.name, list_optimizers(), n=3)
            raise ValueError(f"optim.name: unknown {self.name!r}, closest names: {close}")
        if get_optimizer_info(self.name).second_order:
            raise ValueError(
                f"optim.name: expected an optimizer of first derivatives, got {self.name!r}"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"optim.ema_decay: expected a number in [0, 1), got {self.ema_decay}")


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str = "short_bp_resnet18"
    """A name from zoo.list_models()."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the network: time_steps, spike_layer: {decay: 0.25}, ..."""
    start_from: str = ""
    """Weights to begin with, random if empty: the folder of a run that has ended, of a checkpoint,
    or any with config.json and model.safetensors, such as zoo/weights/short_bp_resnet18.cifar10.
    For fine-tuning, and for more time steps after few."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 300
    """How often all training images are seen."""
    batch_size: int = 128
    """Images of one step, over all processes."""
    gradient_accumulation: int = 1
    """Pieces of a step that each process computes one after the other; norms see a piece."""
    sync_batchnorm: bool = False
    """Norms see the pieces of all processes; CUDA only, without compile, and with the memory of
    memory="fast"."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 and fp16: autocast; fp16 on CUDA only, with a scaled loss."""
    compile: bool = False
    """torch.compile the network that is trained, not the one that is measured: a shorter step after
    a minute of compiling, and one more before a last step of fewer images. It has no
    memory="lean"."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto is CUDA where there is a device, and else the CPU."""
    keep_large_buffers: bool = True
    """python -m zoo.training tells glibc's allocator to keep freed buffers; on a CPU a step then
    takes far less time."""
    workers: int = 0
    """Processes that read and augment single images, for each one that trains; 0 does it between
    the steps."""
    checkpoint_minutes: float = 10.0
    """How often a checkpoint is written inside an epoch; one is written after each epoch anyway."""
    trackers: tuple[str, ...] = ()
    """What else gets the log, by Accelerate's names: tensorboard, wandb, ..."""
    seed: int = 0
    """Of random weights, of the images' order and of their augmentation, epoch by epoch; a run that
    begins with weights of another wants a seed of its own."""
    output: str = ""
    """Run folder; runs/<recipe> if empty."""

    def __post_init__(self):
        _at_least("seed", self.seed, 0)
        if self.seed >= 2**32:  # torch draws weights from the last 32 bits alone
            raise ValueError(f"seed: expected a number below 2^32, got {self.seed}")
        _at_least("epochs", self.epochs, 1)
        _at_least("batch_size", self.batch_size, 1)
        _at_least("gradient_accumulation", self.gradient_accumulation, 1)
        if self.batch_size < self.gradient_accumulation:
            raise ValueError(
                f"batch_size: expected at least an image for each of {self.gradient_accumulation} "
                f"accumulations, got {self.batch_size}"
            )
        _at_least("workers", self.workers, 0)
        if not self.checkpoint_minutes >= 0:
            raise ValueError(
                f"checkpoint_minutes: expected a number >= 0, got {self.checkpoint_minutes}"
            )
        for key in ("mean", "std"):  # beyond these no export would take the network
            if not all(0 <= value <= 255 for value in getattr(self.data, key)):
                raise ValueError(
                    f"data.{key}: expected pixel values up to 255, got {getattr(self.data, key)}"
                )
        if self.optim.warmup_epochs > self.epochs:
            raise ValueError(
                f"optim.warmup_epochs: expected at most {self.epochs} epochs, "
                f"got {self.optim.warmup_epochs}"
            )
        if self.sync_batchnorm and self.compile:
            raise ValueError(
                "compile: expected false beside sync_batchnorm, whose norms torch.compile does not "
                "know, got true"
            )
        if self.data.streams and self.augment.auto != "none":
            raise ValueError(
                f"augment.auto: expected none for the event streams of {self.data.name}, got "
                f"{self.augment.auto}"
            )
        _at_least("optim.warmup_epochs", self.optim.warmup_epochs, 0)


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise ValueError(f"{name}: expected a finite number >= {least}, got {value}")


class _Recipe(yaml.SafeLoader):
    """YAML whose keys are there once: of two sections of a name the first would be gone."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[0]!r} twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def load_config(path: Path) -> Config:
    """Read a recipe: YAML that holds only what differs from the defaults.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Bad YAML, an unknown key or a value of the wrong type, named by file and key.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a recipe, found no such file")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Recipe)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, got {error}") from None
    config = _build(Config, {} if values is None else values, str(path))  # None: an empty file
    return config if config.output else dataclasses.replace(config, output=f"runs/{path.stem}")


def filled_up(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as a run wrote it; what one of an older version does not name is as by default."""
    filled = dict(recipe)
    for key, value in json.loads(json.dumps(dataclasses.asdict(Config()))).items():
        found = recipe.get(key, value)
        filled[key] = value | found if isinstance(value, dict) else found
    return filled


def flat(values: dict[str, Any] | list[Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names, as options and curves have them."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    found = {}
    for key, value in items:
        if isinstance(value, dict | list):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _build(kind: type[Section], values: Any, where: str) -> Section:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected keys and values, got {values!r}")
    hints = get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise ValueError(f"{where}: unknown key {key!r}, expected one of {sorted(hints)}")
        hint, name = hints[key], f"{where}: {key}"
        if dataclasses.is_dataclass(hint):
            arguments[key] = _build(hint, value, name)
        else:
            arguments[key] = _checked(hint, value, name)
    return kind(**arguments)


def _checked(hint: Any, value: Any, name: str) -> Any:
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name}: expected one of {list(get_args(hint))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{name}: expected a list, got {value!r}")
        return tuple(_checked(get_args(hint)[0], item, name) for item in value)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML takes 1e-3 for a text, and 1.0e-3 for a number
    expected = origin or hint
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"{name}: expected {expected.__name__}, got {value!r}")
    return value
