import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn

import small
import tacit
from tacit import (
    DPSGD,
    SGD,
    AdaptiveClip,
    Clip,
    FedAvg,
    GaussianNoise,
    Gossip,
    HomomorphicEncryption,
    LaplaceNoise,
    NormProof,
    SecretSharing,
    SecureAggregation,
    SkellamNoise,
    Star,
    ThresholdEncryption,
    VerifiableSum,
)
from tacit.errors import InputError
from tacit.protection.accounting import multiplier_for, spent
from tacit.protection.guard import Guard, Setting
from tacit.protection.release import Poisson, Release, WithoutReplacement

DELTA = 1e-5


def gauss(**changes):
    return GaussianNoise(**({"multiplier": 1.0, "delta": DELTA, "where": "central"} | changes))


def experiment(*protection, **changes):
    fields = {"data": small.federation((12, 20, 8, 16, 9, 10)), "model": lambda: nn.Linear(4, 2)}
    return small.experiment(**fields | {"protection": protection} | changes)


CENTRAL, DISTRIBUTED, LOCAL = (gauss(where=w) for w in ("central", "distributed", "local"))
ROWS = DPSGD(norm=1.0, multiplier=1.0, delta=DELTA)
GRAPH = {"algorithm": Gossip(), "topology": tacit.RandomRegular(4)}
CLIP = Clip(1.0)
SECURE = SecureAggregation()
SHARED = SecretSharing()
PROOF = NormProof()
ONE_KEY = HomomorphicEncryption()
VERIFIED = VerifiableSum()
NORMED = lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))  # noqa: E731


