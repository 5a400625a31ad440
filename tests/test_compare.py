"""Comparisons, and what their verdict says about numbers made up for it."""

import dataclasses
import math

import numpy as np
import pytest
from torch import nn

import tacit
from tacit.aggregation import Mean
from tacit.algorithms import PushSum
from tacit.compare import Comparison, compare, main_metric, variants
from tacit.engine.run import Result
from tacit.topology import DirectedRing, Ring, Star
from tacit.verdict import noise

NAMES = ("a", "b", "c")
WAYS = ("alone", "federated", "gossip", "pooled")


def experiment(
    *, shared: bool = False, task: str = "classification", **changes: object
) -> tacit.Experiment:
    draw = np.random.default_rng(1)

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = draw.normal(size=(count, 2))
        return x, x[:, :1] * 2 + 1 if task == "regression" else (x[:, 0] > 0).astype(np.int64)

    test = rows(9) if shared else [rows(8) for _ in NAMES]
    data = tacit.data.from_arrays([rows(12) for _ in NAMES], test=test, names=NAMES)
    loss = nn.functional.mse_loss if task == "regression" else nn.functional.cross_entropy
    fields = {
        "data": data,
        "model": lambda: nn.Linear(2, 1 if task == "regression" else 2),
        "loss": loss,
        "training": tacit.SGD(lr=0.1, batch_size=4),
        "rounds": 2,
    }
    return tacit.Experiment(**(fields | changes))


@pytest.fixture(scope="module")
def real() -> Comparison:
    return compare(experiment())


def made_up(
    real: Comparison,
    values: dict[str, list[float]],
    test_rows: int = 100,
    auc: bool = True,
    together: str = "federated",
    **pooled: float,
) -> Comparison:
    """A comparison in which node i has ``values[way][i]`` as AUC (or accuracy alone)."""
    results = {}
    for way in WAYS:
        nodes = []
        for name, value in zip(NAMES, values[way], strict=True):
            scores = {"accuracy": value, "auc": value if auc else math.nan}
            base = {"baseline_accuracy": 0.6, "baseline_auc": 0.5}
            nodes.append({"node": name, "rows": 50, "test_rows": test_rows} | scores | base)
        last = real.results[way].metrics[-1] | {"accuracy": pooled.get(way, 0.8)}
        metrics = type(real.results[way].metrics)([last])
        results[way] = dataclasses.replace(
            real.results[way], nodes=nodes, metrics=metrics, baseline={"accuracy": 0.6, "auc": 0.5}
        )
    return Comparison(results, together)


def test_four_ways_with_what_is_needed_changed() -> None:
    plan = experiment(topology=Star(cohort=2))
    found = variants(plan)
    assert tuple(found) == WAYS
    assert found["federated"] is plan
    assert found["gossip"].algorithm == tacit.Gossip()
    assert found["gossip"].plan == Ring()
    for name in ("alone", "pooled"):
        assert found[name].topology is None
        assert found[name].training == plan.training
        assert found[name].seed == plan.seed


def test_own_algorithm_without_a_server_stays() -> None:
    plan = experiment(algorithm=PushSum(), topology=DirectedRing())
    found = variants(plan)
    assert found["gossip"] is plan
    assert found["federated"].algorithm == tacit.FedAvg()
    assert found["federated"].plan == Star()
    assert found["federated"].aggregation == Mean()
    assert compare(plan).together == "gossip"


def test_alone_is_a_run_of_alone(real: Comparison) -> None:
    direct = tacit.run(experiment(algorithm=tacit.Alone()))
    keep = lambda row: {k: v for k, v in row.items() if k != "seconds"}  # noqa: E731
    assert list(map(keep, real.results["alone"].metrics)) == list(map(keep, direct.metrics))
    assert real.results["alone"].nodes == direct.nodes


def test_every_round_of_every_way_is_reported() -> None:
    seen: list[tuple[str, int]] = []
    compare(experiment(), on_round=lambda name, row: seen.append((name, row["round"])))
    assert seen == [(way, round) for way in WAYS for round in (1, 2)]


