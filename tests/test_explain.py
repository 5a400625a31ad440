"""What an experiment discloses, against what its run sends."""

import json

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import tacit
from aggregation_cases import CASES
from tacit.aggregation import Balance
from tacit.aggregation.krum import Krum
from tacit.aggregation.sketch_guard import SketchGuard
from tacit.algorithms import LEARN, FedPer, Gossip, MoNNA, PushSum, Scaffold
from tacit.attacks.alie import ALIE
from tacit.attacks.labels import LabelFlip
from tacit.explain import explain, plan_name, readable
from tacit.topology import Custom, DirectedExponential, Epidemic, Hierarchical, Ring, Star

ROUNDS = 3


def experiment(nodes: int = 6, **changes: object) -> tacit.Experiment:
    """Nodes of five rows, two inputs, two classes; logistic regression, d = 2 * 2 + 2 = 6."""
    draw = np.random.default_rng(0)
    parts = [(draw.normal(size=(5, 2)), draw.integers(0, 2, 5)) for _ in range(nodes)]
    data = tacit.data.from_arrays(parts, test=(draw.normal(size=(8, 2)), np.arange(8) % 2))
    fields = {
        "data": data,
        "model": lambda: nn.Sequential(nn.Linear(2, 2)),
        "loss": nn.functional.cross_entropy,
        "training": tacit.SGD(lr=0.1, batch_size=5),
        "rounds": ROUNDS,
    }
    return tacit.Experiment(**(fields | changes))


def said(**changes: object) -> str:
    return " ".join(explain(experiment(**changes)).sentences)


PLANS = {
    "star": {},
    "cohort": {"topology": Star(cohort=2)},
    "with replacement": {"topology": Star(cohort=4, sampling="with-replacement")},
    "poisson": {"topology": Star(cohort=3, sampling="poisson")},
    "hierarchical": {"topology": Hierarchical(groups=2)},
    "hierarchical cohort": {"topology": Hierarchical(groups=3, cohort=2)},
    "scaffold": {"algorithm": Scaffold()},
    "ring": {"algorithm": tacit.Gossip()},
    "epidemic": {"algorithm": tacit.Gossip(), "topology": Epidemic(fanout=2)},
    "push-sum": {"algorithm": PushSum(), "topology": DirectedExponential()},
    "alone": {"algorithm": tacit.Alone()},
    "learn": {"algorithm": LEARN(), "topology": tacit.Complete(), "rounds": 6},
    "monna": {"algorithm": MoNNA(mixes=3), "topology": tacit.Complete()},
    "all sketches accepted": {
        "algorithm": LEARN(), "topology": tacit.Complete(), "rounds": 6,
        "aggregation": SketchGuard(gamma=1e9, buckets=3),
    },
}  # fmt: skip
ALGORITHMS = [
    tacit.FedAvg(), tacit.FedSGD(), tacit.FedDyn(), tacit.FedNova(),
    tacit.FedOpt(tacit.ServerAdam()), tacit.FedProx(), Scaffold(), tacit.Ditto(), tacit.FedBN(),
    FedPer(personal=("1",)), tacit.FedRep(personal=("1",)), tacit.FineTune(), tacit.Alone(),
    Gossip(), Gossip(mix="before"), PushSum(), MoNNA(mixes=2), LEARN(),
]  # fmt: skip
# What SketchGuard's nodes send depends on what they accept.
RULES = list(dict.fromkeys(case.rule for case in CASES if case.of != "SketchGuard"))


@pytest.mark.parametrize("name", PLANS)
def test_bytes_are_those_of_the_run(name: str) -> None:
    plan = experiment(**PLANS[name])
    disclosed = explain(plan)
    run = tacit.run(plan, engine="batched")
    assert disclosed.bytes == sum(row["bytes"] for row in run.metrics)
    by_round = sum(row.round_bytes for row in disclosed.rows) * plan.rounds
    assert by_round == pytest.approx(disclosed.bytes)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)
def test_bytes_of_every_algorithm_are_those_of_its_run(
    algorithm: tacit.algorithms.Algorithm,
) -> None:
    graph = {"topology": tacit.Complete()} if algorithm.exchanges == "peers" else {}
    model = lambda: nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))  # noqa: E731
    plan = experiment(algorithm=algorithm, model=model, **graph)
    assert explain(plan).bytes == sum(row["bytes"] for row in tacit.run(plan).metrics)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_bytes_under_every_rule_are_those_of_its_run(rule: tacit.aggregation.Aggregation) -> None:
    plan = experiment(16, aggregation=rule, algorithm=Gossip(), topology=tacit.Complete(), rounds=1)
    # 16 * 15 links, 6 numbers of 4 bytes.
    assert explain(plan).bytes == tacit.run(plan).metrics[0]["bytes"] == 240 * 24