# (refused, what the refusal says, the plan that it names)
@pytest.mark.parametrize(
    ("refused", "says", "named"),
    [
        ((CENTRAL,), "add Clip(1.0)", (CLIP, CENTRAL)),
        (
            (LaplaceNoise(multiplier=1.0, delta=DELTA),),
            "add Clip(1.0, order=1)",
            (Clip(1.0, order=1), LaplaceNoise(multiplier=1.0, delta=DELTA)),
        ),
        (
            (Clip(2.0, order=1), CENTRAL),
            "use Clip(2.0, order=2)",
            (Clip(2.0, order=2), CENTRAL),
        ),
        (
            (Clip(2.0), LaplaceNoise(multiplier=1.0, delta=DELTA)),
            "use Clip(2.0, order=1)",
            (Clip(2.0, order=1), LaplaceNoise(multiplier=1.0, delta=DELTA)),
        ),
        (
            (
                Clip(2.0, order=1),
                LaplaceNoise(multiplier=1.0, delta=DELTA, where="central"),
                SECURE,
            ),
            'use GaussianNoise(where="central") with Clip(2.0)',
            (Clip(2.0), CENTRAL, SECURE),
        ),
        ((CLIP, DISTRIBUTED), "add SecureAggregation()", (CLIP, DISTRIBUTED, SECURE)),
        ((CLIP, DISTRIBUTED), 'GaussianNoise(where="local")', (CLIP, LOCAL)),
        ((CLIP, DISTRIBUTED), 'where="central"', (CLIP, CENTRAL)),
        (
            (SecureAggregation(7),),
            "allowed is 3 to 6, the smallest cohort",
            (SecureAggregation(6),),
        ),
        ((CLIP, LOCAL, ROWS), "allowed is one of the two", (CLIP, LOCAL)),
        ((CLIP, LOCAL, ROWS), "allowed is one of the two", (ROWS,)),
        ((Clip(1.0), Clip(2.0)), "allowed is one of the two", (Clip(2.0),)),
        ((Clip(1.0), AdaptiveClip()), "allowed is one of the two", (AdaptiveClip(),)),
        ((CLIP, CENTRAL, LOCAL), "allowed is one of the two", (CLIP, LOCAL)),
        ((SECURE, SecureAggregation(4)), "allowed is one of the two", (SECURE,)),
        ((ROWS, ROWS), "allowed is one of the two", (ROWS,)),
        ((SECURE, SHARED), "allowed is one of the two", (SHARED,)),
        ((SecretSharing(7),), "allowed is 3 to 6, the smallest cohort", (SecretSharing(6),)),
        ((CLIP, DISTRIBUTED), "add SecureAggregation()", (CLIP, DISTRIBUTED, SHARED)),
        ((CLIP, PROOF), "add SecretSharing()", (CLIP, SHARED, PROOF)),
        ((VERIFIED,), "add SecureAggregation()", (VERIFIED, SECURE)),
        ((VERIFIED, VERIFIED, ONE_KEY), "allowed is one of the two", (VERIFIED, ONE_KEY)),
        ((PROOF, SECURE), "add Clip(1.0)", (CLIP, SECURE, PROOF)),
        ((SHARED, PROOF), "add Clip(1.0)", (CLIP, SHARED, PROOF)),
        (
            (Clip(2.0, order=1), SHARED, PROOF),
            "use Clip(2.0, order=2)",
            (Clip(2.0, order=2), SHARED, PROOF),
        ),
        (
            (CLIP, SHARED, PROOF, DISTRIBUTED),
            'use GaussianNoise(where="central")',
            (CLIP, SHARED, PROOF, CENTRAL),
        ),
        ((CLIP, ONE_KEY, CENTRAL), 'use GaussianNoise(where="local")', (CLIP, ONE_KEY, LOCAL)),
        ((CLIP, ONE_KEY, DISTRIBUTED), "or SecureAggregation()", (CLIP, SECURE, DISTRIBUTED)),
        ((CLIP, ONE_KEY, PROOF), "use SecretSharing() instead", (CLIP, SHARED, PROOF)),
        ((ONE_KEY, SHARED), "allowed is one of the two", (ONE_KEY,)),
        ((ThresholdEncryption(7),), "allowed is 3 to 6, the smallest cohort", (SECURE,)),
        ((CLIP, SHARED, PROOF, LOCAL), "or leave the proof out", (CLIP, SHARED, LOCAL)),
        (
            (CLIP, gauss(epsilon=0.1)),
            "not even one round; give a larger epsilon or multiplier",
            (CLIP, gauss(epsilon=10.0)),
        ),
        ((CLIP, gauss(epsilon=1.0, multiplier=0.0)), "larger epsilon or mult", (CLIP, CENTRAL)),
    ],
)
def test_protections_that_do_not_hold_together_are_refused(refused, says, named):
    with pytest.raises(InputError) as refusal:
        experiment(*refused).check()
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    experiment(*named).check()


