"""Topologies: closed-form spectra, weights by hand, networkx as another builder, refusals."""

import os
import re
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tacit.errors import InputError
from tacit.topology import (
    Complete,
    Custom,
    DirectedExponential,
    DirectedRing,
    Epidemic,
    ErdosRenyi,
    Exponential,
    Graph,
    Hierarchical,
    Hypercube,
    Neighbours,
    Pairwise,
    RandomRegular,
    Ring,
    SmallWorld,
    Star,
    TimeVarying,
    Torus,
    neighbours,
)

DRAWN = [RandomRegular(4), ErdosRenyi(0.3), SmallWorld(4, 0.3)]
FRESH = [Epidemic(3), Pairwise(), TimeVarying((Ring(), Epidemic(2)))]
FIXED = [Ring(), Torus(), Hypercube(), Exponential(), Complete(), DirectedRing()]
FIXED += [DirectedExponential(), Custom(nx.path_graph(16))]
EVERY = FIXED + DRAWN + FRESH
SAMPLING = ["without-replacement", "with-replacement", "poisson", "cyclic"]


def links(graph: Neighbours) -> set[tuple[int, int]]:
    """(sender, receiver) pairs, read off the CSR arrays one by one."""
    return {
        (int(sender), receiver)
        for receiver in range(graph.nodes)
        for sender in graph.senders[graph.offsets[receiver] : graph.offsets[receiver + 1]]
    }


def both_ways(edges: object) -> set[tuple[int, int]]:
    return {pair for a, b in edges for pair in ((a, b), (b, a))}


def path(nodes: int) -> Neighbours:
    return Custom(nx.path_graph(nodes)).graph(nodes, 0, 0)


# Neighbours


