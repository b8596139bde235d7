"""Claim 6: firing rates and energy of the released networks."""

from typing import Any

from claims.claim import Claim, read, section, table


def digits(value: Any) -> str:
    """A cell of a table: of a fraction three digits, of a large one all before the point."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def energy() -> Claim:
    content = read("energy")
    columns = ["network", "T", "mean firing rate of a layer", "lowest", "highest"]
    columns += ["energy, uJ", "twin's energy, uJ", "times less"]
    to_twin = [
        (r["accumulates, M"] + r["multiply-accumulates, M"]) / r["twin's multiply-accumulates, M"]
        for r in content["rows"]
    ]
    lines = [
        [*(digits(r[c]) for c in columns), f"{to:.2f}"]
        for r, to in zip(content["rows"], to_twin, strict=True)
    ]
    found = (
        table([*columns[:-1], "twin's energy / its own", "operations / the twin's"], lines)
        + "\n\nThe twin is the same convolutions on real numbers, run once; it is counted, not "
        "trained. Counted are the additions and multiplications of convolutions and of the "
        "classifier, the first convolution once for each image. Memory, which costs more, "
        "neurons, norms and pooling are not. The network adds for its spikes alone, the twin "
        "multiplies its zeros too; those beyond a border count in the network's first convolution "
        "only. On the exact grid that has a second part, which is not in this. "
        f"{content['energy']}."
    )
    claim = "Nothing of its own; heads are dropped, and so is what they cost."
    title = "6. Firing rates and energy of the released networks"
    least, most = (end(r["times less"] for r in content["rows"]) for end in (min, max))
    told = (
        f"an estimated {least:.1f} to {most:.1f} times less energy than the same network without "
        "spikes, counting additions and multiplications alone, of which it has "
        f"{min(to_twin):.2f} to {max(to_twin):.2f} times as many"
    )
    return section(title, "measured", claim, found, "energy.png", "energy", told)
