"""Exchanges among liars, by hand: results, verdicts, bytes, and what asking leaves behind."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import tacit
from tacit.aggregation import Aggregated, Aggregation, Round
from tacit.engine.exchange import GraphExchange, StarExchange
from tacit.topology import Neighbours
from test_engine_adversary import Rumour, Told, adversary

NAN, INF = float("nan"), float("inf")


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def star(
    rule: Aggregation,
    who=None,
    *,
    nodes: list[int] | None = None,
    n: int = 5,
    topology: Any = None,
    round: Round | None = None,
    start: Tensor | None = None,
) -> StarExchange:
    nodes = list(range(n)) if nodes is None else nodes
    exchange = StarExchange(
        topology or tacit.Star(), rule, np.array(nodes, np.int64), round or Round(), n, who
    )
    if start is not None:
        exchange.train = SimpleNamespace(start=start)  # type: ignore[assignment]
    return exchange


def says(*lies: float) -> Told:
    return Told(say=lambda view: column(*lies), knowledge="colluders")


@dataclass(frozen=True)
class Counting(Aggregation):
    """The plain mean, plus how often its memory has been replaced."""

    uses: ClassVar = frozenset({"memory"})

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        count = round.memory.get("count", torch.zeros(()))
        round.memory["count"] = count + 1
        return Aggregated(received.mean(-2) + count, torch.ones_like(weight))


@dataclass(frozen=True)
class Near(Aggregation):
    """The mean of own and all within 10 of it; sends 100 numbers more for each that it takes."""

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        let = ((received - own.unsqueeze(-2)).abs().amax(-1) <= 10).to(weight.dtype)
        taken = (let.unsqueeze(-1) * received).sum(-2)
        return Aggregated((own + taken) / (1 + let.sum(-1, keepdim=True)), let)

    def traffic(self, links: int, accepted: int, size: int) -> int:
        return links * size + 100 * accepted


# --- under a server ------------------------------------------------------------------------------


def test_a_server_aggregates_lies_in_the_place_of_what_liars_trained():
    # 2 and 4 say 100 and 200 for 3 and 5: of 1, 2, 100, 4, 200 the median is 4.
    received = column(1, 2, 3, 4, 5)
    exchange = star(tacit.Median(), adversary((says(100, 200), [2, 4])))
    result = exchange(torch.zeros(1), received, torch.full((5,), 0.2))
    assert result.tolist() == [4]
    assert received.tolist() == [[1], [2], [3], [4], [5]]
    verdict = exchange.verdict
    assert verdict.senders.tolist() == [0, 1, 2, 3, 4]
    assert verdict.receivers.tolist() == [-1] * 5
    # Up and down, 5 nodes, one number of 4 bytes.
    assert exchange.bytes == 2 * 5 * 4


def test_a_mean_that_streams_needs_all_vectors_once_somebody_lies():
    class Updates:
        nodes = np.arange(3)

        def sum(self, weight: Tensor) -> Tensor:
            return weight @ column(1, 2, 3)

        def matrix(self) -> Tensor:
            return column(1, 2, 3)

    weight = torch.tensor([0.5, 0.25, 0.125])
    honest = star(tacit.Mean(), n=3)
    # 0.125 of own 8, 0.5, 0.5, 0.375
    assert honest(torch.tensor([8.0]), Updates(), weight).tolist() == [2.375]
    assert honest.verdict is None
    lying = star(tacit.Mean(), adversary((says(-10), [1])), n=3)
    # 1 + 0.5 - 2.5 + 0.375
    assert lying(torch.tensor([8.0]), Updates(), weight).tolist() == [-0.625]
    assert lying.verdict.accepted.tolist() == [1, 1, 1]
    # Who only poisons data does not change how a round is carried out.
    poisoner = adversary((says(0), [1]))
    poisoner.attacks, poisoner.lies = [], False
    for received in (Updates(), column(1, 2, 3)):
        quiet = star(tacit.Mean(), poisoner, n=3)
        assert quiet(torch.tensor([8.0]), received, weight).tolist() == [2.375]
        assert quiet.verdict is None
    judging = star(Near(), poisoner, n=3)
    judging(torch.tensor([8.0]), column(1, 2, 30), weight)
    assert judging.verdict.accepted.tolist() == [1, 1, 0]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_lie_that_is_no_number_is_turned_away_and_named(value: float):
    # The others share the weight: 1 and 3 with 0.25 and 0.5 of 0.75, times 4/3.
    exchange = star(tacit.Mean(), adversary((says(value), [6])), nodes=[4, 6, 7], n=9)
    result = exchange(torch.tensor([9.0]), column(1, 2, 3), torch.tensor([0.25, 0.25, 0.5]))
    assert result.item() == pytest.approx(1 / 3 + 2)
    assert exchange.verdict.senders.tolist() == [4, 6, 7]
    assert exchange.verdict.accepted.tolist() == [1, 0, 1]


def test_a_liar_starts_from_the_model_that_it_got():
    def flip(view) -> Tensor:
        return 2 * view.starts - view.own

    who = adversary((Told(say=flip), [0]))
    exchange = star(tacit.Mean(), who, n=2, start=torch.tensor([3.0]))
    # 6 - 5 = 1 and 4, of which the mean is 2.5.
    assert exchange(torch.tensor([3.0]), column(5, 4), torch.full((2,), 0.5)).tolist() == [2.5]


def test_only_the_first_exchange_of_a_round_is_judged_and_all_are_counted():
    liar = Told(say=lambda view: torch.full_like(view.own, 100))
    exchange = star(Near(), adversary((liar, [1])), n=3)
    weight = torch.full((3,), 1 / 3)
    exchange(torch.zeros(1), column(1, 2, 3), weight)
    exchange(torch.full((2,), 99.0), torch.full((3, 2), 95.0), weight)
    assert exchange.verdict.accepted.tolist() == [1, 0, 1]
    assert exchange.bytes == 2 * 3 * 4 * (1 + 2)


def test_an_empty_cohort_keeps_the_model_and_sends_nothing():
    exchange = star(Near(), adversary((says(100), [1])), nodes=[], n=3)
    assert exchange(torch.ones(1), torch.zeros(0, 1), torch.zeros(0)).tolist() == [1]
    assert exchange.bytes == 0
    assert exchange.verdict is None


def test_to_ask_a_server_is_to_see_what_it_would_do_and_changes_nothing():
    found = []

    def ask_twice(view) -> Tensor:
        for lie in (30.0, 60.0):
            found.append(view.ask(column(lie)).result.tolist())
        return column(90.0)

    memory = {"count": torch.tensor(5.0)}
    who = adversary((Told(say=ask_twice, knowledge="defence"), [0]))
    exchange = star(Counting(), who, n=3, round=Round(memory=memory))
    result = exchange(torch.zeros(1), column(1, 2, 4), torch.full((3,), 1 / 3))
    # (30 + 6) / 3 + 5, (60 + 6) / 3 + 5, and with the lie that was sent (90 + 6) / 3 + 5
    assert found == [[[17]], [[27]]]
    assert result.tolist() == [37]
    assert memory["count"].item() == 6


# --- groups --------------------------------------------------------------------------------------


def test_groups_pass_on_what_is_left_of_lies():
    # Nodes 0, 1, 2 | 3, 4, 5; 1 and 3, 4 lie. Heads start from 0: 0 and 2 are near (mean with own
    # (0 + 1 + 5) / 3 = 2), in the other group 5 alone: (0 + 6) / 2 = 3. Both heads are near: 5 / 3.
    who = adversary((says(50, 60, 70), [1, 3, 4]))
    exchange = star(Near(), who, n=6, topology=tacit.Hierarchical(groups=2))
    weight = torch.full((6,), 1 / 6)
    result = exchange(torch.zeros(1), column(1, 2, 5, 4, 4, 6), weight)
    assert result.item() == pytest.approx(5 / 3)
    assert exchange.verdict.accepted.tolist() == [1, 0, 1, 0, 0, 1]
    assert exchange.verdict.receivers.tolist() == [-1] * 6
    # 6 nodes to their heads and 2 heads to the top, both ways.
    assert exchange.bytes == 2 * 8 * 4


def test_a_group_that_is_turned_away_takes_its_members_with_it():
    # Group 3, 4, 5 agrees on 9 of own 0: (0 + 9 + 9 + 9) / 4 = 6.75, and the top's own is 0: near.
    # With lies of 10 from 0, 1, 2 their head is 7.5, near as well. So let the top be stricter.
    class Strict(Near):
        def aggregate(self, own, received, weight, round):
            wide = 10 if len(weight) == 3 else 7
            let = (received.abs().amax(-1) <= wide).to(weight.dtype)
            taken = (let.unsqueeze(-1) * received).sum(-2)
            return Aggregated((own + taken) / (1 + let.sum(-1, keepdim=True)), let)

    who = adversary((says(10, 10, 10), [0, 1, 2]))
    exchange = star(Strict(), who, n=6, topology=tacit.Hierarchical(groups=2))
    result = exchange(torch.zeros(1), column(1, 1, 1, 9, 9, 9), torch.full((6,), 1 / 6))
    assert result.tolist() == [3.375]
    assert exchange.verdict.accepted.tolist() == [0, 0, 0, 1, 1, 1]


def test_weights_in_a_group_are_shares_of_the_group():
    @dataclass(frozen=True)
    class Weighted(Aggregation):
        def aggregate(self, own, received, weight, round):
            return Aggregated(weight @ received, weight)

    # Group 0, 1 holds 1/4 and 1/4, group 2, 3 none and 1/2: heads (2 + 4) / 2 = 3 and 8, each half.
    who = adversary((says(2), [0]))
    exchange = star(Weighted(), who, n=4, topology=tacit.Hierarchical(groups=2))
    result = exchange(torch.zeros(1), column(1, 4, 9, 8), torch.tensor([0.25, 0.25, 0.0, 0.5]))
    assert result.tolist() == [5.5]
    # A share of the share: 1/2 of 1/2, and none and all of 1/2.
    assert exchange.verdict.accepted.tolist() == [0.25, 0.25, 0, 0.5]


def test_a_group_without_rows_has_no_say():
    exchange = star(tacit.Median(), n=4, topology=tacit.Hierarchical(groups=2))
    result = exchange(torch.zeros(1), column(5, 6, 1, 3), torch.tensor([0.0, 0.0, 0.5, 0.5]))
    assert result.tolist() == [2]  # the median of 1 and 3, alone at the top
    assert exchange.verdict.accepted[:2].tolist() == [0, 0]


def test_a_group_without_rows_is_not_taken_for_a_liar():
    # Heads 1, 2 and 9, of which one liar's worth is cut on either side: 2. Were the group without
    # rows a fourth head of no numbers, it would count as the liar, and the result be the mean, 4.
    received = column(7, 7, 7, 1, 1, 1, 2, 2, 2, 9, 9, 9)
    exchange = star(tacit.TrimmedMean(f=1), n=12, topology=tacit.Hierarchical(groups=4))
    weight = torch.tensor([0.0] * 3 + [1 / 9] * 9)
    torch.testing.assert_close(exchange(torch.zeros(1), received, weight), torch.tensor([2.0]))


def test_in_groups_memory_has_a_row_for_every_node_and_asking_leaves_it():
    seen: list[list[int]] = []

    @dataclass(frozen=True)
    class Remembers(Aggregation):
        uses: ClassVar = frozenset({"memory"})

        def aggregate(self, own, received, weight, round):
            if round.memory or len(weight) == 3:
                before = round.memory.get("sent", torch.zeros(round.all_links, 1))
                round.memory["sent"] = before.index_put((round.links,), received)
            seen.append(round.links.tolist())
            return Aggregated(received.mean(0), torch.ones_like(weight))

    memory: dict[str, Tensor] = {}
    who = adversary((Told(say=lambda v: v.ask(v.own).result.abs() + 7, knowledge="defence"), [2]))
    round = Round(memory=memory)
    groups = tacit.Hierarchical(groups=2)
    cohort = [0, 2, 3, 5, 6, 8]
    exchange = star(Remembers(), who, nodes=cohort, n=9, topology=groups, round=round)
    exchange(torch.zeros(1), column(1, 2, 3, 4, 5, 6), torch.full((6,), 1 / 6))
    # Asked once, then for good: both groups, then the two heads, which keep no memory.
    assert seen == [[0, 2, 3], [5, 6, 8], [0, 1]] * 2
    # The lie: (2 + 5) / 2 + 7.
    assert memory["sent"].flatten().tolist() == [1, 0, 10.5, 3, 0, 4, 5, 0, 6]


# --- on a graph ----------------------------------------------------------------------------------


def linked(n: int, *pairs: tuple[int, int]) -> Neighbours:
    a, b = np.array(pairs).T
    return Neighbours.of(n, np.concatenate([a, b]), np.concatenate([b, a]))


def graph(rule: Aggregation, links: Neighbours, who=None, round: Round | None = None, start=None):
    exchange = GraphExchange(links, rule, round or Round(), who)
    if start is not None:
        exchange.train = SimpleNamespace(start=start)
    return exchange


# A path 0 - 1 - 2 - 3, and 4 alone. Links: 1 -> 0; 0, 2 -> 1; 1, 3 -> 2; 2 -> 3.
PATH = linked(5, (0, 1), (1, 2), (2, 3))


def to_each(view) -> Tensor:
    """40 to node 0, 60 to node 2."""
    return torch.from_numpy(view.receivers).float().unsqueeze(1) * 10 + 40


def test_a_mean_among_liars_mixes_what_each_link_carries():
    exchange = graph(tacit.Mean(), PATH, adversary((Rumour(say=to_each), [1])))
    result = exchange(column(0, 3, 6, 9, 5))
    # Metropolis: all inner links 1/3, for node 1 and 2 have degree 2. 0: 2/3 0 + 1/3 40;
    # 1 hears the truth: (0 + 3 + 6) / 3; 2: (60 + 6 + 9) / 3; 3: 2/3 9 + 1/3 6; 4 hears nobody.
    torch.testing.assert_close(result, column(40 / 3, 3, 25, 8, 5))
    assert exchange.verdict.senders.tolist() == [1, 0, 2, 1, 3, 2]
    assert exchange.verdict.receivers.tolist() == [0, 1, 1, 2, 2, 3]
    assert exchange.verdict.accepted.tolist() == [1] * 6
    assert exchange.bytes == 6 * 4


def test_without_lies_a_mean_streams_and_judges_nobody():
    poisoner = adversary((says(0), [1]))
    poisoner.attacks, poisoner.lies = [], False
    for who in (None, poisoner):
        exchange = graph(tacit.Mean(), PATH, who)
        torch.testing.assert_close(exchange(column(0, 3, 6, 9, 5)), column(1, 3, 6, 8, 5))
        assert exchange.verdict is None
        assert exchange.bytes == 6 * 4


def test_a_rule_judges_every_link_and_counts_what_it_lets_through():
    exchange = graph(Near(), PATH, adversary((Rumour(say=to_each), [1])))
    result = exchange(column(0, 3, 6, 9, 5))
    # 0 and 2 turn 40 and 60 away; 1 and 3 hear the truth.
    torch.testing.assert_close(result, column(0, 3, 7.5, 7.5, 5))
    assert exchange.verdict.accepted.tolist() == [0, 1, 1, 0, 1, 1]
    assert exchange.bytes == 4 * (6 + 100 * 4)


def test_one_way_links_weigh_alike():
    # 0 and 1 send to 2, which lies about itself to 3; 0 and 1 hear nobody.
    links = Neighbours.of(4, np.array([0, 1, 2]), np.array([2, 2, 3]))
    exchange = graph(tacit.Mean(), links, adversary((says(100), [2])))
    # 2: (3 + 6 + 9) / 3; 3: (0 + 100) / 2.
    torch.testing.assert_close(exchange(column(3, 6, 9, 0)), column(3, 6, 6, 50))


def test_a_push_is_a_sum_that_no_lie_can_be_put_into():
    exchange = graph(tacit.Mean(), PATH, adversary((says(100), [1])))
    # Each keeps and sends shares 1 / (1 + degree): 1/2, 1/3, 1/3, 1/2, 1.
    result = exchange(column(0, 3, 6, 9, 5), push=True)
    torch.testing.assert_close(result, column(0 + 1, 0 + 1 + 2, 1 + 2 + 4.5, 2 + 4.5, 5))
    assert exchange.verdict is None
    assert exchange.bytes == 6 * 4


DENSE = [(i, j) for i in range(9) for j in range(i) if (i + j) % 3 or i in (2, 5)]
SPARSE = [(i, (i + step) % 80) for i in range(80) for step in (1, 2, 3)]


@pytest.mark.parametrize(
    "rule",
    [
        tacit.MultiKrum(f=1),
        tacit.Median(),
        tacit.NNA(f=1),
        tacit.NNM(f=1) | tacit.CenteredClipping(tau=3.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("value", [None, NAN, INF])
@pytest.mark.parametrize(("n", "pairs"), [(9, DENSE), (80, SPARSE)], ids=["dense", "sparse"])
def test_each_honest_node_applies_the_rule_to_what_reached_it(n, pairs, rule, value):
    """With one Gram matrix for all or without: receiver by receiver, the rule alone."""
    rng = np.random.default_rng(0)
    d, liars = 12, [2, 5]
    links = linked(n, *pairs)
    models = torch.from_numpy(rng.normal(size=(n, d))).float()
    sent = models[torch.from_numpy(links.senders)].clone()
    lying = np.isin(links.senders, liars) & ~np.isin(links.receivers, liars)
    lies = torch.from_numpy(rng.normal(2, 1, size=(int(lying.sum()), d))).float()
    if value is not None:
        lies[1, 3] = value
    sent[torch.from_numpy(lying)] = lies
    weight = torch.from_numpy(links.metropolis())
    expected, accepted = models.clone(), torch.zeros(links.edges)
    for node in range(n):
        at = slice(links.offsets[node], links.offsets[node + 1])
        expected[node], accepted[at] = rule(models[node], sent[at], weight[at])
    who = adversary((Rumour(say=lambda view: lies, knowledge="colluders"), liars))
    exchange = graph(rule, links, who)
    result = exchange(models.clone())
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exchange.verdict.accepted, accepted, atol=1e-6, rtol=0)
    if value is not None:
        assert exchange.verdict.accepted[np.flatnonzero(lying)[1]] == 0


def test_a_poisoned_model_that_diverged_does_not_blur_the_others():
    """Node 0's own model is huge. The others hear it, and Krum tells the rest apart as if alone."""
    models = torch.from_numpy(np.random.default_rng(0).normal(0, 0.01, (12, 50))).float()
    models[0] = 1e9
    links = tacit.Complete().graph(12, 0, 0)
    others = [models[[j for j in range(12) if j != i]] for i in range(12)]
    expected = [
        tacit.Krum(2)(models[i], others[i], torch.full((11,), 1 / 12)) for i in range(1, 12)
    ]
    found = graph(tacit.Krum(2), links)(models.clone())
    torch.testing.assert_close(found[1:], torch.stack([each.result for each in expected]))