@pytest.mark.parametrize(
    ("protection", "changes", "says", "named"),
    [
        ((CLIP, CENTRAL), GRAPH, 'use GaussianNoise(where="local")', (CLIP, LOCAL)),
        ((CLIP, CENTRAL), GRAPH, "or FedAvg() as the algorithm", {"algorithm": FedAvg()}),
        ((CLIP, DISTRIBUTED, SECURE), GRAPH, "is distributed, but there is no", (CLIP, LOCAL)),
        ((AdaptiveClip(0.5),), GRAPH, "use Clip(0.5) without a server", (Clip(0.5),)),
        ((SECURE,), {"algorithm": Gossip()}, "a sum of 2, as in the smallest neighbourhood", GRAPH),
        ((ONE_KEY,), GRAPH, "use SecureAggregation() without", (SECURE,)),
        ((ThresholdEncryption(),), GRAPH, "use SecureAggregation() without", (SECURE,)),
        ((ONE_KEY,), {"aggregation": tacit.Krum(1)}, "use Mean()", {}),
        ((CLIP, SECURE, PROOF), GRAPH, "or leave it out", (CLIP, SECURE)),
        ((SECURE, VERIFIED), GRAPH, "use FedAvg()", {"algorithm": FedAvg()}),
        (
            (CLIP, SECURE, PROOF),
            {"model": lambda: nn.Sequential(nn.Linear(4, 15_000), nn.Linear(15_000, 2))},
            "takes minutes for 105,002 numbers; use SecretSharing()",
            (CLIP, SHARED, PROOF),
        ),
        ((ONE_KEY,), {"topology": Star(4)}, "use Star()", {"topology": Star()}),
        ((SHARED,), GRAPH, "use SecureAggregation() without", (SECURE,)),
        ((SHARED,), {"aggregation": tacit.Krum(1)}, "use Mean()", {}),
        ((CLIP, SHARED, PROOF), {"aggregation": tacit.Median()}, "use Mean()", {}),
        ((SHARED,), {"topology": Star(cohort=2)}, "in the smallest cohort", {"topology": Star()}),
        ((SHARED,), {"topology": tacit.Hierarchical(2)}, "use Star()", {"topology": Star()}),
        (
            (CLIP, SHARED, PROOF),
            {"algorithm": tacit.FedNova()},
            "use FedAvg()",
            {"algorithm": FedAvg()},
        ),
        ((SECURE,), {"topology": Star(cohort=2)}, "in the smallest cohort", {"topology": Star()}),
        ((SECURE,), {"aggregation": tacit.Krum(1)}, "use Mean()", {}),
        ((SECURE,), {"aggregation": tacit.Krum(1)}, "or leave that protection out", ()),
        ((SECURE,), {"aggregation": tacit.Median()}, "use Mean() as the aggregation", {}),
        ((CLIP, CENTRAL), {"aggregation": tacit.Median()}, "needs single updates", {}),
        ((AdaptiveClip(),), {"aggregation": tacit.Median()}, "needs single updates", {}),
        ((CLIP, CENTRAL), {"aggregation": tacit.Median()}, "leave that protection", (CLIP, LOCAL)),
        (
            (SECURE,),
            {"topology": tacit.Hierarchical(3)},
            "a sum of 2, as in the smallest group",
            {"topology": tacit.Hierarchical(2)},
        ),
        (
            (tacit.SecretSharing(),),
            {"topology": tacit.Hierarchical(2)},
            "or SecureAggregation() in groups",
            (SECURE,),
        ),
        ((CLIP,), {"algorithm": tacit.Scaffold()}, "model and control", {"algorithm": FedAvg()}),
        ((CLIP, LOCAL), {"algorithm": tacit.Scaffold()}, "use FedAvg()", {"algorithm": FedAvg()}),
        ((CLIP, CENTRAL), {"algorithm": tacit.FedNova()}, "use FedAvg()", {"algorithm": FedAvg()}),
        ((ROWS,), {"algorithm": tacit.FedRep(("weight",))}, "use FedPer", {"algorithm": FedAvg()}),
        (
            (CLIP, CENTRAL),
            {"topology": Star(4, "with-replacement")},
            "allowed is 'poisson' or 'without-replacement'",
            {"topology": Star(4, "without-replacement")},
        ),
        (
            (SECURE,),
            {"topology": Star(4, "with-replacement")},
            "allowed is 'poisson' or 'without-replacement'",
            {"topology": Star(4)},
        ),
        (
            (CLIP, CENTRAL),
            {"topology": Star(4, "poisson"), "algorithm": tacit.FedDyn()},
            "or FedAvg() as the algorithm",
            {"topology": Star(4, "poisson")},
        ),
        ((ROWS,), {"model": NORMED}, "use GroupNorm", {}),
    ],
)
def test_protections_that_do_not_fit_the_plan_are_refused(protection, changes, says, named):
    with pytest.raises(InputError) as refusal:
        experiment(*protection, **changes).check()
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    if isinstance(named, dict):
        experiment(*protection, **named).check()
    else:
        experiment(*named, **changes).check()


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": tacit.Alone()},
        {"algorithm": tacit.PushSum()},
        {"algorithm": tacit.LEARN(), "topology": tacit.Complete()},
        {"algorithm": Gossip(mix="before")},
    ],
)
@pytest.mark.parametrize("protection", [(CLIP,), (CLIP, LOCAL), (SECURE,)])
def test_algorithms_that_send_no_update_can_have_dpsgd_alone(changes, protection):
    with pytest.raises(
        InputError, match=r"sends no update .* use FedAvg\(\) or Gossip\(mix='after"
    ):
        experiment(*protection, **changes).check()
    experiment(ROWS, **changes).check()


