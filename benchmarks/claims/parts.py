"""Claim 3: what each part of the method is worth."""

from typing import Any, NamedTuple

from ablation import KEPT
from ablation import LOSSES as ABLATED
from claims.claim import LINE, NO, PARTLY, YES, Claim, evidence, read, section, table
from claims.differences import DIFFERENCE, differences, in_both, reached, within


class Parts(NamedTuple):
    """Of the method, in one network."""

    text: str
    signs: dict[str, int]
    """Of each arm what differences says of it and vanilla."""
    reach: str
    """How many points apart arms would have to be, to be shown."""

    @property
    def helps(self) -> list[bool]:
        """Whether shortcut and whether evolutionary is better than vanilla."""
        return [self.signs[arm] > 0 for arm in ("shortcut", "evolutionary")]


def parts_of(content: dict[str, Any]) -> Parts:
    """What one network's table says of each part of the method."""
    arms = {row["arm"]: row for row in content["rows"]}
    seeds, vanilla = len(content["seeds"]), arms["vanilla"]
    others = [row for name, row in arms.items() if name != "vanilla"]
    pairs = [(row, vanilla) for row in others] + [(arms["evolutionary"], arms["shortcut"])]
    *signs, order = differences(pairs, seeds)
    signs = {row["arm"]: sign for row, sign in zip(others, signs, strict=True)}
    shown_from = sorted(within(pair, seeds, len(pairs)) for pair in pairs)
    reach = f"{shown_from[0]:.0f} to {shown_from[-1]:.0f} points"
    lines = [
        [
            row["arm"],
            row["what it is"],
            reached(row),
            f"{row['accuracy, %'] - vanilla['accuracy, %']:+.1f}",
            DIFFERENCE[signs[row["arm"]]] if row["arm"] in signs else "",
        ]
        for row in arms.values()
    ]
    head = ["arm", "what it is", "held out", "points to vanilla", "a difference?"]
    ahead = arms["evolutionary"]["accuracy, %"] - arms["shortcut"]["accuracy, %"]
    text = (
        table(head, lines)
        + f"\n\n{seeds} seeds. Evolutionary against shortcut: {ahead:+.1f} points, "
        f"{DIFFERENCE[order]}. All {len(pairs)} comparisons share one correction: as the surest of "
        f"them each would be shown from {reach} on, by how much its arms vary."
    )
    if kept := [row for row in arms.values() if row.get(KEPT)]:
        with_heads = (
            f"{row['arm']} {row[KEPT]:.1f} ± {row[f'{KEPT}, deviation']:.1f} %" for row in kept
        )
        text += (
            " Measured with the heads that they ended with, which inference drops: "
            f"{', '.join(with_heads)}."
        )
    return Parts(text, signs, reach)


def in_short(networks: str, parts: Parts, earlier: Parts | None = None) -> str:
    """Which arms differ from vanilla; where they were measured before, in both measurements."""
    counted = in_both(parts.signs, earlier.signs if earlier else parts.signs)
    named = {
        arm: arm if arm in ABLATED else f"evolutionary with heads on the {arm}" for arm in counted
    }
    shown = [
        f"{DIFFERENCE[sign]} than vanilla: {', '.join(found)}"
        for sign in (1, -1)
        if (found := [named[arm] for arm in counted if counted[arm] == sign])
    ]
    told = "; ".join(shown) or f"no difference shown; one would have needed {parts.reach}, by arm"
    return f"in {networks} {told}"


def ablation() -> Claim:
    of_slim, of_before = read("ablation"), read("ablation_before")
    of_narrow = read("ablation_narrow")
    slim, narrow = parts_of(of_slim), parts_of(of_narrow)
    now, before = ({row["arm"]: row for row in of["rows"]} for of in (of_slim, of_before))
    moved = max(now, key=lambda arm: abs(now[arm]["accuracy, %"] - before[arm]["accuracy, %"]))
    earlier = parts_of(of_before)
    helps = [all(both) for both in zip(slim.helps, earlier.helps, strict=True)] + narrow.helps
    verdict = YES if all(helps) else PARTLY if any(helps) else NO
    claim = (
        "CIFAR-100, ResNet-18 at T = 4: vanilla 72.22 %, shortcut 74.78 %, evolutionary 74.83 %; "
        "heads hang on the exits of the stages."
    )
    title = "3. Parts of the method"
    found = "\n\n".join(
        [
            "In a network whose gradient does not vanish (claim 1):",
            slim.text,
            "**Measured before.** An [earlier version of this code](results/ablation_before.md) "
            "trained these arms from these seeds in bf16: "
            f"{in_short(of_before['networks'], earlier)}. A difference counts only where both show "
            f"it, as in claim 2. Furthest from the table above it has {moved}, "
            f"{reached(before[moved])}; why was not looked into.",
            *evidence(title, "ablation.png", "ablation"),
            "And in one whose gradient does, trained as in claim 2, which says why it vanishes; it "
            "is narrow, has one time step, and is far from trained after so few epochs:",
            narrow.text,
            "This network was measured once: no second measurement has to agree.",
            "**The rule.** It counts as reproduced if both shortcut and evolutionary are better "
            "than vanilla in both networks; as partly, if one of them is in one. This rule stood "
            "before the second network was measured.",
            "**Shortcut with its heads.** Shortcut trains the sum of all heads' logits and is "
            "measured, as all arms are, by the classifier alone; to measure it with its heads "
            "too was thought of when the second network's first seeds were there, so that this "
            "is among no comparisons.",
        ]
    )
    told = in_short(of_slim["networks"], slim, earlier)
    told += LINE + in_short(of_narrow["networks"], narrow)
    shortcut = next(row for row in of_narrow["rows"] if row["arm"] == "shortcut")
    told += (
        f". Shortcut has {shortcut['accuracy, %']:.1f} % by its classifier, as is measured, and "
        f"{shortcut[KEPT]:.1f} % with its heads, which inference drops"
    )
    return section(title, verdict, claim, found, "ablation_narrow.png", "ablation_narrow", told)
