"""The oracle boundary attack finds the edge of what a receiver lets through."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack_views import Rule, in_gossip, under_server
from tacit.attacks.oracle import OracleBoundary, Uphill
from tacit.errors import InputError
from tacit.topology import Neighbours

DIRECTIONS = ["ascent", "shrink", "common", "away"]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def balance(round: int, rounds: int) -> Rule:
    """Fang et al., CCS 2024, equations 2 and 3, with gamma 0.3, kappa 1, alpha 0.5."""
    share = 0.3 * math.exp(-round / rounds)

    def rule(own: Tensor, received: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        accepted = (received - own).norm(dim=1) <= share * own.norm()
        if not accepted.any():
            return own, accepted.float()
        return 0.5 * own + 0.5 * received[accepted].mean(0), accepted.float()

    return rule


def median(own: Tensor, received: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return received.quantile(0.5, dim=0), torch.ones_like(weight)


def mean(own: Tensor, received: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return (1 - weight.sum()) * own + weight @ received, torch.ones_like(weight)


def ring_of(n: int, liars: list[int]) -> Neighbours:
    """A ring of the honest nodes, all of which hear every liar."""
    honest = [i for i in range(n) if i not in liars]
    pairs = [(a, b) for a, b in zip(honest, honest[1:] + honest[:1], strict=True)]
    pairs += [(a, b) for a in honest for b in liars]
    a, b = np.array(pairs).T
    return Neighbours.of(n, np.concatenate([a, b]), np.concatenate([b, a]))


def close_models(n: int, d: int = 30) -> Tensor:
    """Alike within about 1 % of their norms, which differ a little."""
    return drawn(1, d) + 0.01 * drawn(2, n, d)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("round", [0, 7])
def test_it_finds_the_radius_of_balance_for_each_victim(direction: str, round: int):
    models = close_models(8)
    view = in_gossip(
        models, [6, 7], ring_of(8, [6, 7]), rule=balance(round, 10), round=round, rounds=10
    )
    lies = OracleBoundary(direction=direction).lie(view)
    victims = models[torch.from_numpy(view.receivers)]
    radius = 0.3 * math.exp(-round / 10) * victims.norm(dim=1)
    share = (lies - victims).norm(dim=1) / radius
    assert (share <= 1).all()
    assert (share >= 0.999).all()
    assert (view.ask(lies).accepted == 1).all()


def test_the_same_lie_on_all_links_to_a_victim_another_one_to_the_next():
    models = close_models(8)
    view = in_gossip(models, [6, 7], ring_of(8, [6, 7]), rule=balance(0, 10))
    lies = OracleBoundary(direction="common").lie(view)
    for victim in view.secrets.victims:
        told = lies[torch.from_numpy(view.receivers == victim)]
        assert len(told) == 2
        assert torch.equal(told[0], told[1])
    assert len(lies.unique(dim=0)) == len(view.secrets.victims) == 6


def test_victims_with_rules_of_different_radius_each_get_their_own_boundary():
    # A receiver's norm sets its radius: 1 and 10 give 0.3 and 3.
    models = torch.tensor([[1.0, 0.0], [0.0, 10.0], [0.0, 0.0]])
    graph = Neighbours.of(3, np.array([2, 2, 0, 1]), np.array([0, 1, 2, 2]))
    view = in_gossip(models, [2], graph, rule=balance(0, 10))
    lies = OracleBoundary(direction="shrink").lie(view)
    torch.testing.assert_close(lies, torch.tensor([[0.7, 0.0], [0.0, 7.0]]), rtol=0, atol=0.003)


def test_a_plain_mean_is_told_the_farthest_lie_that_is_tried():
    models = close_models(6)
    view = in_gossip(models, [5], ring_of(6, [5]), rule=mean)
    lies = OracleBoundary().lie(view)
    victims = view.secrets.targets
    torch.testing.assert_close((lies - victims).norm(dim=1), 1e3 * victims.norm(dim=1))


def test_a_median_is_hardly_moved():
    honest = torch.tensor([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
    view = under_server(
        honest, honest[:2], start=torch.tensor([0.0, 0.0]), rule=median, knowledge="defence"
    )
    # Two lies beyond the least honest values leave the least honest value in the middle of five.
    result = view.ask(OracleBoundary().lie(view)).result
    torch.testing.assert_close(result, torch.tensor([[1.0, 5.0]]))


def test_directions_under_a_server():
    # Model (3, 4) of norm 5, honest mean (6, 8), so the mean change is (3, 4), of norm 5; the lie
    # goes 1,000 times 5 along the unit vector.
    start, honest = torch.tensor([3.0, 4.0]), torch.tensor([[5.0, 9.0], [7.0, 7.0]])

    def step(direction: str, seed: int = 0, round: int = 0) -> Tensor:
        view = under_server(
            honest, honest[:1], start=start, rule=mean, knowledge="defence", seed=seed, round=round
        )
        return (OracleBoundary(direction=direction).lie(view)[0] - start) / 5000

    for direction in ("ascent", "shrink", "away"):
        torch.testing.assert_close(step(direction), torch.tensor([-0.6, -0.8]), rtol=1e-3, atol=0)
    common = step("common")
    assert common.norm().item() == pytest.approx(1, rel=1e-3)
    assert torch.equal(common, step("common", round=5))
    assert not torch.equal(common, step("common", seed=1))


def test_away_drives_two_victims_apart():
    models = torch.tensor([[1.0, 1.0], [1.0, 3.0], [1.0, 2.0]])
    graph = Neighbours.of(3, np.array([0, 1, 0, 2, 1, 2]), np.array([1, 0, 2, 0, 2, 1]))
    view = in_gossip(models, [2], graph, rule=balance(0, 10))
    lies = OracleBoundary(direction="away").lie(view)
    assert lies[0, 1] < 1
    assert lies[1, 1] > 3
    torch.testing.assert_close(lies[:, 0], torch.ones(2))


def test_it_asks_the_rule_twenty_times():
    asked = []

    def counted(own: Tensor, received: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(received)
        return mean(own, received, weight)

    honest = drawn(3, 4, 5)
    OracleBoundary().lie(under_server(honest, honest[:1], rule=counted, knowledge="defence"))
    assert len(asked) == 20


def test_a_model_of_zeros_is_attacked_at_the_scale_of_the_honest_spread():
    honest = torch.tensor([[1.0, 0.0], [5.0, 0.0]])  # their mean distance from their mean is 2
    view = under_server(honest, honest[:1], rule=mean, knowledge="defence")
    lie = OracleBoundary(direction="ascent").lie(view)
    torch.testing.assert_close(lie, torch.tensor([[-2000.0, 0.0]]))


def test_where_all_is_zero_the_scale_is_one():
    honest = torch.zeros(3, 2)
    view = under_server(honest, honest[:1], rule=mean, knowledge="defence")
    lie = OracleBoundary(direction="common").lie(view)
    assert lie.norm().item() == pytest.approx(1000, rel=1e-3)


def test_a_direction_that_vanishes_leaves_the_victims_own_vector():
    honest = torch.zeros(3, 2)
    view = under_server(honest, honest[:1], rule=mean, knowledge="defence")
    assert torch.equal(OracleBoundary(direction="shrink").lie(view), torch.zeros(1, 2))


def test_uphill_is_the_gradient_on_the_adversarys_rows():
    # (w x)^2 averaged over the rows (1, 0) and (0, 2) is (w_1^2 + 4 w_2^2) / 2, whose gradient is
    # (w_1, 4 w_2).
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1)
    uphill = Uphill(nn.Linear(2, 1, bias=False), F.mse_loss, x, y)
    models = torch.tensor([[3.0, 1.0], [-1.0, 2.0]])
    torch.testing.assert_close(uphill(models), torch.tensor([[3.0, 4.0], [-1.0, 8.0]]))


def test_a_function_of_the_victims_models_is_a_direction():
    # Victims (1, 0) and (0, 10) hear a lie 1,000 norms along (0, 1) and (-1, 0).
    models = torch.tensor([[1.0, 0.0], [0.0, 10.0], [0.0, 0.0]])
    graph = Neighbours.of(3, np.array([2, 2, 0, 1]), np.array([0, 1, 2, 2]))
    view = in_gossip(models, [2], graph, rule=mean)

    def turned(victims: Tensor) -> Tensor:
        return torch.stack([-victims[:, 1], victims[:, 0]], 1)

    lies = OracleBoundary(direction=turned).lie(view)
    torch.testing.assert_close(lies, torch.tensor([[1.0, 1000.0], [-10000.0, 10.0]]))


@pytest.mark.parametrize("anchor", ["own", "start", "mean"])
def test_lies_lie_around_the_anchor(anchor: str):
    # Node 4 lies to 0 to 3, a ring. By "shrink" a plain mean is told anchor - 1,000 x_i.
    models, starts = drawn(4, 5, 3), drawn(5, 5, 3)
    view = in_gossip(models, [4], ring_of(5, [4]), starts=starts, rule=mean)
    lies = OracleBoundary(direction="shrink", anchor=anchor).lie(view)
    expected = {
        "own": models[:4],
        "start": starts[:4],
        "mean": (models[:4] + models[[1, 2, 3, 0]] + models[[3, 0, 1, 2]]) / 3,
    }[anchor]
    torch.testing.assert_close(lies + 1000 * models[:4], expected, rtol=0, atol=2e-3)


def test_anchors_under_a_server():
    # The last model (3, 4) of norm 5 is where the server's "step" begins, and the honest mean is
    # (6, 8); by "shrink" the lie goes 5,000 along (-0.6, -0.8).
    start, honest = torch.tensor([3.0, 4.0]), torch.tensor([[5.0, 9.0], [7.0, 7.0]])
    view = under_server(honest, honest[:1], start=start, rule=mean, knowledge="defence")
    view = replace(view, _secrets=replace(view.secrets, starts=honest))  # nodes may start elsewhere
    for anchor, expected in (("start", start), ("mean", torch.tensor([6.0, 8.0]))):
        lie = OracleBoundary(direction="shrink", anchor=anchor).lie(view)[0]
        torch.testing.assert_close(lie, expected - torch.tensor([3000.0, 4000.0]))


def test_refuses_another_anchor():
    with pytest.raises(InputError, match=r"attack\.anchor: 'median' was given; allowed is own"):
        OracleBoundary(anchor="median")
