"""Who is malicious: shares, names, and places in the graph."""

import networkx as nx
import numpy as np
import pytest

import tacit
from tacit.attacks.placement import Around, Hubs, Sybils, chosen
from tacit.topology import Neighbours

NAMES = tuple("abcdefghij")


def graph(edges: list[tuple[int, int]], nodes: int = 10) -> Neighbours:
    """Links both ways."""
    one, other = np.array(edges).T
    return Neighbours.of(nodes, np.append(one, other), np.append(other, one))


@pytest.mark.parametrize(
    ("share", "nodes", "count"),
    [
        (0.2, 10, 2),
        (0.25, 10, 3),  # 2.5 + 0.5 = 3
        (0.24, 10, 2),  # floor(2.9)
        (0.01, 10, 1),  # at least one
        (0.99, 10, 9),  # never all: floor(10.4) = 10
        (0.2, 2, 1),
    ],
)
def test_share_counts(share: float, nodes: int, count: int) -> None:
    assert len(chosen(share, NAMES[:nodes], None, 0)) == count


def test_smaller_share_is_a_subset_in_ascending_order() -> None:
    small, large = (chosen(share, NAMES, None, 3) for share in (0.2, 0.6))
    assert set(small) < set(large)
    assert np.array_equal(large, np.sort(large))


def test_share_depends_on_the_seed() -> None:
    draws = {tuple(chosen(0.3, NAMES, None, seed)) for seed in range(20)}
    assert len(draws) > 10
    assert np.array_equal(chosen(0.3, NAMES, None, 5), chosen(0.3, NAMES, None, 5))


@pytest.mark.parametrize("who", [("h", "b"), ["b", "h", "b"]])
def test_names(who: tuple[str, ...]) -> None:
    assert chosen(who, NAMES, None, 0).tolist() == [1, 7]


@pytest.mark.parametrize(
    ("who", "message"),
    [
        (0.0, "attack.nodes: 0.0 was given; allowed is a share above 0 and below 1"),
        (1.0, "attack.nodes: 1.0 was given"),
        (2, "attack.nodes: 2 was given"),
        ((), r"attack.nodes: \(\) was given"),
        ("a", "attack.nodes: 'a' was given; allowed is .* a tuple of names"),
        (("a", "z"), "attack.nodes: there is no node 'z'; there are a, b, c, d, e, f, g, h, i, j$"),
        (NAMES, "makes 10 of 10 nodes malicious"),
    ],
)
def test_refused(who: object, message: str) -> None:
    with pytest.raises(tacit.InputError, match=message):
        chosen(who, NAMES, None, 0)  # type: ignore[arg-type]


def test_one_node_alone_cannot_be_malicious() -> None:
    with pytest.raises(tacit.InputError, match="0 of 1 nodes"):
        chosen(0.5, ("a",), None, 0)


def test_only_the_first_of_many_names_are_listed() -> None:
    names = tuple(f"n{i}" for i in range(100))
    with pytest.raises(tacit.InputError, match=r"there are n0, .*, n19 and 80 more"):
        chosen(("x",), names, None, 0)


def test_hubs_are_those_of_largest_degree() -> None:
    # Degrees: node 4 has 5, node 7 has 3, all others 1 or 2.
    links = graph([(4, 0), (4, 1), (4, 2), (4, 3), (4, 7), (7, 5), (7, 6), (8, 9), (9, 0)])
    assert chosen(Hubs(0.1), NAMES, links, 0).tolist() == [4]
    assert chosen(Hubs(0.2), NAMES, links, 1).tolist() == [4, 7]


def test_hubs_of_a_directed_graph_are_those_that_most_others_hear() -> None:
    # Node 2 sends to 0, 1 and 3; node 5 hears three and sends to one.
    senders, receivers = np.array([[2, 2, 2, 0, 1, 3, 5], [0, 1, 3, 5, 5, 5, 2]])
    assert chosen(Hubs(0.1), NAMES, Neighbours.of(10, senders, receivers), 0).tolist() == [2]


def test_hubs_among_equals_are_drawn() -> None:
    ring = graph([(i, (i + 1) % 10) for i in range(10)])
    draws = {tuple(chosen(Hubs(0.2), NAMES, ring, seed)) for seed in range(10)}
    assert len(draws) > 3


def test_eclipse_takes_all_neighbours_of_the_victim() -> None:
    links = graph([(3, 0), (3, 5), (3, 8), (8, 9), (0, 1)])
    assert chosen(Around("d"), NAMES, links, 0).tolist() == [0, 5, 8]


def test_partial_eclipse_grows_by_adding() -> None:
    links = graph([(3, 0), (3, 5), (3, 8), (8, 9), (0, 1)])
    one, two = (set(chosen(Around("d", count), NAMES, links, 0)) for count in (1, 2))
    assert len(one) == 1
    assert one < two < {0, 5, 8}


def test_eclipse_needs_the_nodes_that_the_victim_hears() -> None:
    directed = Neighbours.of(10, np.array([1, 2, 0]), np.array([0, 0, 9]))
    assert chosen(Around("a"), NAMES, directed, 0).tolist() == [1, 2]
    with pytest.raises(tacit.InputError, match="node 'a' hears 2 nodes; give a count up to that"):
        chosen(Around("a", 3), NAMES, directed, 0)
    with pytest.raises(tacit.InputError, match="node 'e' hears 0 nodes"):
        chosen(Around("e"), NAMES, directed, 0)
    with pytest.raises(tacit.InputError, match="there is no node 'zed'"):
        chosen(Around("zed"), NAMES, directed, 0)


def test_sybils_are_the_party_and_drawn_nodes() -> None:
    nodes = chosen(Sybils("g", 4), NAMES, None, 2)
    assert len(nodes) == 4
    assert 6 in nodes
    assert set(nodes) < set(chosen(Sybils("g", 6), NAMES, None, 2))
    assert Sybils("g", 4).rows_from(NAMES) == 6
    assert Hubs().rows_from(NAMES) is None


def test_sybils_leave_an_honest_node() -> None:
    assert len(chosen(Sybils("g", 9), NAMES, None, 0)) == 9
    with pytest.raises(tacit.InputError, match=r"attack.nodes.identities: 10 .* 2 to 9"):
        chosen(Sybils("g", 10), NAMES, None, 0)


@pytest.mark.parametrize("placement", [Hubs(0.2), Around("a")])
def test_graph_placements_refuse_a_server(placement: Hubs | Around) -> None:
    with pytest.raises(tacit.InputError, match="under a server no node has neighbours; use a sh"):
        chosen(placement, NAMES, None, 0)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Hubs(0), "attack.nodes.share"),
        (lambda: Hubs(1), "attack.nodes.share"),
        (lambda: Around("a", 0), "attack.nodes.count"),
        (lambda: Hubs("0.2"), "attack.nodes.share"),
        (lambda: Around("a", 1.5), "attack.nodes.count"),
        (lambda: Sybils("a", 1), "attack.nodes.identities"),
        (lambda: Sybils("a", 2.5), "attack.nodes.identities"),
    ],
)
def test_settings_out_of_range(make: object, field: str) -> None:
    with pytest.raises(tacit.InputError, match=field):
        make()  # type: ignore[operator]


def test_placements_on_a_topology() -> None:
    wheel = tacit.Custom(nx.wheel_graph(10)).graph(10, 0, 0)  # node 0 is its hub
    assert chosen(Hubs(0.1), NAMES, wheel, 0).tolist() == [0]
    assert chosen(Around("a"), NAMES, wheel, 0).tolist() == list(range(1, 10))
