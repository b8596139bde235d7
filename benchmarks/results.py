"""Write docs/results.md, the pages of docs/results and README's tables from the JSON tables.

    python benchmarks/results.py

claims.py has the claims and their rules.
"""

from typing import Any

from claims import CLAIMS, Claim, measurements
from differences import SIGNIFICANCE, Row
from measure import BUILDS, RESULTS, ROOT, read, run_script, table, table_of

from export.releases import with_part

PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
BEGIN, END = "<!-- python benchmarks/results.py writes this -->", "<!-- the verdicts end here -->"
SPEED, SPEED_ENDS = "<!-- and this -->", "<!-- the speed ends here -->"
# Tables with a page of their own, and what their columns mean; results.md has the others.
PAGES = {
    "train_step": "Ours has its heads; the others have none. ReLU in each neuron's place, at all T "
    "steps, shows what a step costs without neurons. `times ours`: step time relative to ours, "
    "measured in one process that keeps large buffers, as zoo.training does; higher is slower. "
    "torch.compile is relative to ours beside it. `ms, glibc as it comes`, `times ours as trained` "
    "and `peak MiB` are of a process with this contestant alone and glibc's default allocator. "
    "A measurement without builds is of one build, so small differences in it mean nothing.",
    "inference": "The same network as T = 4 steps of spikes and as 1 x 4, one step of four levels. "
    "`times 1 x 4, onnxruntime, int8`: time relative to that row, measured beside it; higher is "
    "slower. PyTorch runs the network as trained, onnxruntime the exported graphs.",
    "runtimes": "The graphs of released networks, on test images. `differ`: images whose logits "
    "have other bits than `zoo.deploy` gives in PyTorch. `another class`: images whose predicted "
    "class differs. `why`: the runtime's error message, if it gave no logits.",
    "neuron": "Each library's neuron as its documentation builds it. Ours has a triangle gradient, "
    "also through the reset, and a compiled kernel. SpikingJelly's has an arctangent gradient and "
    "scales its input by 1 / tau; snnTorch's has an arctangent gradient and a reset by "
    "subtraction. Neither has a gradient through the reset. glibc keeps large buffers for all.",
    "grid": "The folded network with one layer at a time on the grid, compared with itself "
    "without; and what fp32 rounding alone changes in the trained network.",
    "kills": "Each run is killed at a random moment and started again by the same command.",
    "recipe_search": "Accuracies are of held-out training images, never of test images; runs that "
    "hold out as many hold out the same ones. `options` lists what differs from the defaults. A "
    "run with fewer epochs than its schedule was stopped.",
}
HEAD = """# The claims of "Take A Shortcut Back", measured

`python benchmarks/results.py` writes this page from the tables in [results](results). Run
`pip install -e '.[bench]'` before the commands; `DATA` is
[CIFAR-10 (JPEG)](training.md#data). The rebuttal is the authors' answer to the reviewers.
"""
METHOD = f"""## Method

Arms of a comparison start from the same weights and see the same images in the same order.
Accuracies of claims 2 to 4 are of 5,000 held-out training images: mean ± standard deviation of
three seeds, of six in narrow ResNet-34. A difference counts if Welch's t-test gives
p < {SIGNIFICANCE} after Holm's correction over its table. "Not shown" doesn't mean that there is
none: "points needed" is the smallest difference that would have counted as the surest of its table,
and a true difference of that size is missed half the time.

- Networks are small and far from trained: those of claims 2 to 4 have one or two time steps and
  five epochs of 10,000 images, cropped to 24 pixels. Paper's recipes: `configs/paper_*.yaml`.
- All seeds hold out the same images. [Runs with heads](results/recipe_search.md), measured on them,
  chose optimizer, learning rate and threshold. We searched no recipe without heads.
- Claims 2 to 4 share the runs of narrow ResNet-34 (8 to 64 channels), vanilla and evolutionary.
- Muon multiplied in bf16 in these tables; today's commands multiply in fp32."""

README_NOTE = (
    "Vanilla networks train without heads. Shortcut keeps a head weight of 1, evolutionary lets it "
    "fall to 0. The networks of claims 1 to 4 are small and far from trained, and claims 2 to 4 "
    "share runs."
)


def summary(claims: list[Claim]) -> str:
    """The table of all claims, one row each."""
    lines = [[claim.title, claim.claimed, claim.measured, claim.verdict] for claim in claims]
    return table(["Claim", "Claimed", "Measured", "Verdict"], lines)


def section(claim: Claim) -> str:
    verdict = f"**{claim.verdict[0].upper()}{claim.verdict[1:]}.** {claim.rule}".strip()
    parts = [f"## {claim.title}", verdict, claim.details]
    if claim.has_plot:
        parts.append(f"![{claim.title}](results/{claim.name}.png)")
    parts.append("\n".join(f"- {limit}" for limit in claim.limits))
    commands: dict[str, dict[str, None]] = {}
    for measurement in measurements(claim.name):
        commands.setdefault(measurement["command"], {})[machine(measurement)] = None
    parts += [
        f"`{command}`, on {', before on '.join(machines)}."
        for command, machines in commands.items()
    ]
    return "\n\n".join(parts)


def machine(measurement: dict[str, Any]) -> str:
    """What a table was measured on, or its arms were trained on."""
    trained_on = measurement.get("trained on")
    return trained_on or f"{measurement['device']}, {measurement['threads']} threads"


def page() -> str:
    """docs/results.md."""
    claims = [claim() for claim in CLAIMS]
    return "\n\n".join([HEAD + "\n" + summary(claims), METHOD, *map(section, claims)]) + "\n"


def table_page(name: str) -> str:
    """The page docs/results/NAME.md, with a column for the machine if there are several."""
    found = measurements(name)
    rows = [{"machine": machine(m)} | row for m in found if "device" in m for row in m["rows"]]
    settings = []
    for measurement in found:
        told = {k: v for k, v in measurement.items() if k != "rows"}
        settings.append("- " + "; ".join(f"{key}: {value}" for key, value in told.items()))
    lines = ["# " + read(name)["title"], PAGES[name], "\n".join(settings)]
    return "\n\n".join([*lines, table_of(rows or found[0]["rows"])]) + "\n"


def readme(text: str) -> str:
    """README.md with today's verdicts and speed in it."""
    verdicts = f"{summary([claim() for claim in CLAIMS])}\n\n{README_NOTE}"
    text = with_part(text, BEGIN, END, verdicts)
    return with_part(text, SPEED, SPEED_ENDS, speed())


def speed() -> str:
    """Step times at T = 4 relative to ours, of the latest measurement."""
    latest = measurements("train_step")[0]
    found = {(row["who"], row["network"]): row for row in latest["rows"] if row["T"] == 4}
    networks = list(dict.fromkeys(network for _, network in found))
    lines = [
        [who, *(_times(found[who, network]) for network in networks)]
        for who in dict.fromkeys(who for who, _ in found)
        if who != "ours"
    ]
    head = f"Relative step time at T = 4 (ours = 1.0; higher is slower), {machine(latest)}"
    return table([head, *(f"`{network}`" for network in networks)], lines)


def _times(row: Row) -> str:
    """A median and, in brackets, the least and the most of single builds."""
    builds = [float(value) for value in row[BUILDS].split(", ")]
    return f"{row['times ours']:.2f} ({min(builds):.2f} to {max(builds):.2f})"


def main() -> None:
    """Write the pages."""
    PAGE.write_text(page())
    README.write_text(readme(README.read_text()))
    for name in PAGES:
        (RESULTS / f"{name}.md").write_text(table_page(name))


if __name__ == "__main__":
    run_script(main)
