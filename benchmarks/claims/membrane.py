"""Claim 4: heads where the shortcut goes past the neurons."""

import math
from typing import Any, NamedTuple

from claims.claim import LINE, Claim, evidence, read, section, table
from claims.differences import DIFFERENCE, differences, in_both, reached, within
from membrane_narrow import LEFT


class Blocks(NamedTuple):
    """With heads and without, in one network."""

    text: str
    signs: dict[str, int]
    """Of each kind of block what differences says."""
    gains: dict[str, str]
    """Points with heads, and in which the true ones are with 95 %."""


def blocks_of(content: dict[str, Any]) -> Blocks:
    """What one network's table says of each kind of block."""
    arms = {row["arm"]: row for row in content["rows"]}
    seeds = len(content["seeds"])
    families = list(dict.fromkeys(arm.rpartition(", ")[0] for arm in arms))
    pairs = [(arms[f"{f}, evolutionary"], arms[f"{f}, vanilla"]) for f in families]
    signs = dict(zip(families, differences(pairs, seeds), strict=True))
    gains = [ours["accuracy, %"] - vanilla["accuracy, %"] for ours, vanilla in pairs]
    told = [
        f"{gain:+.1f} ({gain - width:+.1f} to {gain + width:+.1f})"
        for gain, width in zip(gains, (within(pair, seeds) for pair in pairs), strict=True)
    ]
    shown_from = sorted(within(pair, seeds, len(pairs)) for pair in pairs)
    errors = [math.hypot(*(row["deviation"] for row in pair)) / math.sqrt(seeds) for pair in pairs]
    lines = [
        [family, reached(vanilla), reached(ours), gain, DIFFERENCE[sign]]
        + ([f"{vanilla[LEFT]:.2g}", f"{ours[LEFT]:.2g}"] if LEFT in vanilla else [])
        for (family, sign), (ours, vanilla), gain in zip(signs.items(), pairs, told, strict=True)
    ]
    head = ["block", "vanilla", "with heads", "points gained (95 % interval)", "a difference?"]
    if LEFT in content["rows"][0]:
        head += ["gradient left, vanilla", "with heads"]
    more = " and ".join(
        f"{gains[0] - gain:.1f} points more than {family} (standard error "
        f"{math.hypot(errors[0], error):.1f})"
        for family, gain, error in zip(families[1:], gains[1:], errors[1:], strict=True)
    )
    text = (
        f"{table(head, lines)}\n\n{seeds} seeds. As the surest of the three each gain would be "
        f"shown from {shown_from[0]:.1f} to {shown_from[-1]:.1f} points on, by how much its arms "
        f"vary. The first block gains from heads {more}, which is among no comparisons."
    )
    return Blocks(text, signs, dict(zip(families, told, strict=True)))


def gains_in_short(networks: str, blocks: Blocks, signs: dict[str, int]) -> str:
    told = ", ".join(
        f"{gain}, {DIFFERENCE[signs[family]]}, for {family}"
        for family, gain in blocks.gains.items()
    )
    return f"in {networks} {told}"


def membrane() -> Claim:
    of_slim, of_narrow = read("membrane"), read("membrane_narrow")
    slim, narrow = blocks_of(of_slim), blocks_of(of_narrow)
    of_before = read("membrane_before")
    earlier = blocks_of(of_before)
    first, *past = narrow.signs
    in_slim = in_both(slim.signs, earlier.signs)
    shown = any(in_slim[family] or narrow.signs[family] for family in past)
    reach = {row["arm"]: row["accuracy, %"] for row in of_narrow["rows"]}
    ahead = " and ".join(
        f"{family} {reach[f'{family}, vanilla'] - reach[f'{first}, evolutionary']:+.1f}"
        for family in past
    )
    claim = (
        "Nothing. Reviewers asked whether heads help where a shortcut goes past the neurons, since "
        "the paper's argument is that every path to the input goes through surrogate gradients."
    )
    title = "4. Heads where the shortcut goes past the neurons"
    found = "\n\n".join(
        [
            "In networks of 20 layers, where with the first block no gradient vanishes (claim 1). "
            "Each kind of block has the neuron, and the norms' initial gain, of its own paper, so "
            "that lines are not to be compared:",
            f"{slim.text} The first block's two arms are those of claim 3.",
            "**Measured before.** An [earlier version of this code](results/membrane_before.md) "
            "trained all arms from these seeds in bf16: points with heads "
            f"{gains_in_short(of_before['networks'], earlier, earlier.signs)}. A difference "
            "counts only where both show it.",
            *evidence(title, "membrane.png", "membrane"),
            "In the shape of claim 3's second network, as narrow and as far from trained, with the "
            "same neuron in all three. Every block begins as its shortcut, MS's other norms at the "
            "threshold; the first block's arms are that claim's:",
            narrow.text,
            "This network was measured once: no second measurement has to agree.",
            "**Gradient left** is the norm of the gradient of the classifier's loss behind the "
            "stem, divided by that behind the last stage, after training.",
            "**The blocks themselves.** The other two without heads against the first with them, "
            f"in points: {ahead}, which is among no comparisons; their blocks hand on counts and "
            "currents in place of spikes.",
        ]
    )
    verdict = "a difference is shown" if shown else "no difference shown for these blocks"
    told = "points gained with heads, with the 95 % interval: " + LINE.join(
        [
            gains_in_short(of_slim["networks"], slim, in_slim),
            gains_in_short(of_narrow["networks"], narrow, narrow.signs),
        ]
    )
    return section(title, verdict, claim, found, "membrane_narrow.png", "membrane_narrow", told)
