"""The pages are what benchmarks/results.py writes from the tables."""

import json
import re

import pytest
from claims import CLAIMS
from measure import RESULTS
from results import PAGE, PAGES, README, page, readme, table_page


def test_results_and_readme_are_what_the_script_writes():
    assert PAGE.read_text() == page()
    assert README.read_text() == readme(README.read_text())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_table_says(name):
    assert (RESULTS / f"{name}.md").read_text() == table_page(name)


def test_every_file_of_results_is_shown_somewhere():
    claims = [claim() for claim in CLAIMS]
    names = {claim.name for claim in claims} | set(PAGES) | {"accuracy"}  # for MODEL_CARDS.md
    expected = {f"{name}.json" for name in names} | {f"{name}.md" for name in PAGES}
    expected |= {f"{claim.name}.png" for claim in claims if claim.has_plot}
    assert {path.name for path in RESULTS.rglob("*")} == expected
    assert len(expected) <= 30


def test_every_table_names_a_script_that_exists():
    for path in RESULTS.glob("*.json"):
        content = json.loads(path.read_text())
        for measurement in content.get("measurements", [content]):
            script = re.match(r"python (benchmarks/\w+\.py)", measurement["command"])[1]
            assert (RESULTS.parent.parent / script).exists()
