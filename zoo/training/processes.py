"""The training processes, as torchrun or accelerate launched them."""

from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from zoo.training.config import Config

# NCCL gives up after ten minutes; one process may download or decode for longer than that.
PATIENCE = InitProcessGroupKwargs(timeout=timedelta(hours=3))


def make_accelerator(config: Config) -> Accelerator:
    """This process among all.

    Raises:
        ValueError: The config needs CUDA or a tracker, and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda needs a CUDA device, and there is none")
    AcceleratorState._reset_state(reset_partial_state=True)  # a process may train more than once
    accelerator = Accelerator(
        mixed_precision="no",  # the learner casts, and measures in fp32
        dynamo_backend="no",  # the recipe's compile decides, not accelerate's launcher
        cpu=config.device == "cpu" or not torch.cuda.is_available(),
        kwargs_handlers=[PATIENCE],
        log_with=list(config.trackers) or None,
        project_dir=Path(config.output).parent,  # trackers get the run's name
    )
    if missing := {*config.trackers} - {*map(str, accelerator.log_with)}:
        raise ValueError(f"trackers: {sorted(missing)} are not installed")
    if accelerator.device.type == "cuda":  # batches of two or three sizes only
        torch.backends.cudnn.benchmark = True
    return accelerator


def end(accelerator: Accelerator) -> None:
    """Leave the other processes, once the learner is deleted."""
    # The distributed network goes before its process group: otherwise it would end the group while
    # it holds Python's lock, for which the group's own thread may be waiting.
    accelerator.free_memory()
    accelerator.end_training()


def agreed(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """For each flag, whether any process has raised it."""
    if accelerator.num_processes == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return (accelerator.reduce(raised, "sum") > 0).tolist()
