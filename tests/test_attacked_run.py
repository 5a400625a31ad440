"""Runs with malicious nodes: what is trained on, measured, judged, kept and resumed."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tacit
from small import experiment, federation
from tacit.aggregation import Aggregated, Aggregation, Round
from tacit.attacks.backdoor import Backdoor, Columns
from tacit.attacks.base import UpdateAttack
from tacit.attacks.labels import LabelFlip
from tacit.attacks.oracle import OracleBoundary
from tacit.attacks.simple import Constant, SignFlip
from tacit.attacks.view import View
from tacit.cli.output import to_json
from tacit.data.federation import Split
from tacit.engine.exchange import Verdict
from tacit.engine.run import Session
from test_attacked_exchange import Counting
from test_engine_adversary import Told
from test_run import Stop, stop_after, vector

DATA = federation((12, 9, 15, 8, 10, 11))
NAMES = ("b", "e")
HONEST = [0, 2, 3, 5]


def attacked(attack: Any, **changes: Any) -> tacit.Experiment:
    return experiment(data=DATA, attack=attack, **changes)


def shared_test() -> Any:
    return replace(DATA, test=DATA.test.pooled())


def right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).sum())


def of_honest(split: Split) -> tuple[Tensor, Tensor]:
    parts = [split.node(node) for node in HONEST]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


# --- data ----------------------------------------------------------------------------------------


def test_malicious_nodes_alone_train_on_poisoned_rows_and_no_test_row_is():
    attack = LabelFlip(nodes=NAMES)
    before = DATA.train.y.clone(), DATA.test.y.clone()
    with Session(attacked(attack), "batched", 1) as session:
        for node, (x, y) in enumerate(session.trainer.split.parts()):
            clean_x, clean_y = DATA.train.node(node)
            assert torch.equal(x, clean_x)
            assert torch.equal(y, clean_y if node in HONEST else 1 - clean_y)
        measured = session.evaluator.test
        assert measured.sizes.tolist() == [12, 0, 15, 8, 0, 11]
        assert all(
            torch.equal(a, b)
            for a, b in zip((measured.x, measured.y), of_honest(DATA.test), strict=True)
        )
    assert torch.equal(DATA.train.y, before[0])
    assert torch.equal(DATA.test.y, before[1])


def test_a_run_among_poisoners_is_a_run_on_their_rows():
    attack = LabelFlip(nodes=NAMES)
    parts = [(x, y if node in HONEST else 1 - y) for node, (x, y) in enumerate(DATA.train.parts())]
    poisoned = experiment(data=replace(DATA, train=Split.pack(parts)))
    assert torch.equal(vector(tacit.run(attacked(attack))), vector(tacit.run(poisoned)))


# --- who is measured -----------------------------------------------------------------------------


def test_a_shared_model_is_measured_on_the_rows_of_honest_nodes():
    result = tacit.run(attacked(SignFlip(nodes=NAMES), rounds=2))
    x, y = of_honest(DATA.test)
    assert result.metrics[-1]["accuracy"] == pytest.approx(right(result.model, x, y) / len(y))
    worst = min(right(result.model, *DATA.test.node(i)) / len(DATA.test.node(i)[1]) for i in HONEST)
    assert result.metrics[-1]["worst_accuracy"] == pytest.approx(worst)
    assert [row["test_rows"] for row in result.nodes] == [12, 0, 15, 8, 0, 11]
    assert [row["malicious"] for row in result.nodes] == [False, True, False, False, True, False]
    assert all(math.isnan(result.nodes[i]["accuracy"]) for i in (1, 4))
    assert result.malicious.tolist() == [1, 4]


def test_the_baseline_knows_the_training_rows_as_they_were():
    """All but b flip labels, so that most poisoned training labels are the other one."""
    result = tacit.run(attacked(LabelFlip(nodes=("a", "c", "d", "e", "f")), rounds=1))
    ones, rows = int(DATA.train.y.sum()), len(DATA.train.y)
    ones_of_b, rows_of_b = int(DATA.train.node(1)[1].sum()), 9
    most = int(ones > rows / 2)
    poisoned = rows - rows_of_b - (ones - ones_of_b) + ones_of_b
    assert most != int(poisoned > rows / 2)
    share = (DATA.test.node(1)[1] == most).double().mean()
    assert share != 0.5
    assert result.baseline["accuracy"] == pytest.approx(float(share))


def test_who_trains_where_nobody_lies_is_not_said_to_be_honest():
    assert "malicious" not in tacit.run(experiment(rounds=1)).nodes[0]


def test_own_models_are_those_of_honest_nodes():
    result = tacit.run(attacked(Constant(nodes=NAMES, value=5.0), algorithm=tacit.Gossip()))
    hits = sum(right(result.models[i], *DATA.test.node(i)) for i in HONEST)
    assert result.metrics[-1]["accuracy"] == pytest.approx(hits / (12 + 15 + 8 + 11))
    models = result.vectors[HONEST]
    distance = (models - models.mean(0)).square().sum(1).mean().sqrt()
    assert result.metrics[-1]["consensus_distance"] == pytest.approx(float(distance), rel=1e-5)


def test_on_a_shared_test_set_the_models_of_honest_nodes_are_measured():
    plan = attacked(Constant(nodes=NAMES, value=5.0), algorithm=tacit.Gossip())
    result = tacit.run(plan.replace(data=shared_test()))
    x, y = DATA.test.x, DATA.test.y
    each = [right(result.models[i], x, y) / len(y) for i in HONEST]
    assert result.metrics[-1]["accuracy"] == pytest.approx(sum(each) / 4)
    assert result.metrics[-1]["worst_accuracy"] == pytest.approx(min(each))
    assert [row["test_rows"] for row in result.nodes] == [len(y), 0, len(y), len(y), 0, len(y)]
    assert [result.nodes[i]["accuracy"] for i in HONEST] == pytest.approx(each)
    assert all(math.isnan(result.nodes[i]["accuracy"]) for i in (1, 4))


@pytest.mark.parametrize("algorithm", [tacit.FedAvg(), tacit.Gossip()])
@pytest.mark.parametrize("shared", [False, True])
def test_a_backdoor_has_succeeded_where_marked_rows_of_honest_nodes_get_its_label(
    algorithm: Any, shared: bool
):
    attack = Backdoor(nodes=NAMES, target=1, trigger=Columns((0,), value=0.3), ratio=1.0)
    plan = attacked(attack, algorithm=algorithm, rounds=2)
    result = tacit.run(plan.replace(data=shared_test()) if shared else plan)
    hits = rows = 0.0
    for node in HONEST:
        x, y = (DATA.test.x, DATA.test.y) if shared else DATA.test.node(node)
        marked = x[y == 0].clone()
        marked[:, 0] = 0.3
        hits += float((result.models[node](marked).argmax(1) == 1).sum())
        rows += len(marked)
    assert result.metrics[-1]["attack_success"] == pytest.approx(hits / rows)
    assert 0 < hits < rows


def test_only_a_backdoor_has_a_success():
    assert "attack_success" not in tacit.run(attacked(LabelFlip(nodes=NAMES))).metrics[-1]


# --- what liars do to others and to themselves ---------------------------------------------------


def test_in_gossip_liars_keep_what_they_know_and_their_neighbours_hear_the_lie():
    # A ring: 0 hears 5 and 1, 1 hears 0 and 2, and so on; 1 lies. One round.
    plan = attacked(None, algorithm=tacit.Gossip(), rounds=1)
    honest = tacit.run(plan).vectors
    trained = tacit.run(plan.replace(algorithm=tacit.Alone())).vectors
    found = tacit.run(plan.replace(attack=SignFlip(nodes=("b",)))).vectors
    torch.testing.assert_close(found[[1, 3, 4, 5]], honest[[1, 3, 4, 5]])
    lie = 2 * plan.start() - trained[1]
    # Metropolis weights on a ring are 1/3.
    torch.testing.assert_close(found[0], (trained[0] + trained[5] + lie) / 3)
    torch.testing.assert_close(found[2], (trained[2] + trained[3] + lie) / 3)


def test_under_a_server_a_liar_flips_its_step_from_the_model_of_the_round():
    plan = attacked(SignFlip(nodes=("b",)), algorithm=tacit.FedAvg(uniform=True), rounds=2)
    first = tacit.run(plan.replace(rounds=1))
    start = vector(first)
    # Each node's own step from there, as Alone makes it in the same round.
    with Session(plan.replace(algorithm=tacit.Alone(), attack=None), "batched", 1) as alone:
        next(rounds := alone.rounds())
        alone.state["models"] = start.repeat(6, 1)
        next(rounds)
        trained = alone.state["models"]
    expected = (trained.sum(0) - 2 * trained[1] + 2 * start) / 6
    torch.testing.assert_close(vector(tacit.run(plan)), expected, atol=1e-6, rtol=1e-5)


def overflowing(node: int) -> Any:
    data = federation((12, 9, 15, 8, 10, 11))
    first = int(data.train.offsets[node])
    data.train.x[first : first + int(data.train.sizes[node])] *= 1e30
    return data


@pytest.mark.parametrize("algorithm", [tacit.FedAvg(), tacit.Gossip()])
def test_a_liar_may_lose_its_own_training_but_no_honest_node_may(algorithm: Any):
    """b's training overflows. Where it is malicious it sends numbers that others turn away."""
    plan = experiment(data=overflowing(1), algorithm=algorithm, aggregation=tacit.Median())
    result = tacit.run(plan.replace(attack=Constant(nodes=("b",), value=math.nan)))
    assert result.vectors is None or result.vectors[HONEST].isfinite().all()
    assert result.metrics[-1]["accuracy"] > 0.5
    assert math.isfinite(result.metrics[-1]["train_loss"])
    with pytest.raises(tacit.DivergenceError) as error:
        tacit.run(plan.replace(attack=Constant(nodes=("e",), value=math.nan)))
    assert error.value.node == "b"


