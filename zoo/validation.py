"""Validation of constructor arguments."""

from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def one_of(name: str, known: Collection[str], value: str) -> str:
    """The value, if it is a known name."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}: expected one of {list(known)}, got {value!r}")
    return value


def flag(name: str, value: bool) -> bool:
    """The value, if it is True or False; the string "false" would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return value


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of Python or NumPy, as an int."""
    if not _is_whole(value, least):
        raise ValueError(f"{name}: expected a whole number >= {least}, got {value!r}")
    return int(value)


def positive(name: str, value: float) -> float:
    """A number > 0 that fp32 can hold as a normal number, as a float."""
    if not (isinstance(value, Real) and TINY <= value <= HUGE):
        raise ValueError(
            f"{name}: expected a number > 0, from {TINY:.2g} to {HUGE:.2g}, got {value!r}"
        )
    return float(value)


def sizes(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """A whole number >= 1 for each stage, at least one."""
    if not (isinstance(values, Sequence) and values and all(_is_whole(v, 1) for v in values)):
        raise ValueError(f"{name}: expected a whole number >= 1 for each stage, got {values!r}")
    return tuple(map(int, values))


def sizes_of_stages(depths: Sequence[int], widths: Sequence[int]) -> list[tuple[int, int]]:
    """Depth and width of each stage."""
    depths, widths = sizes("depths", depths), sizes("widths", widths)
    if len(depths) != len(widths):
        raise ValueError(
            f"depths and widths: expected as many of each, got {len(depths)} and {len(widths)}"
        )
    return list(zip(depths, widths, strict=True))


def plain(value: Any) -> Any:
    """Turn NumPy's numbers and arrays, also inside dicts, lists and tuples, into Python's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if type(value) is dict:
        return {key: plain(inside) for key, inside in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least
