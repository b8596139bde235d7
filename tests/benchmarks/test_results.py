"""The pages of what was measured are written from the files beside them, by nobody's hand."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TABLES = sorted((ROOT / "docs" / "results").glob("*.json"))
sys.path.append(str(ROOT / "benchmarks"))

from measure import markdown  # noqa: E402
from recipe_search import every_run  # noqa: E402
from results import PAGE, README, page, readme  # noqa: E402


def test_the_page_of_claims_is_what_its_files_say():
    assert PAGE.read_text() == page()
    assert README.read_text() == readme(README.read_text())


def test_the_recipes_that_were_tried_are_those_of_the_logs():
    written = json.loads((ROOT / "docs" / "results" / "recipe_search.json").read_text())
    assert written["rows"] == every_run()


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_a_table_is_what_its_file_says(table):
    assert table.with_suffix(".md").read_text() == markdown(json.loads(table.read_text()))