def test_to_ask_neighbours_is_to_see_what_victims_would_do_and_changes_nothing():
    found, models = [], column(0, 3, 6, 9, 5)

    def ask(view) -> Tensor:
        found.append(view.ask(column(2, 30)))
        return column(4, 50)

    memory: dict[str, Tensor] = {}
    who = adversary((Rumour(say=ask, knowledge="defence"), [1]))
    exchange = graph(Near(), PATH, who, Round(memory=memory))
    result = exchange(models.clone())
    # 0 takes 2 in: (0 + 2) / 2; 2 turns 30 away: (6 + 9) / 2.
    torch.testing.assert_close(found[0].result, column(1, 7.5))
    assert found[0].accepted.tolist() == [1, 0]
    torch.testing.assert_close(result, column(2, 3, 7.5, 7.5, 5))

    counting = graph(Counting(), PATH, who, Round(memory=memory))
    counting(models.clone())
    # Asked about two victims in two groups of one degree; then nodes of degree 1 and of degree 2.
    torch.testing.assert_close(found[1].result, column(2, (30 + 9) / 2 + 1))
    assert memory["count"].item() == 2


def test_receivers_see_their_own_start():
    @dataclass(frozen=True)
    class FromStart(Aggregation):
        uses: ClassVar = frozenset({"start"})

        def aggregate(self, own, received, weight, round):
            return Aggregated(round.start + round.receivers.unsqueeze(-1), torch.ones_like(weight))

    who = adversary((Rumour(say=to_each), [1]))
    starts = column(10, 20, 30, 40, 50)
    exchange = graph(FromStart(), PATH, who, start=starts)
    assert exchange(column(0, 3, 6, 9, 5)).flatten().tolist() == [10, 21, 32, 43, 5]
    shared = graph(FromStart(), PATH, who, start=torch.tensor([7.0]))
    assert shared(column(0, 3, 6, 9, 5)).flatten().tolist() == [7, 8, 9, 10, 5]


