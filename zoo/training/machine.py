"""The processor of a run: its name and its peak memory."""

import platform
import resource
import sys
from pathlib import Path

import torch

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


def peak_memory(device: torch.device) -> float:
    """Peak memory so far in MiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