def test_bytes_of_a_star_by_hand() -> None:
    # 6 nodes x 3 rounds x 6 numbers x 4 bytes = 432 up, and as many down.
    up, down = explain(experiment()).rows
    assert (up.sender, up.receiver, up.message_bytes, up.messages) == (
        "each node", "the server", 24, 18,
    )  # fmt: skip
    assert (up.bytes, down.bytes) == (432, 432)
    assert up.form == "in the clear"
    assert up.guarantee == "none"


def test_personal_layers_stay() -> None:
    model = lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))  # noqa: E731
    plan = experiment(model=model, algorithm=FedPer(personal=("1",)))
    disclosed = explain(plan)
    # The first layer alone travels: 2 * 3 + 3 = 9 numbers of 4 bytes.
    assert [row.message_bytes for row in disclosed.rows] == [36, 36]
    assert disclosed.bytes == sum(row["bytes"] for row in tacit.run(plan).metrics)
    never = next(s for s in disclosed.sentences if s.startswith("Never leaves"))
    assert "1.weight" in never
    assert "1.bias" in never
    assert "0.weight" not in never


def test_scaffold_tells_that_controls_travel() -> None:
    whats = [row.what for row in explain(experiment(algorithm=Scaffold())).rows]
    assert "its control (6 numbers)" in whats
    assert "the new control (6 numbers)" in whats


def test_star_names_the_server_and_its_attacks() -> None:
    words = said()
    assert "The server sees every update in the clear" in words
    assert "reconstruct training rows" in words
    assert "membership inference" in words
    assert "outsider" in words
    assert "one or two nodes" not in words
    assert "one or two nodes" in said(topology=Star(cohort=2))


def test_hierarchical_names_aggregators_and_single_nodes() -> None:
    words = said(topology=Hierarchical(groups=2))
    assert "A group's aggregator (2 of them)" in words
    assert "single node: there" not in words
    # Six groups of one node: an aggregate is that node's update.
    assert "single node: there" in said(topology=Hierarchical(groups=6))


def test_graph_names_neighbours_degrees_and_gap() -> None:
    path = Custom(nx.path_graph(6))
    words = said(algorithm=tacit.Gossip(), topology=path)
    # A path's ends have one neighbour, its 4 inner nodes two: (2 * 1 + 4 * 2) / 6 = 1.67.
    assert "1 to 2 (on average 1.67) of the 5 other nodes" in words
    assert "There is no server" in words
    assert "changes from round to round" not in words
    # A ring's Metropolis weights are 1/3 each: eigenvalues 1/3 + 2/3 cos(2 pi k / 6), the second
    # largest 2/3, and so the gap is 1/3.
    assert "spectral gap is 0.333 " in said(algorithm=tacit.Gossip(), topology=Ring())


def test_changing_graph_reaches_everybody() -> None:
    words = said(algorithm=tacit.Gossip(), topology=Epidemic(fanout=1))
    assert "up to 5 of the 5 other nodes" in words


def test_alone_sends_nothing_and_pooled_all_rows() -> None:
    alone = explain(experiment(algorithm=tacit.Alone()))
    assert alone.rows == ()
    assert "sends no message" in alone.sentences[0]
    pooled = explain(experiment(algorithm=tacit.Pooled()))
    # 6 nodes x 5 rows of two float32 inputs and one int64 label: 30 * (8 + 8) bytes.
    assert pooled.bytes == 480
    assert "every row of every node" in pooled.sentences[0]
    assert not any("Never leaves" in sentence for sentence in pooled.sentences)


def test_statistics_of_standardisation_are_told_for_numbers_alone() -> None:
    assert "sum of squares" in said()
    tokens = torch.arange(8).view(2, 4) % 3
    data = tacit.data.Federation(
        tacit.data.Split.pack([(tokens, tokens)] * 2),
        tacit.data.Split.pack([(tokens, tokens)]),
        ("a", "b"), "sequence", 3,
    )  # fmt: skip
    model = lambda: nn.Sequential(nn.Embedding(3, 3))  # noqa: E731
    words = said(data=data, model=model, loss=tacit.next_token)
    assert "sum of squares" not in words
    assert "its texts" in words


def test_the_mean_withstands_nobody() -> None:
    assert "Mean() withstands no liar" in said()
    assert "Aggregation" not in said(algorithm=tacit.Alone())
    assert "Aggregation" not in said(algorithm=tacit.Pooled())