def test_links_have_their_place_in_a_rules_memory():
    seen: dict[int, list[int]] = {}

    @dataclass(frozen=True)
    class Notes(Aggregation):
        def aggregate(self, own, received, weight, round):
            assert round.all_links == 6
            for node, links in zip(round.receivers.tolist(), round.links.tolist(), strict=True):
                seen[node] = links
            return Aggregated(own, torch.ones_like(weight))

    graph(Notes(), PATH, adversary((says(1), [1])))(column(0, 3, 6, 9, 5))
    assert seen == {0: [0], 1: [1, 2], 2: [3, 4], 3: [5]}


def test_a_second_exchange_over_neighbours_is_counted_and_not_judged():
    exchange = graph(Near(), PATH, adversary((Rumour(say=to_each), [1])))
    exchange(column(0, 3, 6, 9, 5))
    exchange(column(40, 40, 40, 40, 40))
    assert exchange.verdict.accepted.tolist() == [0, 1, 1, 0, 1, 1]
    # All but the lie of 60 to node 2 pass in the second one.
    assert exchange.bytes == 4 * (6 + 100 * 4) + 4 * (6 + 100 * 5)


def test_where_no_group_has_rows_the_server_keeps_its_model():
    exchange = star(tacit.Median(), n=4, topology=tacit.Hierarchical(groups=2))
    assert exchange(torch.ones(1), column(5, 6, 1, 3), torch.zeros(4)).tolist() == [1]
    assert exchange.verdict.accepted.tolist() == [0] * 4


