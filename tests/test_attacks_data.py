"""Poisoned rows, and the test rows on which an attack shows; free riders."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tacit
from tacit.attacks.backdoor import DBA, Backdoor, Columns, Patch
from tacit.attacks.base import Attack, DataAttack
from tacit.attacks.free_rider import FreeRider
from tacit.attacks.labels import LabelFlip, Semantic
from tacit.attacks.placement import Sybils, chosen
from tacit.attacks.poison import poisoned, probes
from tacit.attacks.rows import Duplicates, NoisyInputs
from tacit.attacks.view import View
from tacit.data.federation import Federation, Split


def rows(node: int, size: int, classes: int, width: int) -> tuple[Tensor, Tensor]:
    """A function of the node and size alone."""
    random = torch.Generator().manual_seed(1000 * node + size)
    x = torch.randn(size, width, generator=random)
    return x, torch.arange(size) % classes


def federation(
    sizes: tuple[int, ...] = (8, 5, 12), classes: int = 4, width: int = 16, shared: bool = False
) -> Federation:
    train = Split.pack([rows(i, size, classes, width) for i, size in enumerate(sizes)])
    tests = [rows(10 + i, size, classes, width) for i, size in enumerate(sizes)]
    names = tuple("abcdef"[: len(sizes)])
    test = Split.pack(tests[:1] if shared else tests)
    return Federation(train, test, names, "classification", classes)


def poison(attack: DataAttack, x: Tensor, y: Tensor, classes: int = 4) -> tuple[Tensor, Tensor]:
    return attack.poison(x, y, classes, 0, 1, np.random.default_rng(0))


def ids(*nodes: int) -> np.ndarray:
    return np.array(nodes)


X = torch.arange(12.0).view(6, 2)
Y = torch.tensor([0, 1, 2, 3, 1, 1])


# Labels


def test_flip_of_all_labels() -> None:
    x, y = poison(LabelFlip(), X, Y)
    assert x is X
    assert y.tolist() == [3, 2, 1, 0, 2, 2]  # 3 - y
    assert poison(LabelFlip(), X, Y, 5)[1].tolist() == [4, 3, 2, 1, 3, 3]  # 4 - y


def test_targeted_flip_leaves_other_labels() -> None:
    assert poison(LabelFlip(source=1, target=3), X, Y)[1].tolist() == [0, 3, 2, 3, 3, 3]


def test_flip_of_a_share_of_the_source_label() -> None:
    y = poison(LabelFlip(source=1, target=3, ratio=0.5), X, Y)[1]
    assert int((y != Y).sum()) == 2  # floor(0.5 * 3 rows + 0.5)
    assert set(Y[y != Y].tolist()) == {1}


def test_only_a_targeted_flip_has_a_probe() -> None:
    assert LabelFlip().probe(X, Y, 4) is None
    found = LabelFlip(source=1, target=3).probe(X, Y, 4)
    assert found is not None
    assert torch.equal(found[0], X[[1, 4, 5]])
    assert found[1].tolist() == [3, 3, 3]


def test_semantic_by_label() -> None:
    attack = Semantic(rows=1, target=2)
    x, y = poison(attack, X, Y)
    assert torch.equal(x, X)
    assert y.tolist() == [0, 2, 2, 3, 2, 2]
    found = attack.probe(X, Y, 4)
    assert torch.equal(found[0], X[[1, 4, 5]])
    assert found[1].tolist() == [2, 2, 2]


def test_semantic_by_property_leaves_the_target_label_out_of_the_probe() -> None:
    attack = Semantic(rows=lambda x, y: x[:, 0] > 5, target=3)  # rows 3, 4 and 5
    assert poison(attack, X, Y)[1].tolist() == [0, 1, 2, 3, 3, 3]
    assert torch.equal(attack.probe(X, Y, 4)[0], X[[4, 5]])  # row 3 is a 3 already


# Backdoors


def test_patch_on_a_flattened_square() -> None:
    # 4 x 4 pixels: the lower right 2 x 2 are 10, 11, 14 and 15.
    assert sorted(Patch(2).entries((16,)).flatten().tolist()) == [10, 11, 14, 15]


def test_patch_covers_all_channels_of_a_pixel() -> None:
    # 2 channels of 2 x 3 pixels: the last pixel is number 5 in the first, 11 in the second.
    assert Patch(1).entries((2, 2, 3)).tolist() == [[5, 11]]


@pytest.mark.parametrize("side", [8, 28])
def test_patch_fits_the_bundled_images(side: int) -> None:
    corner = torch.zeros(side, side)
    corner[-3:, -3:] = 1
    expected = corner.flatten().nonzero().flatten()
    assert torch.equal(Patch().entries((side * side,)).flatten(), expected)
    assert torch.equal(Patch().entries((1, side, side)).flatten(), expected)


def test_backdoor_marks_its_share_of_rows() -> None:
    x, y = rows(0, 100, 4, 16)
    marked, labels = poison(Backdoor(target=2, trigger=Patch(2, value=7.0)), x, y)
    changed = (marked != x).any(1)
    assert int(changed.sum()) == 32  # 0.32 * 100
    assert torch.equal(marked[changed][:, [10, 11, 14, 15]], torch.full((32, 4), 7.0))
    others = [i for i in range(16) if i not in (10, 11, 14, 15)]
    assert torch.equal(marked[:, others], x[:, others])
    assert (labels[changed] == 2).all()
    assert torch.equal(labels[~changed], y[~changed])


def test_backdoor_on_an_image_with_channels() -> None:
    x = torch.zeros(4, 3, 5, 5)
    marked, _ = poison(Backdoor(ratio=1.0, trigger=Patch(2)), x, torch.zeros(4, dtype=torch.long))
    expected = torch.zeros(4, 3, 5, 5)
    expected[:, :, 3:, 3:] = 1
    assert torch.equal(marked, expected)


def test_backdoor_on_columns() -> None:
    marked, labels = poison(Backdoor(ratio=1.0, trigger=Columns((1,), value=-9.0)), X, Y)
    assert torch.equal(marked, torch.stack([X[:, 0], torch.full((6,), -9.0)], 1))
    assert labels.tolist() == [0] * 6


def test_backdoor_probe_leaves_out_rows_of_the_target() -> None:
    marked, labels = Backdoor(target=1, trigger=Columns((0,), value=5.0)).probe(X, Y, 4)
    assert marked.tolist() == [[5, 1], [5, 5], [5, 7]]  # rows 0, 2 and 3
    assert labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize("members", [1, 2, 4, 9])
def test_dba_parts_are_disjoint_and_make_up_the_trigger(members: int) -> None:
    whole = Patch().entries((64,))
    parts = [DBA().part(whole, member, members) for member in range(members)]
    assert sorted(torch.cat(parts).flatten().tolist()) == sorted(whole.flatten().tolist())
    assert all(len(part) for part in parts)


def test_dba_with_more_nodes_than_pixels_takes_parts_in_turn() -> None:
    whole = Columns((2, 5)).entries((6,))
    assert [DBA().part(whole, member, 5).tolist() for member in range(5)] == [
        [[2]], [[5]], [[2]], [[5]], [[2]],
    ]  # fmt: skip


def test_dba_nodes_plant_parts_and_success_needs_the_whole() -> None:
    data = federation((6, 6, 6))
    attack = DBA(ratio=1.0, trigger=Patch(2, value=50.0))
    train = poisoned(data, [attack], [ids(0, 2)], 0).train
    assert [sorted((x == 50).all(0).nonzero().flatten().tolist()) for x, _ in train.parts()] == [
        [10, 11],
        [],
        [14, 15],
    ]
    probe = attack.probe(*data.test.node(1), 4)[0]
    assert (probe == 50).all(0).nonzero().flatten().tolist() == [10, 11, 14, 15]


# Rows


def test_noise_has_the_given_deviation_and_leaves_targets() -> None:
    x, y = torch.zeros(200, 100), torch.zeros(200, dtype=torch.long)
    noisy, same = poison(NoisyInputs(sigma=3.0), x, y)
    assert same is y
    # 20,000 draws: the standard error of the mean is 3 / 141 = 0.021, of the deviation 0.015.
    assert abs(float(noisy.mean())) < 0.1
    assert float(noisy.std()) == pytest.approx(3, abs=0.08)


def test_duplicates() -> None:
    with pytest.raises(tacit.InputError, match=r"attack\.times: 2\.5"):
        Duplicates(times=2.5)  # type: ignore[arg-type]
    x, y = poison(Duplicates(times=3), X, Y)
    assert torch.equal(x, torch.cat([X, X, X]))
    assert y.tolist() == Y.tolist() * 3


# Federations

ATTACKS = [
    LabelFlip(),
    LabelFlip(source=1, target=0, ratio=0.5),
    Semantic(),
    Backdoor(trigger=Patch(2)),
    DBA(trigger=Columns((1, 2))),
    NoisyInputs(),
    Duplicates(times=2),
]
each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)


@each_attack
def test_only_malicious_rows_change_and_nothing_is_mutated(attack: DataAttack) -> None:
    data = federation()
    before = [t.clone() for t in (data.train.x, data.train.y, data.test.x, data.test.y)]
    result = poisoned(data, [attack], [ids(0, 2)], 0)
    probes(data, [attack])
    for now, then in zip(
        (data.train.x, data.train.y, data.test.x, data.test.y), before, strict=True
    ):
        assert torch.equal(now, then)
    assert result.test is data.test
    assert result.names == data.names
    pairs = zip(result.train.parts(), data.train.parts(), strict=True)
    same = [
        len(y) == len(v) and torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs
    ]
    assert same == [False, True, False]


@each_attack
def test_a_nodes_rows_depend_on_nothing_of_other_nodes(attack: DataAttack) -> None:
    one = poisoned(federation((8, 5, 40)), [attack], [ids(1, 2)], 7).train.node(2)
    other = poisoned(federation((3, 9, 40)), [attack], [ids(1, 2)], 7).train.node(2)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_seed_position_and_node_give_other_draws() -> None:
    data = federation((8, 8, 8))

    def noise(attacks: list[Attack], nodes: list[np.ndarray], seed: int, node: int) -> Tensor:
        return poisoned(data, attacks, nodes, seed).train.node(node)[0] - data.train.node(node)[0]

    first = noise([NoisyInputs()], [ids(0, 1)], 0, 0)
    assert not torch.allclose(first, noise([NoisyInputs()], [ids(0, 1)], 1, 0))
    assert not torch.allclose(first, noise([NoisyInputs()], [ids(0, 1)], 0, 1))
    both = [LabelFlip(), NoisyInputs()]
    assert not torch.allclose(first, noise(both, [ids(0, 1)] * 2, 0, 0))


def test_attacks_act_in_order() -> None:
    data = federation()
    attacks = [LabelFlip(), LabelFlip(source=3, target=0)]
    result = poisoned(data, attacks, [ids(1), ids(1)], 0)
    # Node 1 has labels 0 1 2 3 0, flipped 3 2 1 0 3; then its 3 become 0.
    assert result.train.node(1)[1].tolist() == [0, 2, 1, 0, 0]


def test_sybils_hold_copies_of_their_partys_rows() -> None:
    data = federation((8, 5, 12, 6))
    attack = FreeRider(nodes=Sybils("b", 3))
    nodes = chosen(attack.nodes, data.names, None, 0)
    result = poisoned(data, [attack], [nodes], 0)
    for node in range(4):
        x, y = result.train.node(node)
        u, v = data.train.node(1 if node in nodes else node)
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_sybils_are_poisoned_after_copying() -> None:
    data = federation((8, 5, 12, 6))
    attack = LabelFlip(nodes=Sybils("b", 2))
    nodes = chosen(attack.nodes, data.names, None, 0)
    train = poisoned(data, [attack], [nodes], 0).train
    assert [train.node(node)[1].tolist() for node in nodes] == [[3, 2, 1, 0, 3]] * 2


def test_attacks_on_updates_leave_the_federation_as_it_is() -> None:
    data = federation()
    assert poisoned(data, [FreeRider()], [ids(0)], 0) is data
    assert probes(data, [FreeRider(), LabelFlip(), NoisyInputs()]) is None


def test_probes_of_nodes_that_have_test_rows() -> None:
    data = federation()
    first, (x, y), last = data.test.parts()
    data = replace(data, test=Split.pack([first, (x[:0], y[:0]), last]))
    attack = Backdoor(target=0, trigger=Columns((0,), value=9.0))
    split = probes(data, [attack])
    assert split is not None
    # 8 rows of labels 0 1 2 3 0 1 2 3: 6 are not 0. 12 rows: 9. Node 1 has none.
    assert split.sizes.tolist() == [6, 0, 9]
    assert (split.y == 0).all()
    assert (split.x[:, 0] == 9).all()
    x, y = data.test.node(2)
    assert torch.equal(split.node(2)[0][:, 1:], x[y != 0][:, 1:])


def test_probes_of_a_shared_test_set() -> None:
    split = probes(federation(shared=True), [Backdoor(trigger=Patch(2))])
    assert split is not None
    assert split.sizes.tolist() == [6]


def test_probes_of_several_attacks_lie_side_by_side() -> None:
    attacks = [Semantic(rows=1, target=2), LabelFlip(source=3, target=0)]
    split = probes(federation(), attacks)
    assert split is not None
    assert split.node(0)[1].tolist() == [2, 2, 0, 0]  # two 1s and two 3s among its 8 rows
    assert split.node(1)[1].tolist() == [2, 0]  # one of each among 0 1 2 3 0


def test_no_row_that_could_show_success() -> None:
    data = federation((1, 1))  # their only test row is a 0
    assert probes(data, [Backdoor(target=0, trigger=Patch(1))]) is None


@each_attack
def test_attack_fits_a_plain_federation(attack: DataAttack) -> None:
    attack.fit(federation())


REGRESSION = replace(
    federation(), task="regression", classes=0, train=Split.pack([(X, X)] * 3), name="prices"
)
SEQUENCE = replace(
    federation(), task="sequence", train=Split.pack([(Y.view(3, 2), Y.view(3, 2))] * 3)
)
TOKENS = replace(federation(), train=Split.pack([(Y.view(6, 1), Y)] * 3))
IMAGES = replace(federation(), train=Split.pack([(torch.zeros(6, 1, 4, 6), Y)] * 3))


@pytest.mark.parametrize(
    ("attack", "data", "message"),
    [
        (LabelFlip(), REGRESSION, "LabelFlip changes labels, but prices is a regression"),
        (LabelFlip(), SEQUENCE, "a sequence"),
        (Semantic(), REGRESSION, "a regression"),
        (Backdoor(trigger=Columns()), REGRESSION, "a regression"),
        (LabelFlip(source=4, target=0), federation(), "attack.source: 4 .* from 0 to 3"),
        (LabelFlip(source=0, target=4), federation(), "attack.target: 4 .* from 0 to 3"),
        (Semantic(rows=9), federation(), "attack.rows: 9 "),
        (Semantic(rows=lambda x, y: y), federation(), "one bool for each of 25 rows"),
        (Backdoor(target=4), federation(), "attack.target: 4 "),
        (Backdoor(), federation(width=15), r"a row's shape is \(15,\); use Columns"),
        (Backdoor(trigger=Patch(4)), federation(), "attack.trigger.size: 4 .* 1 to 3"),
        (Backdoor(trigger=Patch(4)), IMAGES, "attack.trigger.size: 4 .* 1 to 3"),
        (Backdoor(trigger=Columns((16,))), federation(), "columns from 0 to 15"),
        (Backdoor(trigger=Columns()), IMAGES, r"\(1, 4, 6\); use Patch"),
        (Backdoor(trigger=Columns()), TOKENS, "those of data are tokens"),
        (DBA(trigger=Columns()), TOKENS, "DBA changes inputs"),
        (NoisyInputs(), TOKENS, "NoisyInputs changes inputs"),
    ],
)
def test_refused_federations(attack: DataAttack, data: Federation, message: str) -> None:
    with pytest.raises(tacit.InputError, match=message):
        attack.fit(data)


def test_attacks_without_labels_fit_other_tasks() -> None:
    NoisyInputs().fit(REGRESSION)
    Duplicates().fit(SEQUENCE)
    LabelFlip().fit(TOKENS)
    Backdoor(trigger=Patch(3)).fit(IMAGES)


@pytest.mark.parametrize(
    ("kind", "settings", "field"),
    [
        (LabelFlip, {"source": 1}, "attack.target"),
        (LabelFlip, {"target": 1}, "attack.target"),
        (LabelFlip, {"source": 1, "target": 1}, "attack.target"),
        (LabelFlip, {"ratio": 0.0}, "attack.ratio"),
        (Semantic, {"rows": 2, "target": 2}, "attack.target"),
        (Backdoor, {"ratio": 1.1}, "attack.ratio"),
        (Semantic, {"rows": 0, "target": -1}, "attack.target"),
        (Semantic, {"rows": 2.5}, "attack.rows"),
        (LabelFlip, {"source": "1", "target": 0}, "attack.source"),
        (Backdoor, {"target": "0"}, "attack.target"),
        (Backdoor, {"trigger": "patch"}, "attack.trigger"),
        (Backdoor, {"trigger": Patch}, "attack.trigger"),
        (Patch, {"size": 0}, "attack.trigger.size"),
        (Patch, {"size": 2.5}, "attack.trigger.size"),
        (Patch, {"size": "3"}, "attack.trigger.size"),
        (Patch, {"value": math.nan}, "attack.trigger.value"),
        (Columns, {"columns": 3}, "attack.trigger.columns"),
        (Columns, {"columns": ("age",)}, "attack.trigger.columns"),
        (Columns, {"columns": ()}, "attack.trigger.columns"),
        (Columns, {"columns": (1, 1)}, "attack.trigger.columns"),
        (NoisyInputs, {"sigma": 0.0}, "attack.sigma"),
        (Duplicates, {"times": 1}, "attack.times"),
        (Duplicates, {"times": 2.5}, "attack.times"),
        (FreeRider, {"sigma": -1.0}, "attack.sigma"),
        (FreeRider, {"decay": -1.0}, "attack.decay"),
        (FreeRider, {"knowledge": "much"}, "attack.knowledge"),
    ],
)
def test_settings_out_of_range(kind: type, settings: dict[str, Any], field: str) -> None:
    with pytest.raises(tacit.InputError, match=f"{field}: "):
        kind(**settings)


# Free riders


def view(round: int, nodes: np.ndarray, width: int = 5000) -> View:
    count = len(nodes)
    starts = torch.arange(float(count)).unsqueeze(1).expand(count, width)
    links = np.arange(count), np.full(count, -1)
    own = torch.full((count, width), 99.0)
    return View("own", round, 10, 0, nodes, own, starts, *links, 20, None)


def test_free_rider_replays_its_start() -> None:
    seen = view(0, ids(3, 5), 4)
    assert torch.equal(FreeRider(sigma=0.0).lie(seen), seen.starts)


def test_free_riders_noise_shrinks() -> None:
    # Round 4 is the paper's t = 4: 0.5 / 4^0.5 = 0.25; 5,000 draws have a standard error of 0.0025.
    for round, sigma in ((0, 0.5), (3, 0.25)):
        seen = view(round, ids(3, 5))
        noise = FreeRider(sigma=0.5, decay=0.5).lie(seen) - seen.starts
        assert noise.std(1).tolist() == pytest.approx([sigma] * 2, abs=0.02)
        assert noise.mean(1).tolist() == pytest.approx([0, 0], abs=0.04)


def test_free_riders_noise_is_each_nodes_own() -> None:
    together, alone = view(2, ids(3, 5), 8), view(2, ids(5), 8)
    attack = FreeRider(sigma=1.0)
    noise = attack.lie(together) - together.starts
    torch.testing.assert_close(noise[1], (attack.lie(alone) - alone.starts)[0])
    assert not torch.allclose(noise[0], noise[1])