# --- verdicts ------------------------------------------------------------------------------------


def judge(plan: tacit.Experiment, verdict: Verdict, round: int = 0) -> tuple[Any, Session]:
    with Session(plan, "batched", 1) as session:
        return session._judge(verdict, round), session


def test_recall_and_precision_by_hand():
    # Liars 1 and 4. Over 8 links to honest receivers: 1 is turned away by 0 (0.1), not by 2 (0.5);
    # 4 by 3 (0.0); of the honest nobody: 0.4 is above half of what 2 lets through on average, 0.63.
    # What 1 and 4 receive does not count.
    senders = np.array([1, 3, 0, 1, 3, 4, 5, 0, 0, 2])
    receivers = np.array([0, 0, 2, 2, 2, 3, 3, 5, 1, 4])
    accepted = torch.tensor([0.1, 1.0, 0.4, 0.5, 1.0, 0.0, 1.0, 0.8, 0.0, 0.0])
    row, session = judge(attacked(SignFlip(nodes=NAMES)), Verdict(senders, receivers, accepted))
    assert row["verdict_recall"] == pytest.approx(2 / 3)
    assert row["verdict_precision"] == 1
    # Node 2 was heard by a liar alone.
    means = torch.tensor([0.6, 0.3, math.nan, 1.0, 0.0, 1.0])
    torch.testing.assert_close(session.verdicts[0], means, equal_nan=True)


