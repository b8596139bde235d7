"""This process among all that train, as torchrun or accelerate launched them."""

from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, LoggerType

from zoo.training.config import Config

EACH_HAS_ALL = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
# NCCL gives up after ten minutes; one process may download or decode for longer than that.
PATIENCE = InitProcessGroupKwargs(timeout=timedelta(hours=3))


def make_accelerator(config: Config) -> Accelerator:
    """This process's place among all, as torchrun or accelerate launched it.

    Raises:
        ValueError: The config asks for CUDA, and there is none, or for trackers that are unknown or
            not installed; or the processes were launched to share one network out among them.
    """
    for key, wanted in (("device", "cuda"), ("precision", "fp16"), ("sync_batchnorm", True)):
        if getattr(config, key) == wanted and not _cuda(config):
            found = "device: cpu" if torch.cuda.is_available() else "none"
            raise ValueError(f"{key}: expected a CUDA device for {wanted}, found {found}")
    known = sorted({*LoggerType.list()} - {"all"})
    if unknown := [name for name in config.trackers if name not in known]:
        raise ValueError(f"trackers: expected some of {known}, got {unknown}")
    AcceleratorState._reset_state(reset_partial_state=True)  # a process may train more than once
    accelerator = Accelerator(
        mixed_precision="no",  # the learner casts, so that what is measured stays fp32
        dynamo_backend="no",  # whatever accelerate's launcher says: the recipe's compile decides
        cpu=not _cuda(config),
        kwargs_handlers=[PATIENCE],
        log_with=list(config.trackers) or None,
        project_dir=Path(config.output).parent,  # trackers are told the run's name
    )
    if accelerator.distributed_type not in EACH_HAS_ALL:
        raise ValueError(
            "processes: expected torchrun, or accelerate's MULTI_GPU or MULTI_CPU, in which each "
            f"holds the whole network, got {accelerator.distributed_type.value}"
        )
    if accelerator.device.type == "cuda":  # one size of image, of batches two or three
        torch.backends.cudnn.benchmark = True
    found = [str(tracker) for tracker in accelerator.log_with]
    if missing := [name for name in config.trackers if name not in found]:
        raise ValueError(f"trackers: expected packages that are installed, got {missing}")
    return accelerator


def end(accelerator: Accelerator) -> None:
    """Leave the other processes, when the learner is out of use."""
    # The network among processes goes first: were it the last to hold their group, it would end it
    # with Python's lock, for which the group's own thread may be waiting.
    accelerator.free_memory()
    accelerator.end_training()


def _cuda(config: Config) -> bool:
    return torch.cuda.is_available() and config.device != "cpu"


def agreed(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Whether any process has each flag raised."""
    if accelerator.num_processes == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return (accelerator.reduce(raised, "sum") > 0).tolist()
