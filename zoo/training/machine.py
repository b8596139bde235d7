"""What a network is trained or timed on: its name, and the memory taken there."""

import platform
import resource
import sys
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows as much


def processor(device: torch.device) -> str:
    """The name of a GPU, or of this machine's CPU and its instruction set for any other device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def machine(device: torch.device, processes: int) -> str:
    """What each of several processes runs on."""
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{f'{processes} x ' if processes > 1 else ''}{processor(device)}{threads}"


def emulates_bf16(device: torch.device) -> bool:
    """Whether this CPU has AVX2 and no AVX-512: torch is many times slower in bf16 there."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


def peak_memory(device: torch.device) -> float:
    """The most memory taken so far, MiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
