"""What every aggregation rule keeps to, and how far each may be moved by f of k.

A new rule fails here until it has a line in ``CASES``.
"""

import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tacit.aggregation
from aggregation_cases import CASES, FOUND, Case, D, scene
from tacit.aggregation.before import PreAggregation
from tacit.aggregation.rule import Aggregation, Round
from tacit.errors import InputError


def where(mark: str) -> pytest.MarkDecorator:
    """The cases of which this holds."""
    cases = [case for case in CASES if getattr(case, mark)]
    return pytest.mark.parametrize("case", cases, ids=lambda case: str(case.rule))


EVERY = where("of")
SEEDS = st.integers(0, 2**31)
SOME = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def test_every_rule_is_public_and_has_a_case() -> None:
    public = {
        name
        for name in tacit.aggregation.__all__
        if isinstance(kind := getattr(tacit.aggregation, name), type)
        and issubclass(kind, Aggregation | PreAggregation)
        and not inspect.isabstract(kind)
    }
    assert public == set(FOUND)
    assert {case.of for case in CASES} == public


@where("permutes")
@SOME
@given(seed=SEEDS, order=st.permutations(range(12)))
def test_the_order_of_the_vectors_does_not_matter(case: Case, seed: int, order: list[int]) -> None:
    order = order + list(range(12, case.k))
    s = scene(seed, case.k)
    weight = torch.rand(case.k, generator=torch.Generator().manual_seed(seed)).double() + 0.5
    weight = 0.9 * weight / weight.sum()
    expected = case.rule(s.own, s.received, weight, s.round)
    found = case.rule(s.own, s.received[order], weight[order], s.round)
    torch.testing.assert_close(found.result, expected.result, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.accepted, expected.accepted[order], atol=1e-5, rtol=0)


@where("moves")
@SOME
@given(seed=SEEDS, by=st.sampled_from([-3.0, 100.0]))
def test_the_result_moves_along_with_all_vectors(case: Case, seed: int, by: float) -> None:
    s = scene(seed, case.k, total=0.9)
    shift = torch.linspace(by, by + 1, D, dtype=torch.float64)
    moved = s.moved(shift, 1.0)
    expected = case.rule(s.own, s.received, s.weight, s.round)
    found = case.rule(moved.own, moved.received, moved.weight, moved.round)
    torch.testing.assert_close(found.result - shift, expected.result, atol=1e-5, rtol=0)


