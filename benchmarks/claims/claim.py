"""A claim of the paper as docs/results.md tells it, and what its tables have in common."""

import json
from typing import Any, NamedTuple

from arms import TRAINED_ON
from measure import RESULTS

LOSSES = "vanilla", "evolutionary"
SETTING = ("networks", "images", "batch", "training")
LINE = "<br>"  # within a cell of a table
YES, PARTLY, NO = "reproduced at this size", "partly", "not reproduced at this size"
UNDECIDED = "not decided"
Row = dict[str, Any]


class Claim(NamedTuple):
    title: str
    verdict: str
    text: str
    in_short: str = ""
    """What a reader should know beside the verdict, in a cell of README's table."""


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def where(content: dict[str, Any]) -> str:
    """The machine; of arms that were trained before their tables named it that of the table."""
    device = content["machine"]["device"]
    of_arms = "held out" in content.get("images", "")
    return content.get(TRAINED_ON, f"{device}, as far as is known" if of_arms else device)


def section(
    title: str,
    verdict: str,
    claim: str,
    found: str,
    picture: str | None,
    of: str,
    in_short: str = "",
) -> Claim:
    parts = [f"## {title}: {verdict}", f"**Claimed.** {claim}", "**Measured.**", found]
    text = "\n\n".join([*parts, *evidence(title, picture, of)])
    return Claim(title, verdict, text, in_short)


def evidence(title: str, picture: str | None, of: str) -> list[str]:
    """A table's picture, and the command that makes both."""
    content = read(of)
    setting = "; ".join(f"{key}: {content[key]}" for key in SETTING if key in content)
    told = f"`{content['command']}`, on {where(content)}; {setting}."
    shown = [f"![{title}](results/{picture})"] if picture else []
    return [*shown, f"{told} [All figures](results/{of}.md)."]