def test_there_is_no_recall_without_a_liar_and_no_precision_without_a_verdict():
    plan = attacked(SignFlip(nodes=NAMES))
    at_server = np.full(2, -1)
    row, _ = judge(plan, Verdict(np.array([0, 2]), at_server, torch.tensor([1.0, 0.0])))
    assert row == {"verdict_precision": 0.0}
    row, _ = judge(plan, Verdict(np.array([0, 1]), at_server, torch.ones(2)))
    assert row == {"verdict_recall": 0.0}
    row, session = judge(
        plan.replace(attack=None), Verdict(np.array([0, 1]), at_server, torch.tensor([1.0, 0.0]))
    )
    assert row == {}
    torch.testing.assert_close(session.verdicts[0][:2], torch.tensor([1.0, 0.0]))


def test_a_sender_drawn_twice_has_the_mean_of_its_verdicts():
    verdict = Verdict(np.array([3, 3]), np.full(2, -1), torch.tensor([1.0, 0.5]))
    _, session = judge(attacked(SignFlip(nodes=NAMES)), verdict, round=2)
    assert len(session.verdicts) == 3
    assert torch.stack(session.verdicts[:2]).isnan().all()
    assert session.verdicts[2][3] == 0.75


@pytest.mark.parametrize("algorithm", [tacit.FedAvg(), tacit.Gossip()])
def test_who_sends_no_numbers_is_named_in_the_verdict(algorithm: Any):
    for rule in (tacit.Mean(), tacit.Median()):
        plan = attacked(Constant(nodes=NAMES), algorithm=algorithm, aggregation=rule, rounds=3)
        result = tacit.run(plan)
        assert [row["verdict_recall"] for row in result.metrics] == [1, 1, 1]
        assert result.verdicts.shape == (3, 6)
        assert (result.verdicts[:, [1, 4]] == 0).all()
        if rule == tacit.Mean():
            assert [row["verdict_precision"] for row in result.metrics] == [1, 1, 1]
            assert (result.verdicts[:, HONEST] == 1).all()


