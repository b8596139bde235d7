"""Keeps large buffers in the process.

glibc returns every freed buffer above its mmap threshold to the kernel, which clears each page
again on the next allocation; in a training step on a CPU that costs more than the neurons do.
"""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
SIZES = 1 << 30, 32 << 20  # bytes; older glibc versions allow at most the second as mmap threshold


def keep_large_buffers() -> bool:
    """Raise glibc's mmap and trim thresholds for this process; False if that is not possible."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    kept = any(libc.mallopt(M_MMAP_THRESHOLD, size) for size in SIZES)
    return bool(kept and libc.mallopt(M_TRIM_THRESHOLD, SIZES[0]))