@where("grows")
@SOME
@given(seed=SEEDS, size=st.sampled_from([2.0**-7, 2.0**9]))
def test_the_result_grows_along_with_all_vectors(case: Case, seed: int, size: float) -> None:
    s = scene(seed, case.k, total=0.9)
    grown = s.moved(torch.zeros(D).double(), size)
    expected = case.rule(s.own, s.received, s.weight, s.round)
    found = case.rule(grown.own, grown.received, grown.weight, grown.round)
    torch.testing.assert_close(found.result / size, expected.result, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("mark", "by", "size"), [("moves", 3.0, 1.0), ("grows", 0.0, 8.0)], ids=["moves", "grows"]
)
def test_what_is_said_not_to_hold_does_not(mark: str, by: float, size: float) -> None:
    for case in CASES:
        if getattr(case, mark):
            continue
        differ = []
        for seed in range(5):
            s = scene(seed, case.k)
            other = s.moved(torch.full((D,), by).double(), size)
            expected = case.rule(s.own, s.received, s.weight, s.round).result
            found = case.rule(other.own, other.received, other.weight, other.round).result
            differ.append(not torch.allclose(found / size - by, expected, atol=1e-5))
        assert any(differ), f"{case.rule} {mark} after all"


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_what_its_receivers_are_alone(case: Case, dtype: torch.dtype) -> None:
    s = scene(1, case.k, 3, total=0.9, dtype=dtype)
    s.received[1, :2] = 50
    result, accepted = case.rule(s.own, s.received, s.weight, s.round)
    assert result.shape == s.own.shape
    assert accepted.shape == s.weight.shape
    assert result.dtype == accepted.dtype == dtype
    for i in range(3):
        alone = s.alone(i)
        one = case.rule(alone.own, alone.received, alone.weight, s.round_of(i))
        torch.testing.assert_close(one.result, result[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(one.accepted, accepted[i], atol=1e-4, rtol=0)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_that_is_given_is_written_into(case: Case, dtype: torch.dtype) -> None:
    s = scene(2, case.k, 2, dtype=dtype)
    copies = [x.clone() for x in (s.own, s.received, s.weight)]
    round = s.round
    case.rule(s.own, s.received, s.weight, round)
    before = dict(round.memory)
    kept = {name: tensor.clone() for name, tensor in before.items()}
    result = case.rule(s.own, s.received, s.weight, round).result
    for given_, copy in zip((s.own, s.received, s.weight), copies, strict=True):
        assert torch.equal(given_, copy)
    for name, tensor in before.items():
        torch.testing.assert_close(tensor, kept[name], equal_nan=True, rtol=0, atol=0)
    result.zero_()  # nor does the result share memory with it
    assert torch.equal(s.own, copies[0])
    assert torch.equal(s.received, copies[1])


@EVERY
@SOME
@given(seed=SEEDS)
def test_copies_of_the_own_vector_leave_it(case: Case, seed: int) -> None:
    s = scene(seed, case.k, total=0.9, dtype=torch.float32)
    received = s.own.repeat(case.k, 1)
    result, accepted = case.rule(s.own, received, s.weight, s.round)
    torch.testing.assert_close(result, s.own, atol=1e-5, rtol=0)
    assert 0 <= accepted.min() <= accepted.max() <= 1


@where("agrees")
@SOME
@given(seed=SEEDS)
def test_where_all_received_agree_a_server_takes_it(case: Case, seed: int) -> None:
    s = scene(seed, case.k, dtype=torch.float32)
    received = s.own.repeat(case.k, 1)
    result, _ = case.rule(s.own + 100, received, s.weight, s.round)
    torch.testing.assert_close(result, s.own, atol=1e-3, rtol=0)


@EVERY
@SOME
@given(
    seed=SEEDS,
    size=st.sampled_from([1.0, 3.0, 1e3, 1e30]),
    kind=st.sampled_from(["together", "apart", "one coordinate", "falling"]),
)
def test_liars_move_it_no_farther_than_its_bound(
    case: Case, seed: int, size: float, kind: str
) -> None:
    s = replace(scene(seed, case.k, dtype=torch.float32), liars=case.f)
    draw = torch.Generator().manual_seed(seed + 1)
    lies = torch.randn(case.f, D, generator=draw)
    if kind == "together":
        lies = lies[:1].expand(case.f, D)
    elif kind == "one coordinate":
        lies = torch.eye(D)[: case.f]
    elif kind == "falling":
        lies = lies / torch.arange(1, case.f + 1).unsqueeze(-1) ** 3
    s.received[: case.f] = s.target + size * lies
    result, accepted = case.rule(s.own, s.received, s.weight, s.round)
    assert result.isfinite().all()
    assert 0 <= accepted.min() <= accepted.max() <= 1
    if case.bound is not None and (case.alone or (kind == "together" and size >= 1e3)):
        found, allowed = case.bound(result, s, case)
        assert found <= allowed * (1 + 1e-5) + 1e-5


@pytest.mark.parametrize("case", [c for c in CASES if c.bound is None], ids=lambda c: str(c.rule))
def test_what_has_no_bound_says_so(case: Case) -> None:
    s = scene(0, case.k)
    s.received[0], s.received[1] = s.target, s.target
    s.received[0, 0], s.received[1, 1] = 1e9, 1e6
    result = case.rule(s.own, s.received, s.weight, s.round).result
    assert result.abs().max() > 1e5
    assert "anywhere" in case.rule.tolerates(case.k) or "liars can" in case.rule.tolerates(case.k)


@EVERY
def test_what_is_not_finite_is_turned_away_and_does_not_spread(case: Case) -> None:
    s = scene(3, case.k, 2, dtype=torch.float32)
    s.received[0, 0, 3], s.received[0, 1] = torch.nan, torch.inf
    s.received[1, 4, :2] = torch.tensor([torch.inf, -torch.inf])
    result, accepted = case.rule(s.own, s.received, s.weight, s.round)
    assert result.isfinite().all()
    assert (accepted[0, :2] == 0).all()
    assert accepted[1, 4] == 0
    # The others are combined as if the two had never been, by a rule that has found two liars.
    rest = s.alone(0, 2)
    without = case.rule.without(2)
    assert getattr(without, "f", 0) == max(0, getattr(case.rule, "f", 0) - 2)
    expected = without(rest.own, rest.received, rest.weight, s.round_of(0, 2))
    torch.testing.assert_close(result[0], expected.result, atol=1e-5, rtol=0)
    torch.testing.assert_close(accepted[0, 2:], expected.accepted, atol=1e-4, rtol=0)


@EVERY
def test_where_nothing_is_finite_own_is_kept(case: Case) -> None:
    s = scene(4, case.k)
    result, accepted = case.rule(s.own, s.received * torch.nan, s.weight, s.round)
    assert torch.equal(result, s.own)
    assert (accepted == 0).all()


@EVERY
def test_too_few_are_refused_with_the_number_that_works(case: Case) -> None:
    least = case.rule.least
    s = scene(5, least)
    assert case.rule(s.own, s.received, s.weight, s.round).result.isfinite().all()
    with pytest.raises(InputError, match=rf"{least - 1} received vectors?; it needs {least} or"):
        case.rule(s.own, s.received[1:], s.weight[1:], s.round)


@EVERY
def test_it_says_what_it_tolerates(case: Case) -> None:
    said = case.rule.tolerates(case.k)
    assert said
    assert not said.endswith(".")


@pytest.mark.slow
def test_no_rule_takes_memory_for_all_pairs_of_vectors() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import test_aggregation_conformance as t; t.print_peaks()"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = json.loads(found.stdout)
    assert len(peaks) == len(CASES)
    # In matrices of (64, 200,000) float32. All pairs would be 64 of them.
    assert {rule: peak for rule, peak in peaks.items() if peak > 8} == {}


def print_peaks() -> None:
    """What each rule adds to this process's memory at its peak, in sizes of the input (Linux)."""
    k, d = 64, 200_000
    own, received, weight = torch.zeros(d), torch.randn(k, d), torch.full((k,), 1 / k)
    proc = Path("/proc/self")

    def kib(name: str) -> int:
        lines = (proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    peaks = {}
    for case in CASES:
        round = Round(
            receivers=torch.tensor(0),
            links=torch.arange(k),
            all_links=k,
            start=own,
            loss=lambda receivers, models: torch.stack([m.norm() for m in models]),
            root=lambda model: model + 1,
        )
        (proc / "clear_refs").write_text("5")  # the peak begins anew
        before = kib("VmRSS")
        case.rule(own, received, weight, round)
        peaks[str(case.rule)] = (kib("VmHWM") - before) * 1024 / (4 * k * d)
    print(json.dumps(peaks))