def test_table_and_node_rows(real: Comparison) -> None:
    rows = {row["name"]: row for row in real.table()}
    assert tuple(rows) == WAYS
    assert rows["alone"]["bytes"] == 0
    # 3 nodes up and down, 2 rounds, 2 * 2 + 2 numbers of 4 bytes: 3 * 2 * 2 * 24; on a ring of 3
    # each node has two neighbours: 6 links * 2 * 24. Pooled: 36 rows of 2 float32 and an int64.
    assert rows["federated"]["bytes"] == 288
    assert rows["gossip"]["bytes"] == 288
    assert rows["pooled"]["bytes"] == 576
    node = real.nodes()[0]
    assert node["node"] == "a"
    assert node["rows"] == 12
    assert node["gain"] == pytest.approx(node["federated"] - node["alone"])


def test_mean_worst_and_spread_are_over_nodes(real: Comparison) -> None:
    values = {way: [0.5, 0.7, 0.9] for way in WAYS}
    row = made_up(real, values).table()[0]
    # Mean 0.7; deviations -0.2, 0, 0.2: sqrt(0.08 / 3) = 0.1633.
    assert row["mean"] == pytest.approx(0.7)
    assert (row["worst"], row["worst_node"]) == (0.5, "a")
    assert row["spread"] == pytest.approx(0.1633, abs=1e-4)


@pytest.mark.parametrize(
    ("alone", "together", "starts"),
    [
        ([0.7, 0.7, 0.7], [0.9, 0.9, 0.9], "Learning together helped: "),
        ([0.7, 0.7, 0.9], [0.95, 0.95, 0.8], "Learning together helped on the whole, but not"),
        ([0.9, 0.9, 0.9], [0.7, 0.7, 0.7], "Learning together hurt: "),
        ([0.9, 0.9, 0.7], [0.7, 0.7, 0.9], "Learning together hurt on the whole, but not"),
        ([0.8, 0.8, 0.8], [0.81, 0.79, 0.8], "Learning together made no difference"),
        ([0.8, 0.8, 0.8], [0.86, 0.8, 0.8], "Learning together helped 1 of 3 nodes and hurt none"),
        ([0.8, 0.8, 0.8], [0.74, 0.8, 0.8], "Learning together hurt 1 of 3 nodes and helped none"),
        ([0.8, 0.8, 0.8], [0.9, 0.7, 0.8], "Learning together helped some nodes and hurt others"),
    ],
)
def test_verdict_says_whether_it_helped(
    real: Comparison, alone: list[float], together: list[float], starts: str
) -> None:
    # One standard error at a mean of 0.8 is sqrt(0.8 * 0.2 / 300) = 0.023 over three nodes of 100
    # rows, and 0.04 at one of them: a gain of 0.06 at one node is 0.02 in the mean.
    values = {"alone": alone, "federated": together, "gossip": alone, "pooled": together}
    assert made_up(real, values).verdict()[0].startswith(starts)


def test_verdict_names_who_gained_and_who_lost(real: Comparison) -> None:
    values = {way: [0.8, 0.8, 0.8] for way in WAYS} | {"federated": [0.9, 0.7, 0.81]}
    whom = made_up(real, values).verdict()[1]
    assert "1 gained" in whom
    assert "(a: +0.100)" in whom
    assert "(b: -0.100)" in whom
    assert "for 1 the difference is too small" in whom


def test_verdict_of_gossip_is_about_gossip(real: Comparison) -> None:
    values = {way: [0.6, 0.6, 0.6] for way in WAYS} | {"gossip": [0.9, 0.9, 0.9]}
    says = made_up(real, values, together="gossip").verdict()
    assert "0.900 without a server" in says[0]
    assert any("With a server (FedAvg, Star) the nodes' mean AUC is 0.600" in s for s in says)