def test_a_rule_is_told_for_the_fewest_vectors_that_a_receiver_gets() -> None:
    rule = Krum(f=1)
    gossip = {"aggregation": rule, "algorithm": tacit.Gossip()}
    for k, plan in (
        (6, {"aggregation": rule}),
        (5, {"aggregation": rule, "topology": Star(cohort=5)}),
        (5, gossip | {"topology": tacit.Complete()}),
        # The hub of a wheel hears 5 nodes, each node of its rim 3.
        (3, {**gossip, "aggregation": Balance(),
             "topology": Custom(nx.wheel_graph(6))}),
    ):  # fmt: skip
        words = explain(experiment(**plan)).sentences
        told = plan["aggregation"].tolerates(k)
        assert f"Aggregation: {plan['aggregation']} withstands {told}." in words


def test_liars_are_named_with_what_they_know() -> None:
    plan = experiment()
    names = plan.data.names
    plan = plan.replace(attack=ALIE(nodes=(names[1], names[4])))
    words = " ".join(explain(plan).sentences)
    assert f"In this experiment 2 of 6 nodes are malicious: {names[1]}, {names[4]}." in words
    assert "The attack is ALIE(" in words
    assert "each other's" in words
    assert "In this experiment" not in said()


def test_at_most_five_liars_are_listed_and_data_attacks_know_nothing() -> None:
    plan = experiment(nodes=12)
    names = plan.data.names
    words = " ".join(explain(plan.replace(attack=LabelFlip(nodes=names[:7]))).sentences)
    assert f"7 of 12 nodes are malicious: {', '.join(names[:5])} and 2 more." in words
    assert "The attack is LabelFlip(" in words
    assert "liars" not in words.split("The attack is")[1].split(".")[0]


def test_sketches_take_fewer_bytes() -> None:
    words = said(
        algorithm=tacit.Gossip(), topology=tacit.Complete(), aggregation=SketchGuard(buckets=3)
    )
    # 6 * 5 = 30 links: 30 * 3 numbers of 4 bytes, and 30 * 6 numbers more if all are accepted.
    assert "360 B where no model is accepted and 1.08 kB where all are" in words


def test_sketches_alone_are_sent_where_no_model_is_accepted() -> None:
    plan = experiment(
        algorithm=tacit.Gossip(),
        topology=tacit.Complete(),
        aggregation=SketchGuard(1e-9, buckets=3),
    )
    assert [row["bytes"] for row in tacit.run(plan).metrics] == [360] * ROUNDS
    model, sketch = explain(plan).rows
    assert (model.message_bytes, sketch.message_bytes) == (24, 12)


def test_refuses_a_plan_that_contradicts_itself() -> None:
    with pytest.raises(tacit.InputError, match="needs a server"):
        explain(experiment(topology=Ring()))


def test_text_and_dict_say_the_same() -> None:
    disclosed = explain(experiment())
    plain = json.loads(json.dumps(disclosed.to_dict()))
    assert plain["bytes"] == 864
    assert [row["bytes"] for row in plain["rows"]] == [432, 432]
    text = disclosed.to_text()
    for sentence in plain["sentences"]:
        assert sentence in text
    assert "each node -> the server: its model (6 numbers)" in text
    assert "No message is sent." in explain(experiment(algorithm=tacit.Alone())).to_text()


def test_names_leave_defaults_out() -> None:
    assert plan_name(experiment(topology=Star(cohort=2))) == "FedAvg, Star(cohort=2)"
    assert plan_name(experiment(algorithm=tacit.Pooled())) == "Pooled"


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (8456, "8.46 kB"), (999_700, "1 MB"), (2.5e12, "2.5 TB")],
)
def test_sizes_for_people(size: float, words: str) -> None:
    assert readable(size) == words


def test_more_liars_than_a_rule_tolerates_are_told() -> None:
    """Node "0" of a complete graph of 6 hears 2 liars, and so does every other honest node."""

    def told(*liars: str) -> str:
        return said(
            algorithm=Gossip(),
            topology=tacit.Complete(),
            aggregation=tacit.TrimmedMean(1),
            attack=ALIE(nodes=liars),
        )

    assert "more than f = 1" not in told("0")
    assert "hears up to 2 liars, more than f = 1" in told("0", "1")


def test_nothing_is_learned_of_models_from_before_the_training() -> None:
    before = experiment(algorithm=Gossip(mix="before"), topology=tacit.Complete())
    with pytest.raises(tacit.InputError, match=r"use Gossip\(mix='after'\)$"):
        before.replace(attack=ALIE(nodes=0.2)).check()
    with pytest.raises(tacit.InputError, match=r"Gossip\(mix='after'\), or Balance"):
        before.replace(aggregation=tacit.FLTrust()).check()
    before.replace(attack=LabelFlip(nodes=0.2)).check()
