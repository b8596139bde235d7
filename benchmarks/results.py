"""The paper's claims beside what was measured: docs/results.md, and README's tables of verdicts and
of speed, from the files in docs/results.

    python benchmarks/results.py

Each claim is told in a file of its own, in claims/.
"""

from pathlib import Path

from claims.claim import LOSSES, Row, read, table
from claims.cost import cost
from claims.depth import NARROW, depth
from claims.differences import SURE
from claims.energy import energy
from claims.gradient import gradient_by_layer
from claims.membrane import membrane
from claims.parts import ablation
from claims.twins import twins
from depth import WIDTHS
from measure import EACH, run_script

from export.releases import with_part

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
BEGIN, END = "<!-- python benchmarks/results.py writes this -->", "<!-- the verdicts end here -->"
SPEED, SPEED_ENDS = "<!-- and this -->", "<!-- the speed ends here -->"
CLAIMS = gradient_by_layer, depth, ablation, membrane, cost, energy, twins
SMALL = "depth", "ablation", "ablation_narrow", "membrane", "membrane_narrow"  # claims 2 to 4
FIRST_BLOCK = "spike after the addition"
SHARED = [  # by table, arms that the page calls the same runs
    *(
        {
            "depth": f"{NARROW} {loss}",
            "ablation_narrow": loss,
            "membrane_narrow": f"{FIRST_BLOCK}, {loss}",
        }
        for loss in LOSSES
    ),
    *({"ablation": loss, "membrane": f"{FIRST_BLOCK}, {loss}"} for loss in LOSSES),
]
HEAD = f"""# The claims of "Take A Shortcut Back", measured

Written by `python benchmarks/results.py` from the files in `docs/results/`; each claim stands with
the command that measures it again (`pip install -e '.[bench]'` first); `FOLDER_OR_TAR` is
[CIFAR-10 (JPEG)](training.md#data). Sizes and time steps are such as two CPU cores can carry.
Optimizer, learning rate and threshold differ from claim to claim. [The runs that chose
them](results/recipe_search.md) had heads, and were measured on images that are held out here too;
no recipe was searched for networks without heads, whose runs in that table (`vanilla`) are claim
7's twins. The rebuttal is what the authors answered to the reviewers, public on OpenReview.
`configs/paper/` holds the paper's recipes, as far as it gives them, for GPUs. Where a table says no
more of Muon than its learning rate, it multiplied in bf16; in fp32 the same commands have it
multiply in fp32 now, so that they give somewhat other figures. The commit in a table's file is that
of the code which wrote it; arms may have been trained by code before it, which `trained by` names
where that was noted.

Arms that are compared begin with the same weights and see the same images in the same order, with
the same augmentation. Accuracies of claims 2 to 4 are of images held out from training, mean ±
deviation of three seeds, or of six where it is said. A seed changes weights, order and
augmentation, but not which images are held out, so that ± leaves that choice out; earlier
measurements held out the same. A difference counts where Welch's t-test gives p < {SURE}, with
Holm's correction over the comparisons of its table. "Not shown" does not mean that there is none:
so few seeds miss differences as large as some that are claimed. Claim 2 gives for each comparison,
and claims 3 and 4 from the least to the largest of theirs, the smallest measured difference that
would have counted, had its p been the lowest of its table, which the correction holds to the
strictest limit; another could have counted with somewhat less. A true difference of just that size
is missed about half the time; with three seeds, whose deviations are uncertain themselves, that may
be more or less. Networks that train on crops of 24 pixels are measured on whole images of 32.
"""


def check_shared() -> None:
    """Raise ValueError where arms that the page calls the same runs came out otherwise."""
    for arms in SHARED:
        found = {
            f"{name}.json, {arm}": row["of each seed"].split(", ")
            for name, arm in arms.items()
            for row in read(name)["rows"]
            if row["arm"] == arm
        }
        seeds = min(map(len, found.values()))  # the first ones; some tables have more
        if len({tuple(reached[:seeds]) for reached in found.values()}) > 1:
            told = "; ".join(f"{reached[:seeds]} in {what}" for what, reached in found.items())
            raise ValueError(
                f"expected the accuracies of the same runs, got {told}: run these benchmarks "
                "again, all on one machine, by the code that is there"
            )


def page() -> str:
    check_shared()
    claims = [claim() for claim in CLAIMS]
    told = table(["claim", "measured"], [[claim.title, claim.verdict] for claim in claims])
    return "\n\n".join([HEAD.rstrip(), told, *(claim.text for claim in claims)]) + "\n"


def readme(text: str) -> str:
    """README.md with today's verdicts in it."""
    lines = [[claim.title, claim.verdict, claim.in_short] for claim in (c() for c in CLAIMS)]
    right = [row["accuracy, %"] for name in SMALL for row in read(name)["rows"]]
    told = (
        "Vanilla: trained without heads. Shortcut: with heads of weight 1 to the end. "
        "Evolutionary: with heads whose weight falls to 0. Narrow: of "
        f"{WIDTHS[0]} to {WIDTHS[-1]} channels. Claims 2 to 4 are of networks of one or two time "
        f"steps after 5 epochs of 10,000 images, {min(right):.0f} to {max(right):.0f} % right, and "
        "share the runs of narrow ResNet-34 without heads and with the evolutionary loss: on it "
        "they are no three independent findings."
    )
    table_of_all = table(["claim", "measured", "in figures"], lines)
    text = with_part(text, BEGIN, END, f"{table_of_all}\n\n{told}")
    return with_part(text, SPEED, SPEED_ENDS, speed())


def speed() -> str:
    """How long the training step of others takes, in steps of ours."""
    content = read("train_step_avx512")
    found = {(row["who"], row["network"]): row for row in content["rows"] if row["T"] == 4}
    networks = list(dict.fromkeys(network for _, network in found))
    lines = [
        [who, *(_times(found[who, network]) for network in networks)]
        for who in dict.fromkeys(who for who, _ in found)
        if who != "ours"
    ]
    machine = "{device}, {threads} threads".format_map(content["machine"])
    head = [f"a training step at T = 4 ({machine})", *map("`{}`".format, networks)]
    return table(head, lines)


def _times(row: Row) -> str:
    """A median and, in brackets, the least and the most of single builds."""
    each = [float(value) for value in row[EACH].split(", ")]
    return f"{row['times ours']:.2f} ({min(each):.2f} to {max(each):.2f})"


def main() -> None:
    PAGE.write_text(page())
    README.write_text(readme(README.read_text()))
    print(f"{PAGE} and {README}: written")


if __name__ == "__main__":
    run_script(main)
