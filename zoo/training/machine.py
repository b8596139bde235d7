"""The processor: its name, its memory, and whether bf16 is fast on it."""

import platform
import resource
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.benchmark import Timer

from zoo.training.config import Config

CPUINFO = Path("/proc/cpuinfo")  # Linux only


def processor(device: torch.device) -> str:
    """The name of the GPU, or of the CPU with its instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def machine(device: torch.device, processes: int) -> str:
    """The hardware of a run, for its log."""
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{f'{processes} x ' if processes > 1 else ''}{processor(device)}{threads}"


def bf16_slowdown() -> float:
    """Time of a convolution with gradients on this CPU, bf16 over fp32.

    Measured, since the instruction set does not tell: AVX2 emulates bf16, and Intel's AVX512_BF16
    without AMX takes nearly twice the time of fp32, where AMD's takes less.
    """
    return _seconds_of_convolution(torch.bfloat16) / _seconds_of_convolution(torch.float32)


def peak_memory(device: torch.device) -> float:
    """Peak memory so far in MiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _seconds_of_convolution(dtype: torch.dtype) -> float:
    images = torch.ones(16, 64, 16, 16, dtype=dtype, requires_grad=True)
    weight = torch.ones(64, 64, 3, 3, dtype=dtype, requires_grad=True)

    def there_and_back() -> None:
        nn.functional.conv2d(images, weight, padding=1).sum().backward()

    timer = Timer("f()", globals={"f": there_and_back}, num_threads=torch.get_num_threads())
    return min(timer.timeit(3).mean for _ in range(3))


def slow_bf16_warning(config: Config, device: torch.device) -> str:
    """A warning if the recipe uses bf16 on a CPU that is slow with it, else an empty string."""
    if device.type != "cpu" or config.precision != "bf16":
        return ""
    if (slowdown := bf16_slowdown()) < 1.3:  # beyond the noise of the timing
        return ""
    return f"this CPU is {slowdown:.1f} times slower in bf16 than in fp32; try --precision fp32"
