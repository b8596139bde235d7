"""What the page of claims says when the figures are others than those that are there."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from claims import claim as told  # noqa: E402
from claims.cost import EACH, cost  # noqa: E402
from claims.depth import DEPTH_BEFORE, depth  # noqa: E402
from claims.differences import differences, within  # noqa: E402
from claims.membrane import membrane  # noqa: E402
from claims.twins import NOTES, TWIN_NOTES, WEIGHTS, twins  # noqa: E402
from results import page  # noqa: E402


def arm(accuracy: float, deviation: float) -> dict[str, float]:
    return {"accuracy, %": accuracy, "deviation": deviation}


def test_a_difference_is_shown_by_its_sign_and_none_among_equals():
    far, near = (arm(50, 1), arm(40, 1)), (arm(41, 1), arm(40, 1))
    at_chance = arm(10, 0), arm(10, 0)
    assert differences([far, far[::-1], near, at_chance], 3) == [1, -1, 0, 0]


def test_the_more_comparisons_the_surer_each_has_to_be():
    pair = arm(44, 1), arm(40, 1)
    assert differences([pair], 3) == [1]
    assert differences([pair] + [(arm(40, 1), arm(40, 1))] * 7, 3) == [0] * 8


@pytest.mark.parametrize("comparisons", [1, 8])
@pytest.mark.parametrize("deviations", [(1, 1), (0.2, 3)])
def test_points_from_which_a_difference_is_shown_are_those_that_show_it(deviations, comparisons):
    one, other = (arm(0, deviation) for deviation in deviations)
    points = within((one, other), 3, comparisons)
    equals = [(arm(0, 1), arm(0, 1))] * (comparisons - 1)
    for times, shown in ((1.01, 1), (0.99, 0)):
        pair = arm(times * points, deviations[0]), other
        assert differences([pair, *equals], 3)[0] == shown


@pytest.fixture
def changed(monkeypatch, tmp_path):
    """Puts another table in the place of one."""
    for path in told.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(told, "RESULTS", tmp_path)

    def change(name: str, of_row) -> None:
        content = json.loads((tmp_path / f"{name}.json").read_text())
        content["rows"] = [row | of_row(row) for row in content["rows"]]
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("builds", "verdict"),
    [
        ("+0.1, -0.2, +0.3", "less than claimed, on a CPU"),
        ("+9.4, +9.6, +9.5", "reproduced at this size"),
        ("-25.0, +5.0, +25.0, +20.0", "not decided"),
        ("+30.0, +30.1, +30.2", "not decided"),
    ],
)
def test_the_cost_of_heads_is_judged_by_the_network_of_the_claim(changed, builds, verdict):
    def of_claim(row):
        return {EACH: builds} if row["network"] == "short_bp_resnet20" else {}

    changed("heads", of_claim)
    if verdict != "less than claimed, on a CPU":  # as it was before
        assert cost().verdict == "not decided"
    changed("heads_before", of_claim)
    assert cost().verdict == verdict


def test_the_interval_of_the_heads_cost_is_as_wide_as_builds_differ(changed):
    changed("heads", lambda row: {EACH: "+3.0, +13.0"})
    assert "+8.0 % (95 % interval -1.2 to +17.2, 4 builds)" in cost().text


def test_heads_that_make_every_depth_worse_are_said_to(changed):
    def worse(row):
        return {"accuracy, %": 10.0 if "evolutionary" in row["arm"] else 50.0, "deviation": 1.0}

    for name in ("depth", *DEPTH_BEFORE):
        changed(name, worse)
    claim = depth()
    assert claim.verdict == "not reproduced at this size"
    assert claim.in_short.startswith("worse with heads at 18, 34, 50, 101 and 152 layers; at 34 ")


def test_no_page_calls_runs_the_same_that_came_out_otherwise(changed):
    changed("depth", lambda row: {"of each seed": "50.0, 50.0, 50.0"})
    with pytest.raises(
        ValueError, match=r"got .* in depth\.json, 34 vanilla; .* in ablation_narrow"
    ):
        page()


def test_a_difference_in_either_network_stands_beside_its_verdict(changed):
    def better(row):
        return {"accuracy, %": 60.0 if "evolutionary" in row["arm"] else 50.0, "deviation": 1.0}

    assert membrane().verdict == "no difference shown for these blocks"
    changed("membrane", better)
    claim = membrane()
    assert claim.verdict == "no difference shown for these blocks"
    assert "+10.0 (+7.7 to +12.3), not shown, for spikes added (SEW)" in claim.in_short
    changed("membrane_before", better)
    claim = membrane()
    assert claim.verdict == "a difference is shown"
    assert "+10.0 (+7.7 to +12.3), better, for spikes added (SEW)" in claim.in_short


def test_what_a_release_or_its_twin_alone_has_to_say_is_said_of_that_one(changed):
    changed("twins", lambda row: {NOTES: "Warmed up.", TWIN_NOTES: "Rounded once."})
    text = twins().text
    assert " Of short_bp_resnet20_slim.cifar10 alone: Warmed up." in text
    assert " Of the twin of short_bp_resnet20_slim.cifar10 alone: Rounded once." in text


def test_a_pair_whose_release_was_replaced_stands_as_such_and_the_new_one_without_a_twin(changed):
    changed("twins", lambda row: {WEIGHTS: "another"})
    text = twins().text
    assert "| short_bp_resnet20_slim.cifar10 (weights since replaced) | 84.81 % |" in text
    assert "No twin of today's short_bp_resnet20_slim.cifar10 was trained yet." in text