@pytest.mark.parametrize("wrong", [1.0, "Clip", tacit.Median(), Clip])
def test_what_is_no_protection_is_refused(wrong):
    with pytest.raises(InputError, match=r"^protection: .* allowed are Clip\(1\.0\)"):
        experiment(wrong)


def test_a_protection_outside_a_list_is_refused():
    with pytest.raises(InputError, match="allowed is a list"):
        small.experiment(protection=CLIP)


def test_noise_that_no_bound_is_known_for_is_refused_before_the_run():
    # Shares of less than half a grid step: Kairouz, Liu, Steinke 2021, proposition 14.
    with pytest.raises(InputError, match="grid steps"):
        experiment(CLIP, gauss(where="distributed", multiplier=1e-9), SECURE).check()


def test_noise_that_does_not_fit_into_the_sum_is_refused_before_the_run():
    # In steps of 1/128 of the norm, which Skellam tables for 30 norms of noise end at, rounding a
    # million numbers adds up to sqrt(10^6 / 4) / 128 = 3.9 norms.
    setting = Setting(10, 3, 3, 3, None, False, 10**6, ((1.0, 1),))
    for noise, fits in ((SkellamNoise, False), (GaussianNoise, True)):
        parts = (CLIP, noise(multiplier=30.0, delta=DELTA), SECURE)
        if fits:
            assert Guard.of(parts, setting).multiplier == 30
        else:
            with pytest.raises(InputError, match=r"SkellamNoise.*use GaussianNoise"):
                Guard.of(parts, setting)


@pytest.mark.parametrize("kind", [GaussianNoise, SkellamNoise])
@pytest.mark.parametrize("epsilon", [0.1, 3.0, 30.0, 300.0])
def test_the_sum_has_room_for_the_noise_of_any_budget(kind, epsilon):
    guard = experiment(CLIP, kind(epsilon=epsilon, delta=DELTA), SECURE).guard
    codec = guard.codec(10)
    most = guard.release.std * math.sqrt(guard.setting.most / guard.threshold)
    assert most <= codec.noise_std * codec.scale


# what is accounted for
def gaussian_epsilon(mu, delta):
    """Balle, Wang 2018, theorem 8: the Gaussian mechanism of sensitivity / deviation mu."""

    def excess(epsilon):
        tail = norm.cdf(mu / 2 - epsilon / mu)
        return tail - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)) - delta

    return brentq(excess, 0, 200)


# What a node sends is seen by itself: its update is hidden among all that it could be, up to two
# norms away. Of a sum's, by a server that everybody trusts, one norm is a node's whole share.
@pytest.mark.parametrize(("where", "sensitivity"), [("central", 1), ("local", 2)])
def test_epsilon_is_that_of_the_gaussian_mechanism(where, sensitivity):
    guard = experiment(CLIP, gauss(where=where, multiplier=1.5)).guard
    for rounds in (1, 3, 4):  # T releases are one with mu sqrt(T)
        expected = gaussian_epsilon(sensitivity * math.sqrt(rounds) / 1.5, DELTA)
        assert guard.epsilon(rounds) == pytest.approx(expected, rel=1e-6)


