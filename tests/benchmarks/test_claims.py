"""Verdicts follow their rules when the tables change."""

import json

import claims
import measure
import pytest
from differences import differences, margin


def arm(accuracy: float, deviation: float) -> dict[str, float]:
    return {"accuracy, %": accuracy, "deviation": deviation}


def test_a_difference_has_a_sign_and_equal_arms_show_none():
    far, near = (arm(50, 1), arm(40, 1)), (arm(41, 1), arm(40, 1))
    at_chance = arm(10, 0), arm(10, 0)
    assert differences([far, far[::-1], near, at_chance], 3) == [1, -1, 0, 0]


def test_more_comparisons_need_a_smaller_p():
    pair = arm(44, 1), arm(40, 1)
    assert differences([pair], 3) == [1]
    assert differences([pair] + [(arm(40, 1), arm(40, 1))] * 7, 3) == [0] * 8


@pytest.mark.parametrize(("comparisons", "deviations"), [(1, (0.2, 3)), (8, (1, 1))])
def test_a_difference_counts_from_the_margin_on(deviations, comparisons):
    one, other = (arm(0, deviation) for deviation in deviations)
    points = margin((one, other), 3, comparisons)
    equals = [(arm(0, 1), arm(0, 1))] * (comparisons - 1)
    for times, shown in ((1.01, 1), (0.99, 0)):
        pair = arm(times * points, deviations[0]), other
        assert differences([pair, *equals], 3)[0] == shown


@pytest.fixture
def change(monkeypatch, tmp_path):
    """Change the rows of some measurements of a table, for this test."""
    for path in measure.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(measure, "RESULTS", tmp_path)

    def change(name, of_row, measured=("latest", "before", "second", "first")):
        content = measure.read(name)
        for measurement in content.get("measurements", [content]):
            if measurement.get("measured", "latest") in measured:
                measurement["rows"] = [row | of_row(row) for row in measurement["rows"]]
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
def test_the_cost_of_heads_is_judged_by_the_claims_network(change, builds, verdict):
    def of_claim(row):
        return {"of each build, %": builds} if row["network"] == "short_bp_resnet20" else {}

    change("heads", of_claim)
    assert claims.cost().verdict == verdict


def test_the_cost_is_not_decided_if_measurements_disagree(change):
    change("heads", lambda row: {"of each build, %": "+9.4, +9.6, +9.5"}, measured=("latest",))
    assert claims.cost().verdict == "not decided"


def test_heads_can_make_every_depth_worse(change):
    def worse(row):
        return {"accuracy, %": 10.0 if "evolutionary" in row["arm"] else 50.0, "deviation": 1.0}

    change("depth", worse)
    claim = claims.depth()
    assert claim.verdict == "not reproduced at this size"
    assert claim.measured.endswith("worse at 18, 34, 50, 101 and 152 layers")


def test_a_difference_counts_if_every_measurement_shows_it(change):
    def better(row):
        return {"accuracy, %": 60.0 if "evolutionary" in row["arm"] else 50.0, "deviation": 1.0}

    change("membrane", better, measured=("before",))
    assert claims.membrane().verdict == "no difference shown for these blocks"
    change("membrane", better)
    assert claims.membrane().verdict == "a difference is shown"


def test_a_baseline_of_replaced_weights_is_marked(change):
    change("twins", lambda row: {"sha256 of the release": "another"})
    claim = claims.twins()
    assert "| short_bp_resnet20_slim.cifar10 (weights since replaced) | 84.81 |" in claim.details
    assert "No baseline of today's short_bp_resnet20_slim.cifar10 yet." in claim.limits


def test_claims_that_share_runs_have_the_same_accuracies():
    def seeds(name, networks, arm):
        found = claims.measurements(name, networks)[0]["rows"]
        return next(row["of each seed"] for row in found if row["arm"] == arm)

    for loss in ("vanilla", "evolutionary"):
        block = f"spike after the addition, {loss}"
        narrow = seeds("ablation", claims.NARROW, loss)
        assert narrow == seeds("membrane", claims.NARROW, block)
        assert narrow.startswith(seeds("depth", None, f"34 {loss}"))
        slim = seeds("ablation", claims.SLIM, loss)
        assert slim == seeds("membrane", claims.RESNET_20, block)