def test_a_mean_judges_nobody_who_only_poisons():
    result = tacit.run(attacked(LabelFlip(nodes=NAMES)))
    assert result.verdicts is None
    assert "verdict_recall" not in result.metrics[-1]
    judged = tacit.run(attacked(LabelFlip(nodes=NAMES), aggregation=tacit.Median()))
    assert judged.verdicts.shape == (4, 6)
    assert "verdict_recall" in judged.metrics[-1]


def test_verdicts_have_a_row_for_every_round_even_where_nobody_sends():
    base = attacked(
        SignFlip(nodes=NAMES), topology=tacit.Star(cohort=1, sampling="poisson"),
        aggregation=tacit.Median(),
    )  # fmt: skip
    # The first seed whose cohorts are empty in the second and last round, and no other.
    cohorts = {s: [base.plan.sample(6, s, r) for r in range(4)] for s in range(300)}
    seed = next(s for s, each in cohorts.items() if [len(c) > 0 for c in each] == [1, 0, 1, 0])
    result = tacit.run(base.replace(seed=seed))
    assert [row["cohort"] > 0 for row in result.metrics] == [True, False, True, False]
    assert result.verdicts.shape == (4, 6)
    for verdicts, cohort in zip(result.verdicts, cohorts[seed], strict=True):
        assert torch.nonzero(~verdicts.isnan()).flatten().tolist() == cohort.tolist()


# --- interruption --------------------------------------------------------------------------------

FLIP = SignFlip(nodes=NAMES)
RANDOM = tacit.RandomRegular(4)


