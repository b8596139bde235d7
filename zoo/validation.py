"""What arguments of networks are held to, before torch meets them."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

Choice = TypeVar("Choice")
TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def one_of(name: str, known: Mapping[str, Choice], chosen: str) -> Choice:
    """What an argument of that name chooses by a name, which config.json has, too.

    Raises:
        ValueError: It is none of the known.
    """
    if not isinstance(chosen, str) or chosen not in known:
        raise ValueError(f"{name}: expected one of {list(known)}, got {chosen!r}")
    return known[chosen]


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, which a config.json can hold, alone or inside."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if type(value) is dict:
        return {key: plain(inside) for key, inside in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def flag(name: str, value: bool) -> None:
    """A yes or no; the string "false", which a command line may make of it, is true for Python.

    Raises:
        ValueError: It is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {value!r}")


def whole(name: str, value: Any, least: int) -> int:
    """A whole number, NumPy's too.

    Raises:
        ValueError: It is none, or below the least.
    """
    if not _is_whole(value) or value < least:
        raise ValueError(f"{name}: expected a whole number >= {least}, got {value!r}")
    return int(value)


def positive(name: str, value: float) -> float:
    """A number above 0, in the range of fp32's normal numbers.

    Raises:
        ValueError: It is none.
    """
    if not (isinstance(value, Real) and TINY <= value <= HUGE):
        raise ValueError(
            f"{name}: expected a number > 0, from {TINY:.2g} to {HUGE:.2g}, got {value!r}"
        )
    return float(value)


def is_list(values: Any, count: int, kind: Any) -> bool:
    """Whether JSON has so many values of a kind, of which yes and no is a kind of its own."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, kind) and not isinstance(value, bool) for value in values)
    )


def sizes(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """A size for each stage.

    Raises:
        ValueError: There is none, or one is no whole number >= 1.
    """
    several = isinstance(values, Sequence) and len(values) > 0
    if not (several and all(_is_whole(value) and value >= 1 for value in values)):
        raise ValueError(f"{name}: expected a whole number >= 1 for each stage, got {values!r}")
    return tuple(map(int, values))


def sizes_of_stages(depths: Sequence[int], widths: Sequence[int]) -> list[tuple[int, int]]:
    """Depth and width of each stage.

    Raises:
        ValueError: There are more of one than of the other, or as sizes.
    """
    depths, widths = sizes("depths", depths), sizes("widths", widths)
    if len(depths) != len(widths):
        raise ValueError(
            f"depths and widths: expected as many of each, got {len(depths)} and {len(widths)}"
        )
    return list(zip(depths, widths, strict=True))


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