def test_verdict_on_pooling(real: Comparison) -> None:
    def sentence(alone: float, together: float, pooled: float) -> str:
        values = {"alone": [alone] * 3, "federated": [together] * 3, "pooled": [pooled] * 3}
        says = made_up(real, values | {"gossip": [alone] * 3}).verdict()
        return next(s for s in says if s.startswith("Pooling all rows"))

    # Half of the way from 0.5 to 0.9 is 0.7.
    assert "50% of the way" in sentence(0.5, 0.7, 0.9)
    assert "as good" in sentence(0.5, 0.88, 0.9)
    assert "less than learning together" in sentence(0.5, 0.9, 0.6)
    assert "0.400 above" in sentence(0.5, 0.5, 0.9)


def test_verdict_against_the_majority(real: Comparison) -> None:
    values = {way: [0.8, 0.8, 0.8] for way in WAYS}
    good = made_up(real, values, federated=0.9).verdict()[2]
    assert "right in 60.0% of the cases" in good
    assert "no better" not in good
    assert "no better than that guess" in made_up(real, values, federated=0.61).verdict()[2]


def test_one_class_at_some_nodes(real: Comparison) -> None:
    found = made_up(real, {way: [0.8, 0.8, 0.8] for way in WAYS})
    found.results["pooled"].nodes[1]["auc"] = math.nan
    rows = found.nodes()
    assert [row["metric"] for row in rows] == ["auc", "accuracy", "auc"]
    assert rows[1]["baseline"] == 0.6
    assert any("1 node (b) with a single class" in s for s in found.verdict())


def test_one_class_at_all_nodes_is_a_matter_of_accuracy(real: Comparison) -> None:
    found = made_up(real, {way: [0.8, 0.8, 0.8] for way in WAYS}, auc=False)
    assert found.metric == "accuracy"
    assert not any("single class" in s for s in found.verdict())


def test_node_without_test_rows(real: Comparison) -> None:
    found = made_up(real, {way: [0.8, math.nan, 0.8] for way in WAYS})
    for result in found.results.values():
        result.nodes[1]["test_rows"] = 0
    assert "Of 2 nodes" in found.verdict()[1]
    assert any("1 node without test rows (b)" in s for s in found.verdict())


def test_tiny_test_sets_are_told(real: Comparison) -> None:
    found = made_up(real, {way: [0.8, 0.8, 0.8] for way in WAYS}, test_rows=5)
    assert any("5 rows: there a difference below 0.2, one row" in s for s in found.verdict())
    # A difference of exactly one row of five, 0.2, is no gain; neither is rounding.
    values = {way: [0.2, 1.0, 0.8] for way in WAYS} | {"federated": [0.4, 0.8, 0.8]}
    assert "0 gained" in made_up(real, values, test_rows=5).verdict()[1]
    assert "0 lost" in made_up(real, values, test_rows=5).verdict()[1]


def test_noise_by_hand() -> None:
    assert noise("accuracy", 0.8, 100) == pytest.approx(0.04)  # sqrt(0.8 * 0.2 / 100)
    assert noise("auc", 1.0, 10) == pytest.approx(0.1)  # one row
    assert noise("r2", 0.25, 400) == pytest.approx(0.0375)  # 2 * 0.5 * 0.75 / 20
    assert noise("r2", -3.0, 50) == pytest.approx(0.02)
    assert math.isnan(noise("auc", math.nan, 10))
    assert math.isnan(noise("auc", 0.5, 0))


def test_regression_is_measured_by_r2_and_told_in_mae() -> None:
    found = compare(experiment(task="regression", rounds=5))
    assert found.metric == "r2"
    row = found.table()[1]
    assert {"mae", "r2"} < row.keys()
    assert "accuracy" not in row
    base = found.results["federated"].baseline["mae"]
    assert f"the mean target is off by {base:.3g} on average" in found.verdict()[2]


def test_shared_test_set_is_told() -> None:
    found = compare(experiment(shared=True))
    assert any("same 9 test rows" in s for s in found.verdict())
    assert [row["test_rows"] for row in found.nodes()] == [9, 9, 9]


def test_cohorts_are_told() -> None:
    says = compare(experiment(topology=Star(cohort=2))).verdict()
    assert any("trained 2 of 3 nodes" in s for s in says)


def test_main_metric_of_one_result(real: Comparison) -> None:
    result: Result = real.results["alone"]
    assert main_metric(result) == "auc"