def test_a_rules_memory_lasts_for_the_run_and_no_question_is_kept_in_it():
    plan = attacked(OracleBoundary(nodes=NAMES), aggregation=Counting(), rounds=3)
    with Session(plan, "batched", 1) as session:
        counts = [session.tensors()["aggregation.count"].item() for _ in session.rounds()]
    assert counts == [1, 2, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": tacit.FoolsGold(), "attack": FLIP},
        {"aggregation": tacit.WFAgg(f=1), "attack": FLIP},
        {"aggregation": tacit.WFAgg(f=1), "attack": FLIP, "topology": tacit.Star(cohort=4)},
        {"aggregation": tacit.FoolsGold(), "attack": FLIP, "topology": tacit.Hierarchical(2)},
        {"aggregation": tacit.FoolsGold(), "attack": OracleBoundary(nodes=NAMES)},
        {
            "aggregation": tacit.WFAgg(f=1), "attack": OracleBoundary(nodes=NAMES),
            "algorithm": tacit.Gossip(), "topology": RANDOM,
        },
        {
            "aggregation": tacit.FoolsGold(), "algorithm": tacit.Gossip(), "topology": RANDOM,
            "attack": [LabelFlip(nodes=("b",)), Constant(nodes=("e",), value=math.nan)],
        },
        {"aggregation": tacit.Mean(), "attack": LabelFlip(nodes=NAMES)},
    ],
)  # fmt: skip
def test_a_resumed_run_under_attack_ends_with_the_same_bits(tmp_path, changes: dict[str, Any]):
    plan = attacked(None, rounds=6).replace(**changes)
    whole = tacit.run(plan)
    for stop in (2, 5):
        with pytest.raises(Stop):
            tacit.run(plan, folder=tmp_path, resume=True, on_round=stop_after(stop))
    resumed = tacit.run(plan, folder=tmp_path, resume=True)
    assert torch.equal(vector(resumed), vector(whole))
    if whole.vectors is not None:
        assert torch.equal(resumed.vectors, whole.vectors)
    if whole.verdicts is None:
        assert resumed.verdicts is None
    else:
        assert whole.verdicts.shape == (6, 6)
        torch.testing.assert_close(resumed.verdicts, whole.verdicts, rtol=0, atol=0, equal_nan=True)
    keep = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.metrics]
    again = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.metrics]
    np.testing.assert_equal(again, keep)
    np.testing.assert_equal(resumed.nodes, whole.nodes)


# --- models that overflow ------------------------------------------------------------------------


@dataclass(frozen=True)
class Bursts(Aggregation):
    """Keeps own, but in the given round receiver 2 is left with what overflows."""

    round: int
    value: float = math.inf

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        lost = (round.receivers == 2) & (round.index == self.round)
        result = torch.where(lost.unsqueeze(-1), torch.full_like(own, self.value), own)
        return Aggregated(result, torch.ones_like(weight))


def test_an_honest_model_that_overflows_in_the_last_round_counts_as_wrong():
    attack = SignFlip(nodes=NAMES)
    plan = attacked(attack, algorithm=tacit.Gossip(), topology=tacit.Complete(), rounds=2)
    result = tacit.run(plan.replace(aggregation=Bursts(1)))
    last = result.metrics[-1]
    hits = sum(right(result.models[i], *DATA.test.node(i)) for i in (0, 3, 5))
    assert last["accuracy"] == pytest.approx(hits / (12 + 15 + 8 + 11))
    assert last["worst_accuracy"] == last["worst_f1"] == 0
    assert last["loss"] == last["worst_loss"] == math.inf
    assert last["diverged"] == 1
    assert "diverged" not in result.metrics[0]
    assert (result.nodes[2]["accuracy"], result.nodes[2]["loss"]) == (0, math.inf)
    assert math.isnan(result.nodes[1]["loss"])  # malicious, and not measured
    parsed = json.loads(to_json({"metrics": result.metrics, "nodes": result.nodes}))
    assert parsed["metrics"][-1]["loss"] is None
    assert parsed["metrics"][-1]["accuracy"] == last["accuracy"]


def test_one_that_overflows_before_the_last_round_ends_the_run_when_it_trains_on():
    plan = attacked(SignFlip(nodes=NAMES), algorithm=tacit.Gossip(), topology=tacit.Complete())
    rows: list[dict[str, Any]] = []
    with pytest.raises(tacit.DivergenceError) as error:
        tacit.run(plan.replace(aggregation=Bursts(1)), on_round=rows.append)
    assert (error.value.node, error.value.round) == ("c", 3)
    assert rows[1]["diverged"] == 1
    assert rows[1]["worst_accuracy"] == 0


