"""Attacks on updates: against numbers by hand, the papers' conditions, and ByzFL."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from attack_views import in_gossip, under_server
from byzfl_parts import aggregators
from byzfl_parts import attacks as byzfl
from tacit.attacks.alie import ALIE, OptimalALIE, support
from tacit.attacks.base import DataAttack, UpdateAttack
from tacit.attacks.fang import FangKrum, FangTrim
from tacit.attacks.graph import Dissensus, SpectralHeterogeneity
from tacit.attacks.ipm import IPM, OptimalIPM
from tacit.attacks.mimic import Mimic
from tacit.attacks.min_max import MinMax, MinSum
from tacit.attacks.oracle import OracleBoundary
from tacit.attacks.scaling import ModelReplacement, Scaling
from tacit.attacks.simple import Constant, Gaussian, SignFlip, Zero
from tacit.attacks.view import View
from tacit.errors import InputError
from tacit.topology import Neighbours

START = torch.tensor([1.0, 2.0])
# Mean (3, 1), mean change (2, -1).
HONEST = torch.tensor([[2.0, 1.0], [4.0, 1.0], [3.0, 1.0]])
LIARS = torch.tensor([[2.0, 4.0], [1.0, 1.0]])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def seen(knowledge: str = "all", **more) -> View:
    return under_server(HONEST, LIARS, start=START, knowledge=knowledge, **more)


def mean_rule(own: Tensor, received: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    left = (1 - weight.sum()) * own
    return left + weight @ received, torch.ones_like(weight)


def byzfl_rule(rule):
    return lambda own, received, weight: (rule(received), torch.ones_like(weight))


def same(got: Tensor, expected) -> None:
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float32))


# --- simple lies ---------------------------------------------------------------------------------


def test_sign_flip_reverses_each_liars_own_change():
    # Changes (1, 2) and (0, -1) from the start (1, 2).
    same(SignFlip().lie(seen()), [[0, 0], [1, 3]])


def test_sign_flip_of_the_mean_is_byzfls_from_where_training_began():
    lie = SignFlip(of="mean", knowledge="all").lie(seen())
    same(lie, [[-1, 3], [-1, 3]])  # (1, 2) - (2, -1)
    same(lie[0] - START, byzfl.SignFlipping()(HONEST - START))


def test_sign_flip_of_the_mean_is_the_colluders_where_no_more_is_known():
    # Their mean change is (0.5, 0.5).
    same(SignFlip(of="mean", knowledge="colluders").lie(seen("colluders"))[0], [0.5, 1.5])


def test_sign_flip_of_the_model():
    same(SignFlip(of="model").lie(seen()), -LIARS)


def test_gaussian_has_variance_200_and_differs_by_node_and_round():
    liars = torch.zeros(2, 20_000)
    lies = [Gaussian().lie(under_server(liars, liars, round=round)) for round in (0, 1, 0)]
    assert lies[0].var().item() == pytest.approx(200, rel=0.03)
    assert abs(lies[0].mean().item()) < 0.3  # standard error 14.1 / 200 = 0.07
    assert not torch.equal(lies[0][0], lies[0][1])
    assert not torch.equal(lies[0], lies[1])
    assert torch.equal(lies[0], lies[2])


def test_zero_sends_the_model_from_before_training():
    same(Zero().lie(seen()), [[1, 2], [1, 2]])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, 0.0])
def test_constant_fills_all_coordinates_or_one(value: float):
    expected = torch.tensor(value)
    everywhere = Constant(value=value).lie(seen())
    torch.testing.assert_close(everywhere, expected.expand(2, 2), equal_nan=True)
    one = Constant(value=value, coordinates="one").lie(seen())
    changed = ~torch.isclose(one, LIARS)
    assert changed.sum(1).tolist() == [1, 1]
    torch.testing.assert_close(one[changed], expected.expand(2), equal_nan=True)


# --- scaling -------------------------------------------------------------------------------------


def test_scaling_multiplies_the_change():
    # (1, 2) + 3 (1, 2) and (1, 2) + 3 (0, -1)
    same(Scaling(factor=3).lie(seen()), [[4, 8], [1, -1]])


def test_model_replacement_puts_the_liars_model_in_place_of_the_mean():
    view = under_server(START.repeat(4, 1), LIARS[:1], start=START, knowledge="own")
    lie = ModelReplacement().lie(view)
    same(lie, [[6, 12]])  # 5 senders: (1, 2) + 5 (1, 2)
    same(torch.cat([lie, START.repeat(4, 1)]).mean(0), LIARS[0])


def test_model_replacement_allows_for_the_servers_learning_rate_and_fellow_liars():
    # 5 senders, eta 0.5, 2 colluders: the factor is 5 / (0.5 * 2) = 5.
    lie = ModelReplacement(server_lr=0.5, knowledge="colluders").lie(seen("colluders"))
    same(lie, [[6, 12], [1, -3]])


def test_model_replacement_keeps_within_its_norm_bound():
    lie = ModelReplacement(norm_bound=4.0).lie(seen())
    change = lie - START  # 2.5 times (1, 2), of norm 5.6, is shortened; 2.5 (0, -1) is not
    same(change.norm(dim=1), [4.0, 2.5])
    same(change[0], torch.tensor([1.0, 2.0]) * 4 / math.sqrt(5))


# --- ALIE and IPM --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "z"), [(10, 2, 0), (20, 4, 0.157), (50, 10, 0.253), (51, 12, 0.361), (10, 4, 0.431)]
)
def test_alies_z_counts_the_supporters_that_a_majority_needs(n: int, m: int, z: float):
    # n 20, m 4: h = 11 - 4 = 7, Phi^-1(9/16 = 0.5625) = 0.157 in a table of the normal.
    assert support(n, m) == pytest.approx(z, abs=5e-4)


@pytest.mark.parametrize(("n", "m"), [(2, 1), (3, 2), (10, 6), (10, 9), (2, 2)])
def test_alies_z_is_finite_whoever_is_in_the_majority(n: int, m: int):
    assert math.isfinite(support(n, m))


def test_alie_by_hand():
    # Honest: mean (3, 1), standard deviation (1, 0). n = 5, m = 2: h = 1, z = Phi^-1(2/3) = 0.4307.
    same(ALIE(knowledge="all").lie(seen()), [[3 - 0.430727, 1]] * 2)
    # Colluders: mean (1.5, 2.5), standard deviation (0.7071, 2.1213).
    lie = ALIE(z=2.0).lie(seen("colluders"))
    same(lie, [[1.5 - math.sqrt(2), 2.5 - 3 * math.sqrt(2)]] * 2)


def test_alie_is_byzfls_with_the_other_sign():
    honest = drawn(1, 8, 30)
    lie = ALIE(z=1.3, knowledge="all").lie(under_server(honest, drawn(2, 2, 30)))
    same(lie[1], byzfl.ALittleIsEnough(tau=-1.3)(honest))


def test_alie_of_a_lone_liar_is_its_own_vector():
    view = under_server(HONEST, LIARS[:1], start=START, knowledge="colluders")
    same(ALIE().lie(view), LIARS[:1])


def test_ipm_by_hand_and_as_byzfls():
    same(IPM(eps=2.0).lie(seen()), [[-3, 4]] * 2)  # (1, 2) - 2 (2, -1)
    expected = byzfl.InnerProductManipulation(tau=0.1)(HONEST - START)
    same(IPM().lie(seen())[0] - START, expected)


@pytest.mark.parametrize("rule", [aggregators.TrMean(3), aggregators.Krum(3), aggregators.Median()])
@pytest.mark.parametrize(
    ("ours", "theirs", "delta"),  # ByzFL adds tau sigma: it looks on our side where tau is negative
    [
        (OptimalALIE(), byzfl.Optimal_ALittleIsEnough, -10.0),
        (OptimalIPM(), byzfl.Optimal_InnerProductManipulation, 10.0),
    ],
)
def test_optimal_attacks_do_at_least_the_harm_of_byzfls(ours, theirs, delta: float, rule):
    honest = drawn(3, 12, 40) + 0.5
    view = under_server(honest, drawn(4, 3, 40), rule=byzfl_rule(rule), knowledge="defence")

    def harm(lie: Tensor) -> float:
        result = rule(torch.cat([lie.expand(3, -1), honest]))
        return (result - honest.mean(0)).norm().item()

    expected = harm(theirs(agg=rule, pre_agg_list=[], f=3, delta=delta)(honest))
    assert harm(ours.lie(view)[0]) >= 0.999 * expected


def test_optimal_attacks_go_as_far_as_they_may_where_nothing_holds_them():
    honest = drawn(5, 6, 4)
    view = under_server(honest, honest[:2], rule=mean_rule, knowledge="defence")
    same(OptimalIPM().lie(view)[0], -1000 * honest.mean(0))
    same(OptimalALIE().lie(view)[0], honest.mean(0) - 1000 * honest.std(0))


# --- Min-Max, Min-Sum ----------------------------------------------------------------------------

KINDS = ["unit", "std", "sign"]


def _largest_distance(point: Tensor, honest: Tensor) -> Tensor:
    return (point - honest).double().norm(dim=1).max()


def _sum_of_squares(point: Tensor, honest: Tensor) -> Tensor:
    return (point - honest).double().square().sum()


def _direction(kind: str, honest: Tensor, start: Tensor) -> Tensor:
    change = honest.mean(0) - start
    if kind == "unit":
        return -change / change.norm()
    return -change.sign() if kind == "sign" else -honest.std(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("attack", "measure"), [(MinMax, _largest_distance), (MinSum, _sum_of_squares)]
)
@pytest.mark.parametrize("scale", [1e-3, 100.0])  # beyond 20, which the paper's search never passes
def test_min_max_and_min_sum_reach_their_bound(attack, measure, kind: str, scale: float):
    honest, start = scale * drawn(6, 9, 25) + 1, scale * drawn(7, 25)
    lie = attack(perturbation=kind).lie(under_server(honest, honest[:2], start=start))[0]
    bound = max(measure(x, honest).item() for x in honest)
    assert measure(lie, honest).item() == pytest.approx(bound, rel=1e-3)
    step = lie - honest.mean(0)
    further = honest.mean(0) + 1.01 * step
    assert measure(further, honest).item() > 1.0005 * bound
    direction = _direction(kind, honest, start)
    assert torch.cosine_similarity(step, direction, dim=0).item() == pytest.approx(1, abs=1e-4)


def test_min_max_by_hand():
    # 0, 2 and 4 from start 0: mean 2, p = -1, largest distance 4. |2 - g - 4| <= 4 gives g = 2.
    honest = torch.tensor([[0.0], [2.0], [4.0]])
    view = under_server(honest, honest[:1])
    same(MinMax(perturbation="unit").lie(view), [[0.0]])
    # Sums of squares 4 + 16 = 20, 4 + 4 = 8, 20: 3 g^2 + 8 <= 20 gives g = 2.
    same(MinSum(perturbation="sign").lie(view), [[0.0]])


def test_min_max_sends_the_mean_where_the_honest_agree():
    honest = torch.ones(3, 2)
    same(MinMax(perturbation="std").lie(under_server(honest, honest[:1])), [[1.0, 1.0]])


# --- mimic ---------------------------------------------------------------------------------------


def test_mimic_copies_the_extreme_of_the_leading_direction():
    # Changes differ most along x: -1, 0, 1, 6 about a mean of 1.5, where node 3 is farthest out.
    changes = torch.tensor([[-1.0, 0.1], [0.0, -0.1], [1.0, 0.1], [6.0, -0.1]])
    view = under_server(changes + START, LIARS, start=START)
    same(Mimic().lie(view), [[7.0, 1.9]] * 2)


def test_mimic_judges_the_updates_themselves_not_their_difference_to_the_mean():
    # Mean 6.375, from which 0 is farthest; the largest update is 9.
    changes = torch.tensor([[0.0], [8.0], [8.5], [9.0]])
    same(Mimic().lie(under_server(changes, changes[:1])), [[9.0]])


@pytest.mark.parametrize("seed", range(5))
def test_mimic_is_byzfls_of_the_worker_farthest_along_the_top_singular_vector(seed: int):
    honest = drawn(seed, 7, 20)
    top = torch.linalg.svd(honest - honest.mean(0)).Vh[0]
    expected = byzfl.Mimic(epsilon=int((honest @ top).abs().argmax()))(honest)
    same(Mimic().lie(under_server(honest, honest[:2]))[0], expected)


# --- Fang ----------------------------------------------------------------------------------------


def krum_picks(vectors: Tensor, f: int) -> int:
    """Blanchard et al. 2017, section 4, word for word."""
    n = len(vectors)
    scores = []
    for i in range(n):
        others = [float((vectors[i] - vectors[j]).square().sum()) for j in range(n) if j != i]
        scores.append(sum(sorted(others)[: n - f - 2]))
    return int(np.argmin(scores))


@pytest.mark.parametrize("seed", range(4))
def test_fang_krum_is_picked_by_krum_and_larger_ones_are_not(seed: int):
    honest, start = 0.05 * drawn(seed, 12, 20) + 0.3, drawn(seed + 50, 20)
    start = 0.3 + 0.01 * start
    view = under_server(honest, honest[:4], start=start)
    lies = FangKrum(eps=0.0).lie(view)
    sign = (honest.mean(0) - start).sign()
    size = float(((start - lies[0]) / sign).mean())
    same(lies, (start - size * sign).expand(4, -1))
    assert size > 0.01
    assert krum_picks(torch.cat([lies, honest]), 4) < 4
    larger = (start - 2 * size * sign).expand(4, -1)
    assert krum_picks(torch.cat([larger, honest]), 4) >= 4


def test_fang_krum_starts_at_the_bound_of_theorem_1():
    # One coordinate, start 0; honest 1, 1.1, 1.3, 1.6; 3 liars, so n = 7, f = 3, n - f - 2 = 2.
    # Least sum of 2 squared distances, at 1.1: 0.01 + 0.04; n - 2f - 1 = 0 is taken as 1.
    # Bound: sqrt(0.05) + 1.6. Three equal lies support each other with 0, so Krum picks it at once.
    honest = torch.tensor([[1.0], [1.1], [1.3], [1.6]])
    lie = FangKrum(eps=0.0).lie(under_server(honest, honest[:3]))
    same(lie, [[-math.sqrt(0.05) - 1.6]] * 3)


def test_fang_krums_supporters_are_within_eps():
    lies = FangKrum(eps=0.01).lie(under_server(drawn(1, 9, 20) + 2, drawn(2, 3, 20)))
    distance = (lies - lies[0]).norm(dim=1)
    assert distance[0] == 0
    assert (distance[1:] > 0).all()
    assert (distance[1:] <= 0.0101).all()
    assert not torch.equal(lies[1], lies[2])


def test_fang_trims_intervals_in_all_cases_of_sign():
    # Columns: rising from min 1, rising from min -1, rising from min 0; falling to max 3, falling
    # to max -1; not changing. Start 0, -3, -1, 5, 0, 2.
    start = torch.tensor([0.0, -3.0, -1.0, 5.0, 0.0, 2.0])
    honest = torch.tensor([[1.0, -1.0, 0.0, 2.0, -1.0, 1.0], [4.0, 3.0, 2.0, 3.0, -2.0, 3.0]])
    lies = FangTrim().lie(under_server(honest, honest[:1].repeat(2000, 1), start=start))
    low = [0.5, -2, 0, 3, -1, 2]
    high = [1, -1, 0, 6, -0.5, 2]
    torch.testing.assert_close(lies.amin(0), torch.tensor(low), atol=0.01, rtol=0)
    torch.testing.assert_close(lies.amax(0), torch.tensor(high), atol=0.01, rtol=0)
    middle = (torch.tensor(low) + torch.tensor(high)) / 2
    torch.testing.assert_close(lies.mean(0), middle, atol=0.1, rtol=0)


def test_fang_trim_of_colluders_draws_three_to_four_deviations_off():
    # The liars' own: mean (1.5, 2.5), deviations (0.5, 1.5), both changes rising from (1, 2).
    lies = torch.cat(
        [
            FangTrim(knowledge="colluders").lie(seen("colluders", round=round))
            for round in range(500)
        ]
    )
    torch.testing.assert_close(lies.amin(0), torch.tensor([-0.5, -3.5]), atol=0.02, rtol=0)
    torch.testing.assert_close(lies.amax(0), torch.tensor([0.0, -2.0]), atol=0.02, rtol=0)


# --- without a server ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack", [ALIE(), FangKrum(), FangTrim(), IPM(), Mimic(), MinMax(), MinSum()]
)
def test_where_no_honest_node_sends_colluders_go_by_their_own_vectors(attack):
    lies = attack.lie(under_server(drawn(0, 0, 4), drawn(1, 3, 4)))
    assert lies.shape == (3, 4)
    assert lies.isfinite().all()


def linked(n: int, *pairs: tuple[int, int]) -> Neighbours:
    a, b = np.array(pairs).T
    return Neighbours.of(n, np.concatenate([a, b]), np.concatenate([b, a]))


def test_dissensus_on_a_triangle():
    # Nodes 0 and 1 honest at 0 and 6, node 2 lies; all Metropolis weights are 1/3.
    # To 0: 0 - 1.5 (1/3 (6 - 0)) / (1/3) = -9; to 1: 6 - 1.5 (0 - 6) = 15.
    view = in_gossip(torch.tensor([[0.0], [6.0], [1.0]]), [2], linked(3, (0, 1), (1, 2), (0, 2)))
    same(Dissensus().lie(view), [[-9.0], [15.0]])


def test_dissensus_with_eps_1_leaves_plain_gossip_where_it_was():
    graph = linked(6, (0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (1, 4), (2, 4), (0, 5), (3, 5))
    models = drawn(8, 6, 5)
    view = in_gossip(models, [4, 5], graph, rule=mean_rule)
    same(view.ask(Dissensus(eps=1.0).lie(view)).result, models[:4])


def test_spectral_heterogeneity_pushes_two_clusters_apart():
    # Two honest triangles with one link between them; the liar hears everybody.
    graph = linked(
        7, (0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3), *((6, i) for i in range(6))
    )
    models = torch.tensor([[-1.0, 0], [-1, 0], [-1, 0], [1, 0], [1, 0], [1, 0], [0, 0]])
    view = in_gossip(models, [6], graph, rule=mean_rule)
    lies = SpectralHeterogeneity().lie(view)
    assert (lies[:3, 0] < -1).all()
    assert (lies[3:, 0] > 1).all()
    same(lies[:, 1], torch.zeros(6))
    # By symmetry v = (-a, -a, -b, b, a, a), and plain gossip has nothing against the largest c.
    push = lies[:, 0] - models[:6, 0]
    same(push, -push.flip(0))
    assert push.abs().max() > 100
    # Metropolis weights: 0, 1, 4, 5 have degree 3; 2, 3 have 4: 1/4 between 0 and 1, else 1/5; the
    # eigenvector of the antisymmetric part [[0.4 - 0.2, -0.2], [-0.4, 0.8]] at (a, b).
    smaller = 0.5 - math.sqrt(0.09 + 0.08)
    ratio = (0.2 - smaller) / 0.2
    torch.testing.assert_close(push[3] / push[4], torch.tensor(ratio), rtol=1e-4, atol=0)


def test_graph_attacks_are_refused_where_there_is_no_graph():
    for attack in (Dissensus(), SpectralHeterogeneity()):
        assert attack.needs_graph
        with pytest.raises(InputError, match="without a server"):
            attack.lie(seen("defence"))


# --- knowledge -----------------------------------------------------------------------------------

LEAST = [
    (SignFlip, "own"),
    (Gaussian, "own"),
    (Zero, "own"),
    (Constant, "own"),
    (Scaling, "own"),
    (ModelReplacement, "own"),
    (ALIE, "colluders"),
    (IPM, "colluders"),
    (MinMax, "colluders"),
    (MinSum, "colluders"),
    (FangTrim, "colluders"),
    (FangKrum, "all"),
    (Mimic, "all"),
    (Dissensus, "all"),
    (OptimalALIE, "defence"),
    (OptimalIPM, "defence"),
    (SpectralHeterogeneity, "defence"),
    (OracleBoundary, "defence"),
]
LEVELS = ["own", "colluders", "all", "defence"]


@pytest.mark.parametrize(("attack", "least"), LEAST)
def test_an_attack_is_refused_less_than_it_needs(attack, least: str):
    for level in LEVELS:
        if LEVELS.index(level) < LEVELS.index(least):
            with pytest.raises(InputError, match=r"attack\.knowledge"):
                attack(knowledge=level)
        else:
            assert attack(knowledge=level).knowledge == level


@pytest.mark.parametrize(("attack", "least"), [(a, k) for a, k in LEAST if not a.needs_graph])
def test_no_attack_looks_at_more_than_the_least_that_it_declares(attack, least: str):
    view = under_server(HONEST, LIARS, start=START, rule=mean_rule, knowledge=least)
    lie = attack(knowledge=least).lie(view)
    assert lie.shape == LIARS.shape
    assert lie.dtype == torch.float32


def test_a_view_refuses_what_its_threat_model_does_not_grant():
    with pytest.raises(InputError, match="does not see what honest nodes send"):
        _ = seen("colluders").secrets
    with pytest.raises(InputError, match="may not ask"):
        seen("all").ask(LIARS)
    assert torch.equal(seen("colluders").sample, LIARS)
    assert torch.equal(seen("all").sample, HONEST)


@pytest.mark.parametrize(
    "attack", [Gaussian(), Constant(coordinates="one"), FangKrum(), FangTrim()]
)
def test_draws_depend_on_the_seed_alone(attack):
    honest, liars = drawn(1, 8, 50), drawn(2, 3, 50)
    lies = [attack.lie(under_server(honest, liars, seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(lies[0], lies[1])
    assert not torch.equal(lies[0], lies[2])


@pytest.mark.parametrize(
    ("attack", "field", "value"),
    [
        (SignFlip, "of", "sign"),
        (Gaussian, "variance", 0.0),
        (Constant, "coordinates", "two"),
        (ModelReplacement, "server_lr", 0.0),
        (ModelReplacement, "norm_bound", -1.0),
        (MinMax, "perturbation", "mean"),
        (FangKrum, "eps", -0.1),
        (FangTrim, "b", 1.0),
        (OracleBoundary, "direction", "up"),
        (ALIE, "z", "1"),
        (IPM, "eps", None),
        (Dissensus, "eps", math.inf),
        (Scaling, "factor", math.nan),
        (Scaling, "factor", True),
        (Constant, "value", "inf"),
    ],
)
def test_settings_out_of_range_are_refused(attack, field: str, value):
    with pytest.raises(InputError, match=rf"attack\.{field}: .* was given; allowed is"):
        attack(**{field: value})


@pytest.mark.parametrize("base", [UpdateAttack, DataAttack])
def test_what_attacks_are_made_from_is_none(base: type):
    with pytest.raises(TypeError, match="abstract"):
        base()


def test_the_mean_cannot_be_flipped_by_one_who_knows_no_other():
    with pytest.raises(InputError, match=r"attack\.knowledge: 'own'"):
        SignFlip(of="mean")


@pytest.mark.parametrize("attack", [attack for attack, _ in LEAST])
def test_no_attack_changes_what_it_sees(attack):
    graph = linked(5, (0, 1), (1, 2), (0, 2), (0, 3), (1, 3), (2, 4), (3, 4))
    models = drawn(9, 5, 6)
    before = models.clone()
    attack(knowledge="defence").lie(in_gossip(models, [3, 4], graph, rule=mean_rule))
    assert torch.equal(models, before)
