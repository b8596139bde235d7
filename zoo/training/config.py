"""What a run is: typed defaults, a YAML recipe of differences, and the command line."""

import contextlib
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from zoo.console import check_range
from zoo.data import DataConfig
from zoo.training.augment import AugmentConfig
from zoo.training.losses import LossConfig

FOLDER = Path(__file__).parent / "recipes"  # in the repository a link to configs/
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    name: str = "adamw"
    """An optimizer of timm.optim; norms and biases get no weight decay."""
    lr: float = 0.01
    """Peak learning rate; this and weight_decay: Take A Shortcut Back, sec. 5."""
    weight_decay: float = 0.02
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises to its peak, before a cosine to 0."""
    ema_decay: float = 0.0
    """Decay of the weights' moving average, which is then measured, saved and exported; 0 is off.
    The first two steps use 0, later ones 1 - n^(-2/3) while that is less, n from 0."""

    def __post_init__(self):
        for key in ("lr", "weight_decay", "warmup_epochs"):
            check_range(f"optim.{key}", getattr(self, key), 0)
        check_range("optim.ema_decay", self.ema_decay, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str = "short_bp_resnet18"
    """A name from zoo.list_models()."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the network: time_steps, spike_layer: {decay: 0.25}, ..."""
    start_from: str = ""
    """Weights to start from, random if empty: a finished run, a checkpoint or another folder,
    arch.tag, or hf-hub:org/name."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 300
    batch_size: int = 128
    """Images of one step, over all processes."""
    gradient_accumulation: int = 1
    """Pieces of a step that each process computes one after the other; norms see one piece."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 uses autocast; some CPUs are slower with it."""
    compile: bool = False
    """torch.compile the training step; it takes a minute at the start."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto is CUDA where there is a device, else the CPU."""
    workers: int = 0
    """DataLoader workers per training process; 0 reads images between the steps."""
    checkpoint_minutes: float = 10.0
    """How often a checkpoint is written inside an epoch; one is written after each epoch anyway."""
    trackers: tuple[str, ...] = ()
    """More places for the log, by Accelerate's names: tensorboard, wandb, ..."""
    seed: int = 0
    """Seeds random weights, the order of the images and their augmentation."""
    output: str = ""
    """Run folder; runs/<recipe> if empty."""

    def __post_init__(self):
        check_range("seed", self.seed, 0, 2**32)  # torch draws weights from the last 32 bits alone
        check_range("epochs", self.epochs, 1)
        check_range("gradient_accumulation", self.gradient_accumulation, 1)
        check_range("batch_size", self.batch_size, self.gradient_accumulation)
        check_range("workers", self.workers, 0)
        check_range("checkpoint_minutes", self.checkpoint_minutes, 0)
        if self.data.streams and self.augment.auto != "none":
            raise ValueError(f"augment.auto: expected none for {self.data.name}, an event data set")


def find_recipe(name: str) -> Path:
    """The path of a recipe: a file, or one that comes with the package by its name.

    Raises:
        FileNotFoundError: There is neither; the message has the names.
    """
    path = Path(name) if Path(name).is_file() else RECIPES.get(name)
    if path is None:
        raise FileNotFoundError(f"{name}: no such file; recipes in the package: {[*RECIPES]}")
    return path


def load_config(path: Path, stage: str = "") -> Config:
    """Read a recipe: YAML that holds only what differs from the defaults.

    A recipe may have stages, each a run that starts from the one before::

        stages: {first: {epochs: 30}, second: {epochs: 10}}

    The keys of a stage are laid over the recipe's own.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Bad YAML, an unknown key, stage, or value, named by file and key.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, got {error}") from None
    output = f"runs/{path.stem}"
    stages = recipe.pop("stages", {}) if isinstance(recipe, dict) else {}
    if stages or stage:
        if stage not in stages:
            raise ValueError(f"{path}: expected --stage, one of {list(stages)}, got {stage!r}")
        before = dict(zip(list(stages)[1:], stages, strict=False)).get(stage)
        start = {"start_from": f"{output}_{before}"} if before else {}
        recipe = _laid_over(recipe, start | stages[stage])
        output = f"{output}_{stage}"
    config = _typed(Config, recipe, str(path))
    return config if config.output else dataclasses.replace(config, output=output)


def filled_up(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recorded recipe with defaults for the keys that older versions did not have."""
    filled = dict(recipe)
    for key, value in json.loads(json.dumps(dataclasses.asdict(Config()))).items():
        found = recipe.get(key, value)
        filled[key] = value | found if isinstance(value, dict) else found
    return filled


def flat(values: dict[str, Any] | list[Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names: {"optim.lr": 0.1}."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    found = {}
    for key, value in items:
        if isinstance(value, dict | list):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _laid_over(below: Any, above: Any) -> Any:
    """Merge nested dicts; where both have a value, take the one above."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _laid_over(below.get(key), value) for key, value in above.items()}


def _typed(hint: Any, value: Any, where: str) -> Any:
    """A value from YAML as a type: a dataclass, tuple[...], Literal, or a plain type.

    Raises:
        ValueError: The value has another type, or the dataclass no such field.
    """
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = get_type_hints(hint)
        if unknown := [key for key in value if key not in hints]:
            raise ValueError(
                f"{where}: unknown key {unknown[0]!r}, expected one of {sorted(hints)}"
            )
        return hint(**{k: _typed(hints[k], v, f"{where}: {k}") for k, v in value.items()})
    origin = get_origin(hint)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(get_args(hint)[0], item, where) for item in value)
    if hint is float and type(value) in (int, str):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML reads 1e-3 as a string
    fits = value in get_args(hint) if origin is Literal else type(value) is (origin or hint)
    if not fits:
        expected = get_args(hint) if origin is Literal else hint.__name__
        raise ValueError(f"{where}: expected {expected}, got {value!r}")
    return value