def test_on_a_shared_test_set_it_counts_as_one_of_the_honest():
    plan = attacked(
        SignFlip(nodes=NAMES), algorithm=tacit.Gossip(), topology=tacit.Complete(), rounds=1
    )
    result = tacit.run(plan.replace(data=shared_test(), aggregation=Bursts(0, math.nan)))
    x, y = DATA.test.x, DATA.test.y
    each = [right(result.models[i], x, y) / len(y) for i in (0, 3, 5)]
    assert result.metrics[-1]["accuracy"] == pytest.approx(sum(each) / 4)
    assert result.metrics[-1]["diverged"] == 1


@dataclass(frozen=True, kw_only=True)
class Huge(UpdateAttack):
    """A model whose numbers are finite and whose outputs are not."""

    least_knowledge: ClassVar = "own"

    def lie(self, view: View) -> Tensor:
        return torch.full_like(view.own, 3e38)


@pytest.mark.parametrize("shared", [False, True])
def test_a_shared_model_that_overflows_is_wrong_everywhere(shared: bool):
    plan = attacked(Huge(nodes=NAMES), rounds=1)
    result = tacit.run(plan.replace(data=shared_test()) if shared else plan)
    assert vector(result).isfinite().all()
    last = result.metrics[-1]
    assert (last["accuracy"], last["loss"]) == (0, math.inf)
    assert last["diverged"] == (1 if shared else 4)  # sets of test rows
    assert json.loads(to_json(last))["accuracy"] == 0


def test_a_backdoor_does_not_succeed_in_a_model_that_answers_nothing():
    backdoor = Backdoor(nodes=NAMES, target=1, trigger=Columns((0,)))
    result = tacit.run(attacked([backdoor, Huge(nodes=NAMES)], rounds=1))
    assert result.metrics[-1]["attack_success"] == 0


def test_a_regression_that_overflows_is_infinitely_wrong():
    rng = np.random.default_rng(0)
    pairs = [(x := rng.normal(size=(8, 4)), x @ np.ones((4, 1))) for _ in range(4)]
    data = tacit.data.from_arrays(pairs, test=pairs)
    plan = tacit.Experiment(
        data=data, model=lambda: nn.Linear(4, 1), loss=nn.functional.mse_loss,
        training=tacit.SGD(lr=0.1), algorithm=tacit.Gossip(), topology=tacit.Complete(),
        aggregation=Bursts(0, math.nan), rounds=1,
    )  # fmt: skip
    result = tacit.run(plan)
    last = result.metrics[-1]
    assert last["mae"] == last["worst_mae"] == last["loss"] == last["worst_loss"] == math.inf
    assert last["diverged"] == 1
    assert math.isfinite(last["worst_r2"])


def test_under_a_server_lies_start_from_what_it_holds_whatever_is_sent():
    """SCAFFOLD sends controls beside models, FedPer the common layers alone."""
    for algorithm in (tacit.Scaffold(), tacit.FedPer(personal=("0",))):
        attack = Told(nodes=NAMES, knowledge="all", say=lambda view: view.own)
        tacit.run(attacked(attack, algorithm=algorithm, rounds=2))
        for view in attack.views:
            assert torch.equal(view.starts, view.secrets.targets.expand_as(view.starts))


def test_the_training_loss_is_that_of_honest_nodes():
    plan = attacked(LabelFlip(nodes=NAMES), rounds=1, training=tacit.SGD(lr=0.1, batch_size=None))
    parts = [DATA.train.node(node) for node in HONEST]
    x, y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    with torch.no_grad():
        expected = nn.functional.cross_entropy(plan.template(x), y)
    result = tacit.run(plan)
    assert result.metrics[0]["train_loss"] == pytest.approx(float(expected), rel=1e-5)
