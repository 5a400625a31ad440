"""What malicious nodes are shown in a round, and which links carry their lies."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tacit.aggregation.rule import Round
from tacit.attacks.base import UpdateAttack
from tacit.attacks.labels import LabelFlip
from tacit.attacks.view import Knowledge, View
from tacit.engine.adversary import Adversary, Sent
from tacit.errors import InputError
from tacit.topology import Neighbours


@dataclass(frozen=True, kw_only=True)
class Told(UpdateAttack):
    """Says what it is told to, and keeps what it was shown."""

    say: Callable[[View], Tensor] = lambda view: -view.own
    knowledge: Knowledge = "own"
    views: list[View] = field(default_factory=list, compare=False)

    def lie(self, view: View) -> Tensor:
        self.views.append(view)
        return self.say(view)


@dataclass(frozen=True, kw_only=True)
class Rumour(Told):
    """A lie of its own for every link."""

    equivocates: ClassVar[bool] = True


def adversary(*pairs: tuple[UpdateAttack, list[int]]) -> Adversary:
    placed = [np.array(ids) for _, ids in pairs]
    attacks = [attack for attack, _ in pairs]
    stub: Any = SimpleNamespace(
        malicious=np.unique(np.concatenate(placed)), attacks=attacks, placed=placed
    )
    return Adversary(stub)


def silent(sent: Sent) -> tuple[Tensor, Tensor]:
    raise AssertionError("the rule was asked")


ROUND = Round(index=3, total=10, seed=7)
# Everybody hears everybody. Links to 0 come from 1, 2, 3; then those to 1, to 2 and to 3.
COMPLETE = Neighbours.of(4, np.arange(16) % 4, np.arange(16) // 4)
MODELS = torch.tensor([[10.0, 0.0], [11.0, 1.0], [12.0, 2.0], [13.0, 3.0]])
STARTS = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
WEIGHT = np.linspace(0.01, 0.12, 12, dtype=np.float32)


def in_graph(who: Adversary, graph: Neighbours = COMPLETE, ask=silent, starts=STARTS) -> Sent:
    everyone = np.arange(graph.nodes)
    weight = WEIGHT[: graph.edges]
    return who(
        ROUND, everyone, MODELS, starts, graph.senders, graph.receivers, MODELS, graph, weight, ask
    )


def to_server(
    who: Adversary, nodes: list[int], vectors: Tensor, start: Tensor | None = None, ask=silent
) -> Sent:
    k = len(nodes)
    return who(
        ROUND, np.array(nodes), vectors, start, np.arange(k), np.full(k, -1),
        torch.tensor([[7.0, 7.0]]), None, None, ask,
    )  # fmt: skip


def carried(sent: Sent) -> list[list[float]]:
    return sent.rows[torch.from_numpy(sent.index)].tolist()


def truth(graph: Neighbours = COMPLETE) -> list[list[float]]:
    return MODELS[torch.from_numpy(graph.senders)].tolist()


def test_every_link_to_an_honest_receiver_carries_a_lie_of_its_own():
    def say(view: View) -> Tensor:
        sender = torch.from_numpy(view.nodes[view.senders])
        return torch.stack([torch.from_numpy(view.receivers) + 100, sender], 1)

    sent = in_graph(adversary((Rumour(say=say, knowledge="all"), [1, 3])))
    expected = truth()
    # 0 hears 1, 2, 3 over links 0 to 2; 2 hears 0, 1, 3 over links 6 to 8.
    expected[0], expected[2] = [100, 1], [100, 3]
    expected[7], expected[8] = [102, 1], [102, 3]
    assert carried(sent) == expected
    assert torch.equal(sent.rows[:4], MODELS)
    assert sent.rows.dtype == torch.float32


def test_who_does_not_equivocate_sends_one_vector_over_all_links():
    sent = in_graph(adversary((Told(), [1, 3])))
    assert sent.index.tolist() == [4, 2, 5, 0, 2, 3, 0, 4, 5, 0, 1, 2]
    assert sent.rows[4:].tolist() == [[-11, -1], [-13, -3]]
    assert sent.rows.dtype == torch.float32


@pytest.mark.parametrize(
    "attack", [Told(), Rumour(say=lambda view: -view.own[torch.from_numpy(view.senders)])]
)
def test_with_its_own_knowledge_each_liar_is_alone(attack: Told):
    in_graph(adversary((attack, [1, 3])))
    assert len(attack.views) == 2
    for view, node in zip(attack.views, (1, 3), strict=True):
        assert view.nodes.tolist() == [node]
        assert view.own.tolist() == [MODELS[node].tolist()]
        assert view.starts.tolist() == [STARTS[node].tolist()]
        assert torch.equal(view.sample, view.own)
        assert torch.equal(view.sample_starts, view.starts)
        assert view.senders.tolist() == [0, 0]
        assert view.receivers.tolist() == [0, 2]
        assert (view.round, view.rounds, view.seed, view.everyone) == (3, 10, 7, 4)
        with pytest.raises(InputError, match="'own' was given, which does not see"):
            _ = view.secrets
        with pytest.raises(InputError, match="'own' was given, which may not ask"):
            view.ask(view.own)


def test_a_liar_alone_does_not_hear_the_lie_before_its_own():
    said = iter([torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 2.0]])])
    sent = in_graph(adversary((Told(say=lambda view: next(said)), [1, 3])))
    expected = truth()
    expected[0] = expected[7] = [1, 1]
    expected[2] = expected[8] = [2, 2]
    assert carried(sent) == expected


def test_colluders_see_each_other_and_nobody_else():
    attack = Told(knowledge="colluders")
    in_graph(adversary((attack, [1, 3])))
    (view,) = attack.views
    assert view.nodes.tolist() == [1, 3]
    assert view.own.tolist() == MODELS[[1, 3]].tolist()
    assert view.starts.tolist() == STARTS[[1, 3]].tolist()
    assert view.senders.tolist() == [0, 1, 0, 1]
    assert view.receivers.tolist() == [0, 0, 2, 2]
    with pytest.raises(InputError, match="'colluders' was given, which does not see"):
        _ = view.secrets
    with pytest.raises(InputError, match="'colluders' was given, which may not ask"):
        view.ask(view.own)


def test_who_knows_all_sees_the_honest_and_the_graph_but_may_not_ask():
    attack = Told(knowledge="all")
    in_graph(adversary((attack, [1, 3])))
    (view,) = attack.views
    secrets = view.secrets
    assert secrets.nodes.tolist() == [0, 2]
    assert torch.equal(secrets.vectors, MODELS[[0, 2]])
    assert torch.equal(secrets.starts, STARTS[[0, 2]])
    assert secrets.victims.tolist() == [0, 2]
    assert torch.equal(secrets.targets, MODELS[[0, 2]])
    assert secrets.graph is COMPLETE
    assert secrets.weight.tolist() == WEIGHT.tolist()
    with pytest.raises(InputError, match="'all' was given, which may not ask"):
        view.ask(view.own)


def test_who_knows_the_defence_may_ask_what_the_victims_make_of_lies():
    asked: list[Sent] = []

    def ask(sent: Sent) -> tuple[Tensor, Tensor]:
        asked.append(sent)
        return torch.tensor([[0.5, 0.0], [2.5, 0.0]]), torch.arange(12) / 12

    def say(view: View) -> Tensor:
        lies = torch.arange(8.0).view(4, 2)
        found = view.ask(lies)
        assert found.result.tolist() == [[0.5, 0.0], [2.5, 0.0]]
        # The links 1 -> 0, 3 -> 0, 1 -> 2 and 3 -> 2.
        torch.testing.assert_close(found.accepted * 12, torch.tensor([0.0, 2.0, 7.0, 8.0]))
        return lies + 100

    sent = in_graph(adversary((Rumour(say=say, knowledge="defence"), [1, 3])), ask=ask)
    expected = truth()
    expected[0], expected[2], expected[7], expected[8] = [0, 1], [2, 3], [4, 5], [6, 7]
    assert carried(asked[0]) == expected  # what was asked about is not what is sent
    for link in (0, 2, 7, 8):
        expected[link] = [value + 100 for value in expected[link]]
    assert carried(sent) == expected


def test_of_two_attacks_each_asks_for_its_own_victims():
    # 1 lies to 0 and 3 to 2; honest 0 and 2 also hear each other.
    graph = Neighbours.of(4, np.array([1, 2, 0, 3]), np.array([0, 0, 2, 2]))
    asked: list[Sent] = []

    def ask(sent: Sent) -> tuple[Tensor, Tensor]:
        asked.append(sent)
        return torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.arange(4) / 4

    found = []

    def say(view: View) -> Tensor:
        found.append(view.ask(view.own + 1))
        assert view.secrets.victims.tolist() == view.receivers.tolist()
        assert torch.equal(view.secrets.targets, MODELS[torch.from_numpy(view.receivers)])
        return -view.own

    first, second = (Rumour(say=say, knowledge="defence") for _ in range(2))
    sent = in_graph(adversary((first, [1]), (second, [3])), graph, ask)
    assert [f.result.tolist() for f in found] == [[[0, 0]], [[2, 2]]]
    assert [f.accepted.tolist() for f in found] == [[0], [0.75]]
    # The second asks when the first has lied: links 1 -> 0, 2 -> 0, 0 -> 2, 3 -> 2.
    assert carried(asked[0]) == [[12, 2], [12, 2], [10, 0], [13, 3]]
    assert carried(asked[1]) == [[-11, -1], [12, 2], [10, 0], [14, 4]]
    assert carried(sent) == [[-11, -1], [12, 2], [10, 0], [-13, -3]]


def test_a_second_attack_starts_from_the_lies_of_the_first():
    first = Told(say=lambda view: -view.own, knowledge="colluders")
    second = Told(say=lambda view: view.own * 2, knowledge="all")
    sent = in_graph(adversary((first, [1, 3]), (second, [1])))
    (view,) = second.views
    assert view.own.tolist() == [[-11, -1]]
    assert view.starts.tolist() == [[1, 5]]
    # Who lies for the first attack alone is not honest to the second one.
    assert view.secrets.nodes.tolist() == [0, 2]
    expected = truth()
    expected[0] = expected[7] = [-22, -2]
    expected[2] = expected[8] = [-13, -3]
    assert carried(sent) == expected


def test_after_one_who_equivocates_the_second_starts_from_its_last_lie():
    first = Rumour(say=lambda view: torch.tensor([[5.0, 0.0], [6.0, 0.0]]))
    second = Told(knowledge="colluders")
    sent = in_graph(adversary((first, [1]), (second, [1, 3])))
    assert second.views[0].own.tolist() == [[6, 0], [13, 3]]
    expected = truth()
    expected[0] = expected[7] = [-6, 0]
    expected[2] = expected[8] = [-13, -3]
    assert carried(sent) == expected


def test_liars_are_honest_with_each_other_and_are_not_asked_for_lies_then():
    # 1 sends to 3 alone, which sends to nobody.
    graph = Neighbours.of(4, np.array([1, 0]), np.array([3, 2]))
    attack = Told()
    who = adversary((attack, [1, 3]))
    assert carried(in_graph(who, graph)) == truth(graph)
    assert attack.views == []
    assert who.victims(graph.senders, graph.receivers).tolist() == []


def test_victims_are_the_honest_who_hear_a_liar():
    who = adversary((Told(), [1, 3]))
    assert who.victims(COMPLETE.senders, COMPLETE.receivers).tolist() == [0, 2]
    assert who.victims(np.array([1, 0, 3]), np.array([2, 0, 1])).tolist() == [2]
    assert who.victims(np.array([0, 3]), np.array([-1, -1])).tolist() == [-1]


def test_under_a_server_rows_are_those_of_the_cohort():
    # Of the liars 4 and 9 only 4 was drawn, as the second of three.
    vectors = torch.tensor([[1.0, 1.0], [4.0, 4.0], [6.0, 6.0]])
    start = torch.tensor([0.5, 0.25])
    attack = Told(knowledge="all")
    sent = to_server(adversary((attack, [4, 9])), [1, 4, 6], vectors, start)
    (view,) = attack.views
    assert view.nodes.tolist() == [4]
    assert view.own.tolist() == [[4, 4]]
    assert view.starts.tolist() == [[0.5, 0.25]]
    assert (view.senders.tolist(), view.receivers.tolist()) == ([0], [-1])
    assert view.everyone == 3
    assert view.secrets.nodes.tolist() == [1, 6]
    assert view.secrets.vectors.tolist() == [[1, 1], [6, 6]]
    assert view.secrets.starts.tolist() == [[0.5, 0.25]] * 2
    assert view.secrets.victims.tolist() == [-1]
    assert view.secrets.targets.tolist() == [[7, 7]]
    assert view.secrets.graph is None
    assert view.secrets.weight is None
    assert carried(sent) == [[1, 1], [-4, -4], [6, 6]]


def test_a_liar_drawn_twice_sends_twice():
    vectors = torch.tensor([[2.0, 2.0], [3.0, 3.0], [5.0, 5.0]])
    attack = Told(say=lambda view: view.own * 10, knowledge="colluders")
    sent = to_server(adversary((attack, [2])), [2, 2, 5], vectors)
    assert attack.views[0].nodes.tolist() == [2, 2]
    assert carried(sent) == [[20, 20], [30, 30], [5, 5]]


def test_a_cohort_without_liars_sends_what_it_has():
    attack = Told()
    vectors = torch.ones(2, 2)
    sent = to_server(adversary((attack, [9])), [1, 4], vectors)
    assert sent.rows is vectors
    assert sent.index.tolist() == [0, 1]
    assert attack.views == []


def test_starts_are_cut_to_what_is_sent_or_are_zeros():
    # Gossip that mixes before training sends the first p coordinates of its models.
    for starts, expected in (
        (torch.tensor([1.0, 2.0, 3.0]), [1, 2]),
        (torch.tensor([1.0]), [0, 0]),
        (None, [0, 0]),
    ):
        attack = Told()
        to_server(adversary((attack, [0])), [0, 1], torch.ones(2, 2), starts)
        assert attack.views[0].starts.tolist() == [expected]


def test_lies_take_the_type_of_what_is_sent():
    lie = torch.tensor([[0.1, 0.1]], dtype=torch.float64)
    for attack in (Told(say=lambda view: lie), Rumour(say=lambda view: lie)):
        sent = to_server(adversary((attack, [0])), [0, 1], torch.ones(2, 2))
        assert sent.rows.dtype == torch.float32
        assert carried(sent)[0] == torch.tensor([0.1, 0.1]).tolist()


def test_who_poisons_data_does_not_lie_about_it():
    stub: Any = SimpleNamespace(
        malicious=np.array([1]), attacks=(LabelFlip(),), placed=(np.array([1]),)
    )
    who = Adversary(stub)
    assert not who.lies
    assert who.attacks == []
    assert adversary((Told(), [1])).lies
    assert carried(in_graph(who)) == truth()