def test_local_laplace_noise_hides_any_update_behind_any_other():
    guard = experiment(Clip(1.0, order=1), LaplaceNoise(multiplier=4.0, delta=DELTA)).guard
    assert guard.epsilon(1) == pytest.approx(2 / 4, rel=1e-3)  # pure: 2 norms / scale


@pytest.mark.parametrize("kind", [GaussianNoise, SkellamNoise])
def test_distributed_noise_costs_no_less_than_real_noise_and_hardly_more(kind):
    noise = kind(multiplier=1.5, delta=DELTA)
    guard = experiment(CLIP, noise, SECURE).guard
    exact = gaussian_epsilon(2 / 1.5, DELTA)  # 4 rounds; Rényi's conversion loses some percent
    assert exact <= guard.epsilon(4) <= 1.15 * exact


def test_the_bit_of_adaptive_clipping_is_accounted_for():
    clips = (CLIP, AdaptiveClip(1.0))
    plain, more = (experiment(c, DISTRIBUTED, SECURE).guard.plans[0][0].grid for c in clips)
    assert (plain.dimension, more.dimension) == (10, 11)  # of 4 x 2 weights and 2 biases


def test_the_noise_that_a_budget_asks_for_spends_it():
    guard = experiment(CLIP, gauss(multiplier=None, epsilon=3.0)).guard
    assert 0.999 * 3 <= gaussian_epsilon(2 / guard.multiplier, DELTA) <= 3


def test_the_rounds_of_a_budget_are_all_that_fit():
    mu = 1.0
    epsilon = gaussian_epsilon(math.sqrt(7.5) * mu, DELTA)  # between those of 7 and 8 rounds
    assert experiment(CLIP, gauss(epsilon=epsilon), rounds=20).guard.rounds == 7
    assert experiment(CLIP, gauss(epsilon=epsilon), rounds=5).guard.rounds == 5


@pytest.mark.parametrize("sampling", ["poisson", "without-replacement"])
def test_only_central_noise_is_amplified_by_sampling(sampling):
    star = {"topology": Star(5, sampling), "seed": 1}
    everybody = gaussian_epsilon(2.0, DELTA)
    (release, times), *none = experiment(CLIP, CENTRAL, **star).guard.plans
    drawn = Poisson(5 / 6) if sampling == "poisson" else WithoutReplacement(5, 6)
    assert (release.sampler, times, none) == (drawn, 1, [])
    assert release.adjacency == ("add-or-remove" if sampling == "poisson" else "replace")
    for others in [(CLIP, LOCAL), (CLIP, DISTRIBUTED, SecureAggregation(3))]:
        guard = experiment(*others, **star).guard
        (release, _), *none = guard.plans
        assert release.sampler is None
        assert not none
        assert guard.epsilon(4) >= everybody * (1 - 1e-9)


def test_a_small_poisson_sample_costs_less():
    rare = experiment(CLIP, CENTRAL, topology=Star(1, "poisson")).guard
    assert rare.epsilon(4) < 0.8 * gaussian_epsilon(2.0, DELTA)


def test_laplace_noise_is_not_amplified_where_no_bound_is_known():
    noise = LaplaceNoise(multiplier=2.0, delta=DELTA, where="central")
    guard = experiment(Clip(1.0, order=1), noise, topology=Star(4)).guard
    assert guard.epsilon(1) <= 0.5 * 1.001  # pure: norm / scale
    assert guard.plans[0][0].sampler is None


# DP-SGD
def test_dpsgd_has_the_multiplier_of_the_smallest_node():
    # 4 rounds of one epoch in batches of 4: 8 rows have rate 1/2 and 2 steps a round.
    data = small.federation((8, 8, 8))
    base = {"data": data, "training": SGD(lr=0.1, batch_size=4)}
    guard = experiment(DPSGD(norm=1.0, epsilon=5.0, delta=1e-3), **base).guard
    assert guard.multiplier == multiplier_for(5.0, 1e-3, 4 * 2, Poisson(0.5))
    assert 0.999 * 5 <= guard.epsilon(4) <= 5