@st.composite
def edge_lists(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    nodes = draw(st.integers(1, 9))
    node = st.integers(0, nodes - 1)
    return nodes, draw(st.lists(st.tuples(node, node), max_size=30))


def from_pairs(nodes: int, pairs: list[tuple[int, int]]) -> Neighbours:
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Neighbours.of(nodes, ends[:, 0], ends[:, 1])


@given(edge_lists())
def test_links_are_kept_once_without_self_loops(case: tuple[int, list[tuple[int, int]]]) -> None:
    nodes, pairs = case
    graph = from_pairs(nodes, pairs)
    expected = {(a, b) for a, b in pairs if a != b}
    assert links(graph) == expected
    assert (graph.nodes, graph.edges) == (nodes, len(expected))
    for i in range(nodes):
        heard = graph.senders[graph.offsets[i] : graph.offsets[i + 1]]
        assert_array_equal(heard, np.sort(heard))
        assert graph.degree[i] == sum(b == i for _, b in expected)
        assert graph.out_degree[i] == sum(a == i for a, _ in expected)
    assert graph.symmetric == all((b, a) in expected for a, b in expected)


@given(edge_lists())
def test_connected_agrees_with_networkx(case: tuple[int, list[tuple[int, int]]]) -> None:
    nodes, pairs = case
    reference = nx.DiGraph(pairs)
    reference.add_nodes_from(range(nodes))
    assert from_pairs(nodes, pairs).connected == nx.is_strongly_connected(reference)


@given(edge_lists())
def test_metropolis_is_symmetric_and_doubly_stochastic(
    case: tuple[int, list[tuple[int, int]]],
) -> None:
    nodes, pairs = case
    graph = from_pairs(nodes, pairs + [(b, a) for a, b in pairs])
    w = graph.matrix(graph.metropolis())
    assert_array_equal(w, w.T)
    assert (w >= 0).all()
    assert_allclose(w.sum(axis=0), 1, atol=1e-6)
    assert_allclose(w.sum(axis=1), 1, atol=1e-6)


@given(edge_lists())
def test_push_columns_and_uniform_rows_sum_to_one(
    case: tuple[int, list[tuple[int, int]]],
) -> None:
    graph = from_pairs(*case)
    push = graph.matrix(graph.push(), graph.push_own())
    uniform = graph.matrix(graph.uniform())
    assert (push >= 0).all()
    assert (uniform >= 0).all()
    assert_allclose(push.sum(axis=0), 1, atol=1e-6)
    assert_allclose(uniform.sum(axis=1), 1, atol=1e-6)


def test_weights_of_a_path_of_three_by_hand() -> None:
    # Degrees 1, 2, 1. Metropolis: both links have weight 1 / (1 + 2).
    graph = path(3)
    assert_array_equal(graph.degree, [1, 2, 1])
    metropolis = [[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 3, 2 / 3]]
    assert_allclose(graph.matrix(graph.metropolis()), metropolis, atol=1e-7)
    uniform = [[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 2, 1 / 2]]
    assert_allclose(graph.matrix(graph.uniform()), uniform, atol=1e-7)
    push = graph.matrix(graph.push(), graph.push_own())
    assert_allclose(push, np.transpose(uniform), atol=1e-7)
    assert_allclose(graph.own(graph.metropolis()), [2 / 3, 1 / 3, 2 / 3], atol=1e-7)
    assert graph.metropolis().dtype == graph.own(graph.metropolis()).dtype == np.float32


def test_push_weights_of_a_directed_graph_by_hand() -> None:
    # 0 sends to 1 and 2 and keeps a third; 1 sends to 2 and keeps a half; 2 keeps everything.
    graph = from_pairs(3, [(0, 1), (0, 2), (1, 2)])
    expected = [[1 / 3, 0, 0], [1 / 3, 1 / 2, 0], [1 / 3, 1 / 2, 1]]
    assert_allclose(graph.matrix(graph.push(), graph.push_own()), expected, atol=1e-7)


def test_metropolis_refuses_one_way_links() -> None:
    with pytest.raises(InputError, match="both directions"):
        DirectedRing().graph(5, 0, 0).metropolis()


# Spectral gaps


def ring_gap(n: int) -> float:
    # Weights 1/3: eigenvalues (1 + 2 cos(2 pi k / n)) / 3.
    values = (1 + 2 * np.cos(2 * np.pi * np.arange(1, n) / n)) / 3
    return 1 - np.abs(values).max()


def torus_gap(rows: int, columns: int) -> float:
    # Weights 1/5: eigenvalues (1 + 2 cos(2 pi a / rows) + 2 cos(2 pi b / columns)) / 5.
    a = np.cos(2 * np.pi * np.arange(rows) / rows)
    b = np.cos(2 * np.pi * np.arange(columns) / columns)
    values = ((1 + 2 * a[:, None] + 2 * b) / 5).ravel()
    return 1 - np.abs(values[1:]).max()


@pytest.mark.parametrize(
    ("topology", "nodes", "gap"),
    [
        (Ring(), 3, 1.0),
        (Ring(), 10, ring_gap(10)),
        (Ring(), 101, ring_gap(101)),
        # Two nodes average: W is 1/2 everywhere.
        (Ring(), 2, 1.0),
        (Complete(), 7, 1.0),
        # Degree d, weights 1 / (d + 1): lambda_2 = (d + 1 - 2) / (d + 1).
        (Hypercube(), 8, 1 - 2 / 4),
        (Hypercube(), 64, 1 - 5 / 7),
        (Torus(), 20, torus_gap(4, 5)),
        (Torus(), 1, 1.0),
        # The path of three has eigenvalues 1, 2/3 (of (1, 0, -1)) and, by the trace 5/3, 0.
        (Custom(nx.path_graph(3)), 3, 1 / 3),
        # Two thousand nodes take the Lanczos method.
        (Hypercube(), 2048, 1 - 10 / 12),
        (Torus(), 1200, torus_gap(30, 40)),
        (Pairwise(), 6, 0.0),
    ],
    ids=str,
)
def test_spectral_gap_of_metropolis(topology: Graph, nodes: int, gap: float) -> None:
    graph = topology.graph(nodes, 0, 0)
    assert graph.spectral_gap(graph.metropolis()) == pytest.approx(gap, abs=2e-6)


@pytest.mark.parametrize("nodes", [97, 500])
def test_lanczos_stays_right_when_it_runs_to_the_end(
    nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_DENSE", 1)
    graph = Ring().graph(nodes, 0, 0)
    assert graph.spectral_gap(graph.metropolis()) == pytest.approx(ring_gap(nodes), rel=1e-3)


def test_spectral_gap_of_directed_ring_by_push() -> None:
    # W = (I + P) / 2 for a cyclic shift P: |lambda_k| = |cos(pi k / n)|.
    graph = DirectedRing().graph(6, 0, 0)
    gap = graph.spectral_gap(graph.push(), graph.push_own())
    assert gap == pytest.approx(1 - np.cos(np.pi / 6), abs=1e-6)


# Graphs


@pytest.mark.parametrize(
    ("topology", "reference"),
    [
        (Ring(), nx.cycle_graph(16)),
        (Torus(), nx.convert_node_labels_to_integers(nx.grid_2d_graph(4, 4, periodic=True))),
        (Exponential(), nx.circulant_graph(16, [1, 2, 4, 8])),
        (Complete(), nx.complete_graph(16)),
        (ErdosRenyi(1.0), nx.complete_graph(16)),
        (RandomRegular(15), nx.complete_graph(16)),
        (SmallWorld(4, 0.0), nx.circulant_graph(16, [1, 2])),
        (Custom(nx.star_graph(15)), nx.star_graph(15)),
    ],
    ids=str,
)
def test_undirected_graph_is_the_one_of_networkx(topology: Graph, reference: nx.Graph) -> None:
    assert links(topology.graph(16, 3, 5)) == both_ways(reference.edges)


def test_hypercube_links_differ_in_one_bit() -> None:
    expected = {(a, b) for a in range(16) for b in range(16) if (a ^ b).bit_count() == 1}
    assert links(Hypercube().graph(16, 0, 0)) == expected


def test_directed_ring_sends_to_the_next() -> None:
    assert links(DirectedRing().graph(4, 0, 0)) == {(0, 1), (1, 2), (2, 3), (3, 0)}


def test_directed_exponential_averages_exactly_in_log2_rounds() -> None:
    # Assran et al. 2019: for n = 2^L, L rounds of weights 1/2 make the exact average.
    product = np.eye(8)
    for round in range(3):
        graph = DirectedExponential().graph(8, 0, round)
        assert links(graph) == {(i, (i + 2**round) % 8) for i in range(8)}
        product = graph.matrix(graph.push(), graph.push_own()) @ product
    assert_allclose(product, np.full((8, 8), 1 / 8), atol=1e-12)
    assert links(DirectedExponential().graph(8, 0, 3)) == links(
        DirectedExponential().graph(8, 0, 0)
    )


@pytest.mark.parametrize(("degree", "nodes"), [(1, 2), (2, 9), (3, 20), (4, 51), (17, 20)])
def test_random_regular_has_its_degree(degree: int, nodes: int) -> None:
    graph = RandomRegular(degree).graph(nodes, 1, 0)
    assert_array_equal(graph.degree, np.full(nodes, degree))
    assert graph.symmetric
    assert graph.connected


def test_erdos_renyi_links_every_pair_alike() -> None:
    # 4,000 draws of 4 nodes: each of the 6 pairs comes Binomial(4000, 0.3) times, mean 1200,
    # deviation 29; 5 deviations miss 6 times with probability below 4e-6.
    count = np.zeros((4, 4))
    for seed in range(4000):
        np.add.at(count, ErdosRenyi(0.3).draw(4, seed), 1)
    assert_array_equal(count, np.tril(count, -1))
    assert_allclose(count[np.tril_indices(4, -1)], 1200, atol=145)


def test_small_world_keeps_the_number_of_links() -> None:
    graph = SmallWorld(4, 0.5).graph(30, 0, 0)
    assert graph.edges == 30 * 4
    assert graph.connected
    assert links(graph) != both_ways(nx.circulant_graph(30, [1, 2]).edges)


def test_epidemic_draws_every_set_of_receivers_alike() -> None:
    # Node 0 of 5 picks one of the 6 pairs of others: 1,800 rounds, mean 300, deviation 15.8;
    # 5 deviations miss 6 times with probability below 4e-6.
    rounds = [Epidemic(2).graph(5, 0, round) for round in range(1800)]
    picks: dict[tuple[int, ...], int] = {}
    for graph in rounds:
        assert_array_equal(graph.out_degree, np.full(5, 2))
        chosen = tuple(int(i) for i in graph.receivers[graph.senders == 0])
        picks[chosen] = picks.get(chosen, 0) + 1
    assert set(picks) == {(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)}
    assert_allclose(list(picks.values()), 300, atol=79)


def test_epidemic_to_everybody_is_complete() -> None:
    assert links(Epidemic(6).graph(7, 0, 0)) == links(Complete().graph(7, 0, 0))


@pytest.mark.parametrize(("nodes", "paired"), [(1, 0), (2, 2), (7, 6), (8, 8)])
def test_pairwise_is_a_matching(nodes: int, paired: int) -> None:
    for round in range(20):
        graph = Pairwise().graph(nodes, 0, round)
        assert graph.symmetric
        assert graph.degree.max() <= 1
        assert graph.edges == paired
    # Everybody rests or meets everybody sooner or later: 21 pairs, each in a round with
    # probability 1/7 of 7 nodes; 300 rounds miss one with probability below 21 (6/7)^300 < 1e-18.
    if nodes == 7:
        met = set.union(*(links(Pairwise().graph(7, 0, round)) for round in range(300)))
        assert len(met) == 42


def test_custom_drops_weights_and_self_loops_and_keeps_directions() -> None:
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([(0, 1, 5.0), (1, 2, 0.1), (2, 0, 1.0), (2, 2, 1.0)])
    assert links(Custom(graph).graph(3, 0, 0)) == {(0, 1), (1, 2), (2, 0)}
    Custom(graph).check(3)
    # Read at once: a later change of the graph is no change of the topology.
    topology = Custom(graph)
    graph.add_edge(0, 2)
    assert topology.senders == ((2,), (0,), (1,))
    assert topology == Custom(nx.DiGraph([(2, 0), (0, 1), (1, 2)])) != Custom(graph)
    twice = nx.MultiGraph([(0, 1), (0, 1)])
    assert links(Custom(twice).graph(2, 0, 0)) == {(0, 1), (1, 0)}


def test_time_varying_takes_turns_and_counts_each_ones_rounds() -> None:
    topology = TimeVarying((DirectedExponential(), Ring()))
    hops = [links(topology.graph(8, 0, round)) for round in (0, 2, 4)]
    assert hops == [{(i, (i + hop) % 8) for i in range(8)} for hop in (1, 2, 4)]
    assert links(topology.graph(8, 0, 3)) == links(Ring().graph(8, 0, 0))


def test_time_varying_draws_its_random_members_apart() -> None:
    topology = TimeVarying((RandomRegular(3), RandomRegular(3)))
    assert links(topology.graph(20, 0, 0)) != links(topology.graph(20, 0, 1))
    assert links(topology.graph(20, 0, 0)) == links(topology.graph(20, 0, 2))


def test_time_varying_needs_to_be_connected_over_its_turns_only() -> None:
    first = Custom(nx.Graph([(0, 1), (2, 3)]))
    second = Custom(nx.Graph([(1, 2), (3, 0)]))
    TimeVarying((first, second)).check(4)
    for parts in ((first,), (first, first)):
        with pytest.raises(InputError, match="4 nodes in 2 parts"):
            TimeVarying(parts).check(4)


@pytest.mark.parametrize("topology", EVERY, ids=str)
def test_graphs_are_functions_of_seed_and_round(topology: Graph) -> None:
    topology.check(16)
    graphs = [links(topology.graph(16, 7, round)) for round in range(4)]
    assert graphs == [links(topology.graph(16, 7, round)) for round in range(4)]
    other = [links(topology.graph(16, 8, round)) for round in range(4)]
    assert (graphs != other) == (topology in DRAWN + FRESH)
    assert topology.static == (graphs.count(graphs[0]) == 4)


@pytest.mark.slow
def test_graphs_and_cohorts_are_the_same_in_another_process() -> None:
    code = """
import sys
from tacit.topology import *
assert "networkx" not in sys.modules
for t in (RandomRegular(4), ErdosRenyi(0.3), SmallWorld(4, 0.3), Epidemic(3), Pairwise()):
    print(t.graph(16, 5, 2).senders.tolist())
for sampling in ("without-replacement", "with-replacement", "poisson", "cyclic"):
    print(Star(6, sampling).sample(16, 5, 2).tolist())
"""
    child = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [t.graph(16, 5, 2).senders for t in [*DRAWN, Epidemic(3), Pairwise()]]
    here += [Star(6, sampling).sample(16, 5, 2) for sampling in SAMPLING]
    assert child.stdout.splitlines() == [str(ids.tolist()) for ids in here]


@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize("topology", [Ring(), Exponential(), Complete(), Pairwise()], ids=str)
def test_few_nodes(topology: Graph, nodes: int) -> None:
    topology.check(nodes)
    # 1 node has no link, 2 have one; of 3 a pairing leaves one out.
    expected = [0, 2, 2 if topology == Pairwise() else 6][nodes - 1]
    assert topology.graph(nodes, 0, 0).edges == expected


# Refusals


@pytest.mark.parametrize(
    ("topology", "nodes", "message"),
    [
        (Torus(), 7, "7 nodes, which is a prime number; use 6 or 8 nodes, or Ring()"),
        (Torus(), 2, "use 4 nodes, or Ring()"),
        (Hypercube(), 12, "not a power of two; use 8 or 16 nodes, or Exponential()"),
        (RandomRegular(3), 7, "nodes x degree must be even; use 4"),
        (RandomRegular(8), 8, "degree: 8 was given for 8 nodes; allowed is at most 7"),
        (RandomRegular(1), 6, "leaves 6 nodes in 3 parts, and so in 100 draws; use .*degree=2"),
        (ErdosRenyi(1e-9), 8, "leaves 8 nodes in 8 parts"),
        (SmallWorld(4, 0.1), 4, "degree: 4 was given for 4 nodes"),
        (Epidemic(4), 4, "fanout: 4 was given for 4 nodes; allowed is at most 3"),
        (Custom(nx.path_graph(4)), 5, "a graph of 4 nodes was given; allowed is one of 5"),
        (Custom(nx.Graph([(0, 1), (2, 3)])), 4, "leaves 4 nodes in 2 parts"),
        # Nobody sends to node 0: three strongly connected parts.
        (Custom(nx.DiGraph([(0, 1), (1, 2)])), 3, "leaves 3 nodes in 3 parts"),
        (TimeVarying((Ring(), Hypercube())), 6, "not a power of two"),
    ],
    ids=str,
)
def test_plan_that_cannot_work_is_refused(topology: Graph, nodes: int, message: str) -> None:
    with pytest.raises(InputError, match=re.sub(r"([()])", r"\\\1", message)):
        topology.check(nodes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomRegular(0), "degree: 0 was given; allowed is 1 or more"),
        (lambda: ErdosRenyi(0.0), "probability: 0.0 was given"),
        (lambda: ErdosRenyi(1.5), "probability: 1.5 was given"),
        (lambda: ErdosRenyi(float("nan")), "probability: nan was given"),
        (lambda: SmallWorld(3, 0.1), "degree: 3 was given; allowed are even numbers"),
        (lambda: SmallWorld(0, 0.1), "degree: 0 was given"),
        (lambda: SmallWorld(2, -0.1), "rewire: -0.1 was given; allowed is 0 to 1"),
        (lambda: Epidemic(0), "fanout: 0 was given; allowed is 1 or more"),
        (lambda: Custom(nx.Graph([(0, 1), (1, 3)])), "labels 0 to 2, but 2 is not among them"),
        (lambda: Custom(nx.Graph([("a", "b")])), "labels 0 to 1, but 0 is not among them"),
        (lambda: Custom({0: [1]}), "type dict was given; allowed is a networkx graph"),
        (lambda: TimeVarying(()), "allowed are one or more topologies"),
        (lambda: TimeVarying((Star(),)), "topologies without a server"),
        (lambda: Star(0), "cohort: 0 was given; allowed is a whole number, 1 or more"),
        (lambda: Star(-3), "cohort: -3 was given"),
        (lambda: Star(3, "sometimes"), "sampling: 'sometimes' was given; allowed is one of with"),
        (lambda: Hierarchical(0), "groups: 0 was given"),
        (lambda: Hierarchical(2, cohort=0), "cohort: 0 was given"),
    ],
)
def test_field_out_of_range_is_refused(build: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("nodes", [4, 8, 60, 300])
def test_the_density_that_a_refusal_names_works(nodes: int) -> None:
    with pytest.raises(InputError) as refusal:
        ErdosRenyi(1e-9).check(nodes)
    probability = float(re.search(r"use ErdosRenyi\(probability=([\d.]+)\)", str(refusal.value))[1])
    for seed in range(10):
        ErdosRenyi(probability).check(nodes, seed)


# Star


@settings(max_examples=30)
@given(st.integers(1, 40), st.data())
def test_cohort_without_replacement_has_no_repeats(nodes: int, data: st.DataObject) -> None:
    cohort = data.draw(st.integers(1, nodes))
    chosen = Star(cohort).sample(nodes, 0, 0)
    assert chosen.shape == (cohort,)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < nodes


@pytest.mark.parametrize("sampling", SAMPLING)
def test_every_node_is_sampled_alike(sampling: str) -> None:
    # 2,000 rounds of 3 of 10: a node comes 600 times, with a deviation of at most sqrt(600) = 24.5;
    # 5 deviations miss 10 times with probability below 6e-6.
    star = Star(3, sampling)
    rounds = [star.sample(10, 0, round) for round in range(2000)]
    assert_allclose(np.bincount(np.concatenate(rounds), minlength=10), 600, atol=122)
    sizes = {len(chosen) for chosen in rounds}
    repeats = any(len(set(chosen.tolist())) < len(chosen) for chosen in rounds)
    assert repeats == (sampling == "with-replacement")
    # Of 2,000 Poisson rounds some are empty (2.8 % each) and some have more than 5 (4.7 % each).
    assert ({0, 6} <= sizes) if sampling == "poisson" else (sizes == {3})


@pytest.mark.parametrize("sampling", SAMPLING)
def test_cohort_is_a_function_of_seed_and_round(sampling: str) -> None:
    star = Star(20, sampling)
    first = star.sample(100, 1, 4).tolist()
    assert first == star.sample(100, 1, 4).tolist()
    assert first != star.sample(100, 2, 4).tolist()
    assert first != star.sample(100, 1, 5).tolist()


@settings(max_examples=50)
@given(st.integers(1, 30), st.data())
def test_turns_keep_their_distance_and_miss_nobody(nodes: int, data: st.DataObject) -> None:
    cohort = data.draw(st.integers(1, nodes))
    star = Star(cohort, "cyclic")
    seen = np.array([np.isin(np.arange(nodes), star.sample(nodes, 3, r)) for r in range(65)])
    assert (seen.sum(1) == cohort).all()
    gaps = [np.diff(np.flatnonzero(column)).min() for column in seen.T]
    assert (
        min(gaps) == star.separation(nodes) == Hierarchical(1, cohort, "cyclic").separation(nodes)
    )
    # Turns are shared out evenly: 65 cohort places over the nodes.
    assert set(seen.sum(0)) <= {65 * cohort // nodes, -(-65 * cohort // nodes)}


def test_without_turns_a_node_may_come_back_at_once() -> None:
    assert {Star(2, sampling).separation(8) for sampling in SAMPLING[:3]} == {1}
    assert Star().separation(8) == 1


def test_without_a_cohort_everybody_takes_part() -> None:
    Star().check(5)
    assert_array_equal(Star().sample(5, 0, 0), [0, 1, 2, 3, 4])


@pytest.mark.parametrize("sampling", SAMPLING)
def test_cohort_above_the_number_of_nodes_is_refused(sampling: str) -> None:
    Star(8, sampling).check(8)
    with pytest.raises(InputError, match="cohort: 9 was given; allowed is 1 to 8"):
        Star(9, sampling).check(8)
    with pytest.raises(InputError, match="cohort: 9 was given; allowed is 1 to 8"):
        Hierarchical(2, 9, sampling).check(8)


@pytest.mark.parametrize("sampling", ["with-replacement", "poisson", "cyclic"])
def test_sampling_without_a_cohort_is_refused(sampling: str) -> None:
    with pytest.raises(InputError, match="without a cohort; give topology"):
        Star(sampling=sampling).check(8)


def test_groups_are_contiguous_and_near_equal() -> None:
    # Node i of 8 goes to group floor(3 i / 8).
    assert_array_equal(Hierarchical(3).group_of(8), [0, 0, 0, 1, 1, 1, 2, 2])
    for nodes in range(1, 20):
        for groups in range(1, nodes + 1):
            sizes = np.bincount(Hierarchical(groups).group_of(nodes), minlength=groups)
            assert len(sizes) == groups
            assert sizes.max() - sizes.min() <= 1
    with pytest.raises(InputError, match="groups: 9 was given; allowed is 1 to 8"):
        Hierarchical(9).check(8)


def test_hierarchical_samples_as_a_star_does() -> None:
    assert_array_equal(Hierarchical(3, 5).sample(20, 1, 2), Star(5).sample(20, 1, 2))