@pytest.mark.parametrize("rule", [tacit.Mean(), tacit.Median(), tacit.NormBound(1.0)], ids=str)
def test_where_only_nodes_without_rows_send_numbers_own_is_kept(rule: Any):
    found = rule(torch.ones(1), column(NAN, 2, 3), torch.tensor([1.0, 0.0, 0.0]))
    assert found.result.tolist() == [1]
    assert found.accepted.tolist() == [0, 1, 1]
    nobody = rule(torch.ones(1), column(NAN, math.inf), torch.tensor([0.5, 0.5]))
    assert nobody.result.tolist() == [1]
    assert nobody.accepted.tolist() == [0, 0]


@pytest.mark.parametrize("rule", [tacit.GTSRG(1), tacit.CSPlusRG(1), tacit.Balance(), tacit.NNA(1)])
@pytest.mark.parametrize("size", [1e7, 1e12, 1e30])
def test_one_huge_model_does_not_blur_the_others(rule: Aggregation, size: float) -> None:
    """Whichever row it is; each receiver's own call of the rule is what the network's must give."""
    draw = torch.Generator().manual_seed(0)
    links = tacit.Complete().graph(9, 0, 0)
    for row in (0, 4):
        models = 1 + 0.1 * torch.randn(9, 5, generator=draw)
        models[row] = size
        alone = [
            rule(models[i], models[links.senders[links.receivers == i]], torch.full((8,), 1 / 9))
            for i in range(9)
            if i != row
        ]
        found = GraphExchange(links, rule, Round())(models.clone())
        for i, expected in zip([i for i in range(9) if i != row], alone, strict=True):
            torch.testing.assert_close(found[i], expected.result, rtol=1e-4, atol=1e-5)


def test_a_mean_drops_what_poisoned_training_made_of_a_model() -> None:
    poisoner = adversary((says(0), [1]))
    poisoner.attacks, poisoner.lies = [], False
    exchange = star(tacit.Mean(), poisoner, n=3)
    even = torch.full((3,), 1 / 3)
    torch.testing.assert_close(
        exchange(torch.ones(1), column(1, NAN, 3), even), torch.tensor([2.0])
    )
    assert exchange.verdict.accepted.tolist() == [1, 0, 1]
    gossip = graph(tacit.Mean(), PATH, poisoner)
    assert gossip(column(0, NAN, 6, 9, 5))[2:].isfinite().all()
    assert gossip.verdict.accepted.min() == 0