def test_dpsgd_counts_the_node_that_loses_most():
    # A node of 8 rows takes one step with all of them; one of 9 takes two with 8/9 of them.
    data = small.federation((8, 9, 0))
    guard = experiment(DPSGD(norm=1.0, epsilon=5.0, delta=1e-3), data=data).guard
    for rate, steps in [(1.0, 1), (8 / 9, 2)]:
        release = Release("gaussian", guard.multiplier, Poisson(rate))
        assert spent(release, 4 * steps, 1e-3) <= 5 * (1 + 1e-9)
    assert guard.epsilon(4) == pytest.approx(
        spent(Release("gaussian", guard.multiplier, Poisson(8 / 9)), 8, 1e-3)
    )


def test_dpsgd_on_pooled_rows_counts_all_of_them():
    data = small.federation((8, 8, 8))
    guard = experiment(ROWS, data=data, algorithm=tacit.Pooled()).guard
    assert guard.setting.training == ((8 / 24, 3),)


def test_dpsgd_ends_before_its_budget_is_passed():
    data = small.federation((8, 8, 8))
    example = DPSGD(norm=1.0, epsilon=3.0, multiplier=2.0, delta=1e-3)
    base = {"data": data, "rounds": 50, "training": SGD(lr=0.1, batch_size=4)}
    guard = experiment(example, **base).guard
    release = Release("gaussian", 2.0, Poisson(0.5))
    assert 0 < guard.rounds < 50
    assert spent(release, 2 * guard.rounds, 1e-3) <= 3 < spent(release, 2 * guard.rounds + 2, 1e-3)


def test_without_noise_nothing_is_promised():
    for parts in [(CLIP, gauss(multiplier=0.0)), (DPSGD(norm=1.0, multiplier=0.0, delta=DELTA),)]:
        guard = experiment(*parts).guard
        assert guard.epsilon(1) == np.inf
        assert guard.rounds == 4


def test_losses_on_own_rows_would_leak_past_noise() -> None:
    plan = small.experiment(
        algorithm=tacit.Gossip(), topology=tacit.Complete(), aggregation=tacit.UBAR(rho=0.4)
    )
    for parts in (
        [tacit.DPSGD(norm=1.0, multiplier=3.0, delta=1e-5)],
        [tacit.Clip(1.0), tacit.GaussianNoise(multiplier=3.0, delta=1e-5, where="local")],
    ):
        with pytest.raises(tacit.InputError, match="chooses by losses on the receiver's own rows"):
            plan.replace(protection=parts).check()
        plan.replace(protection=parts, aggregation=tacit.Median()).check()


def test_a_sum_of_two_is_refused_with_the_graph_that_has_more() -> None:
    with pytest.raises(InputError, match=r"use RandomRegular\(4\) or Complete\(\)"):
        experiment(SECURE, algorithm=Gossip(), topology=tacit.Ring()).check()
    experiment(SECURE, **GRAPH).check()
    with pytest.raises(InputError, match=r"use Star\(cohort=3\)"):
        experiment(SECURE, topology=Star(2)).check()
    experiment(SECURE, topology=Star(3)).check()


def test_nodes_without_rows_hide_nobody() -> None:
    data = small.federation((12, 0, 9, 8))
    masks = [tacit.SecureAggregation()]
    small.experiment(data=data, protection=masks).check()
    with pytest.raises(tacit.InputError, match="hides nothing in a sum of 2"):
        small.experiment(data=small.federation((12, 0, 0, 8)), protection=masks).check()
    noise = [tacit.Clip(1.0), tacit.GaussianNoise(multiplier=5.0, delta=1e-5, where="central")]
    with pytest.raises(tacit.InputError, match="skips a round in which nobody has rows"):
        small.experiment(data=data, protection=noise, algorithm=tacit.FedDyn()).check()
    small.experiment(data=data, protection=noise).check()
