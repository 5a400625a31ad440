"""What sites and federations let run: the file, the decision, and both over the commands."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tacit
from network_parties import joined
from tacit.cli import app
from tacit.cli.source import load
from tacit.errors import InputError, MessageError
from tacit.experiment import Experiment
from tacit.network.approval import approve
from tacit.network.authority import Authority
from tacit.network.coordinator import Coordinator
from tacit.network.policy import (
    COMMENTS,
    Limits,
    Policy,
    at_site,
    cost,
    read,
    refusals,
    shown,
    text,
)
from tacit.network.protocol import Join
from tacit.network.software import code_of, installed
from tacit.network.store import Store
from test_network_rounds import empty, experiment

HASH = "0123456789abcdef" * 4


def plan(**changes: object) -> Experiment:
    """As a file defines it, without rows and row counts."""
    whole = experiment(**changes)
    public = empty(whole.data)
    none = np.zeros(whole.data.nodes + 1, np.int64)
    train = dataclasses.replace(public.train, offsets=none)
    return whole.replace(data=dataclasses.replace(public, train=train))


@pytest.mark.parametrize("kind", [Limits, Policy])
def test_what_is_written_is_read(kind: type[Limits], tmp_path: Path) -> None:
    strict = Limits(
        minimum_cohort=3, maximum_epsilon=2.5, maximum_delta=1e-5, algorithms=("FedAvg",),
        required_protections=("DPSGD", "Clip"), software=(HASH,),
    )  # fmt: skip
    (tmp_path / "policy.toml").write_text(text(kind(**dataclasses.asdict(strict))))
    assert read(tmp_path / "policy.toml", kind) == kind(**dataclasses.asdict(strict))
    (tmp_path / "policy.toml").write_text(text(kind()))
    assert read(tmp_path / "policy.toml", kind) == kind() == read(tmp_path / "none.toml", kind)
    assert COMMENTS.keys() == {field.name for field in dataclasses.fields(Policy)}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("minimum_cohort = 0", "minimum_cohort: 0 was given; allowed is a whole number, 1 or more"),
        ("minimum_cohort = true", "minimum_cohort: True was given"),
        ('maximum_epsilon = "3"', "maximum_epsilon: '3' was given; allowed is a number above 0"),
        ("maximum_epsilon = nan", "maximum_epsilon: nan was given"),
        (
            "maximum_delta = 1",
            "maximum_delta: 1 was given; allowed is a number above 0 and below 1",
        ),
        (
            'required_protections = "Clip"',
            "required_protections: 'Clip' was given; allowed is a li",
        ),
        (
            'required_protections = ["clip"]',
            "required_protections: 'clip' was given; allowed is DP",
        ),
        ("algorithms = [1]", "algorithms: 1 was given; allowed is"),
        (
            'experiments = ["abc"]',
            "experiments: 'abc' was given; allowed is hashes, 64 hexadecimal",
        ),
        (
            'disclosure = "all"',
            "disclosure: 'all' was given; allowed is code, phase, redacted, full",
        ),
        ("record = 1", "record: 1 was given; allowed is true or false"),
        ("min_cohort = 2", "min_cohort: unknown; allowed are minimum_cohort, maximum_epsilon"),
        ("minimum_cohort =", "it is not TOML ("),
        (f"a = {'[' * 5000}", "it is not TOML ("),
    ],
)
def test_a_bad_field_is_refused_in_a_sentence(line: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(line)
    with pytest.raises(InputError) as refused:
        read(path, Policy)
    assert str(refused.value).startswith(f"{path}: {sentence}")
    assert "\n" not in str(refused.value)


def test_a_federations_limits_have_no_lists_of_a_site(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(f'experiments = ["{HASH}"]')
    with pytest.raises(InputError, match="experiments: unknown; allowed are minimum_cohort, "):
        read(tmp_path / "policy.toml", Limits)


NOISE = [tacit.Clip(0.5), tacit.GaussianNoise(epsilon=3, delta=1e-5, where="local")]
SUM = [tacit.SecureAggregation(threshold=4)]
CASES = {
    "nothing demanded": ({}, {}, []),
    "algorithm": ({"algorithms": ("Gossip", "Ditto")}, {}, ["the algorithm is FedAvg; allowed is"]),
    "its algorithm": ({"algorithms": ("Gossip", "FedAvg")}, {}, []),
    "code of tacit": ({"software": (HASH,)}, {}, ["the code of tacit here has hash "]),
    "cohort": (
        {"minimum_cohort": 5}, {"topology": tacit.Star(cohort=4)},
        ["a round may add up the models of 4 sites; 5 is the least"],
    ),
    "all of them": ({"minimum_cohort": 5}, {}, []),
    "threshold": (
        {"minimum_cohort": 5}, {"protection": SUM}, ["a round may add up the models of 4 sites"]
    ),
    "neighbours and itself": (
        {"minimum_cohort": 4}, {"algorithm": tacit.Gossip(), "topology": tacit.Ring()},
        ["a round may add up the models of 3 sites; 4 is the least"],
    ),
    "protections": (
        {"required_protections": ("SecureAggregation", "Clip", "Noise")}, {"protection": SUM},
        ["it has no Clip and no Noise, which is required"],
    ),
    "a kind of noise": ({"required_protections": ("Noise",)}, {"protection": NOISE}, []),
    "no noise": ({"maximum_epsilon": 9}, {}, ["nothing bounds its epsilon; 9 is the most"]),
    "epsilon": (
        {"maximum_epsilon": 2.5}, {"protection": NOISE}, ["its rounds spend epsilon 2.99"]
    ),
    "enough": ({"maximum_epsilon": 3.1, "maximum_delta": 1e-5}, {"protection": NOISE}, []),
    "delta": (
        {"maximum_delta": 1e-6}, {"protection": NOISE}, ["its delta is 1e-05; 1e-06 is the most"]
    ),
    "two": (
        {"algorithms": ("Gossip",), "minimum_cohort": 6}, {}, ["the algorithm is", "a round may"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_decision(case: tuple[dict, dict, list[str]]) -> None:
    limits, changes, sentences = case
    found = refusals(Limits(**limits), plan(**changes))
    assert [said[: len(wanted)] for said, wanted in zip(found, sentences, strict=True)] == sentences


def test_the_code_of_tacit_that_is_installed_may_run() -> None:
    assert refusals(Limits(software=(installed(),)), plan()) == []


def test_what_rows_cost_is_known_once_their_number_is() -> None:
    """With more rows in each batch's draw a row is seen more seldom, and spends less."""
    noised = plan(protection=[tacit.DPSGD(norm=1.0, multiplier=0.8, delta=1e-5)])
    assert cost(noised) == (None, 1e-5)
    assert refusals(Limits(maximum_epsilon=0.001), noised) == []
    few, many = (cost(at_site(noised, rows))[0] for rows in (16, 1600))
    assert few is not None
    assert many is not None
    assert 0 < many < few < math.inf
    between = Limits(maximum_epsilon=(few + many) / 2)
    assert refusals(between, at_site(noised, 1600)) == []
    assert "spend epsilon" in refusals(between, at_site(noised, 16))[0]
    assert f"epsilon {few:.4g} at delta 1e-05 for each row" in shown(noised, 16)


def test_without_noise_the_operator_reads_that_nothing_bounds_the_cost() -> None:
    said = shown(plan(), 10)
    assert "nothing bounds what the models tell" in said
    assert installed() in said


def test_lists_allow_an_experiment_or_its_code(tmp_path: Path) -> None:
    (tmp_path / "plan.py").write_text(FILE)
    (tmp_path / "other.py").write_text(FILE.replace("2 * F", "3 * F"))
    one, other = load(tmp_path / "plan.py"), load(tmp_path / "other.py")
    longer = one.replace(rounds=7)
    assert code_of(one) == code_of(longer) != code_of(other)
    by_hash, by_code = Policy(experiments=(one.digest(),)), Policy(code=(code_of(one),))
    assert [by_hash.allows(each) for each in (one, longer, other)] == [True, False, False]
    assert [by_code.allows(each) for each in (one, longer, other)] == [True, True, False]
    assert not Policy().allows(one)


def test_a_coordinator_refuses_what_is_against_its_federations_limits(tmp_path: Path) -> None:
    noised = plan(protection=[tacit.DPSGD(norm=1.0, multiplier=0.8, delta=1e-5)])
    store = Store(tmp_path, noised.digest())

    def coordinator(limits: Limits) -> Coordinator:
        return Coordinator(noised, store, lambda *_: None, lambda _: None, limits=limits)

    with pytest.raises(InputError, match="this federation's policy refuses the experiment: a rou"):
        coordinator(Limits(minimum_cohort=6))
    # What depends on the rows is refused when all have said how many they have.
    waiting = coordinator(Limits(maximum_epsilon=0.001))
    for site in waiting.names:
        waiting.answer(site, Join(noised.digest(), waiting.software, 40))
    with pytest.raises(InputError, match="its rounds spend epsilon"):
        waiting.run()
    waiting.stop()
    store.close()


FILE = """
import torch.nn.functional as F
from torch import nn
import tacit

def loss(output, target):
    return 2 * F.cross_entropy(output, target)

experiment = tacit.Experiment(
    data=tacit.data.at_sites(("a", "b", "c"), target="y", columns=["u"], labels=[0, 1]),
    model=lambda: nn.Linear(1, 2), loss=loss, training=tacit.SGD(lr=0.1, batch_size=8, epochs=1),
)
"""


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demanded: list[bool] = []

    def take_part(*_: object, record: bool, **__: object) -> None:
        demanded.append(record)
        raise ZeroDivisionError

    monkeypatch.setattr("tacit.network.processes.take_part", take_part)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    (tmp_path / "plan.py").write_text(FILE)
    (tmp_path / "a.csv").write_text("u,y\n" + "1,0\n2,1\n" * 8)
    home = tmp_path / "coordinator"
    words = ["federation", "init", "hearts", "--address", "h:1", "--home", str(home)]
    assert "What it demands of every experiment" in CliRunner().invoke(app, words).output
    assert read(home / "policy.toml", Limits) == Limits()
    joined(Authority.load(home), tmp_path / "a", "a")
    words = ["node", str(tmp_path / "plan.py"), "--data", str(tmp_path / "a.csv"), "--home"]
    words.append(str(tmp_path / "a"))

    def node(*more: str) -> str:
        done = CliRunner().invoke(app, [*words, *more])
        runs = isinstance(done.exception, ZeroDivisionError)
        assert runs or (done.exit_code, done.stdout) == (2, "")
        return "runs" if runs else done.stderr

    digest = load(tmp_path / "plan.py").digest()
    asked = node()
    assert "Privacy cost here: no noise" in asked
    assert f"Its own code {code_of(load(tmp_path / 'plan.py'))}" in asked
    assert f"`tacit node approve {digest}`" in asked
    (tmp_path / "a/policy.toml").write_text(f'experiments = ["{digest}"]')
    assert node() == "runs"
    assert "no such file" in node("--policy", str(tmp_path / "strict.toml"))
    (tmp_path / "strict.toml").write_text("minimum_cohort = 4")
    approve(tmp_path / "a", digest)  # lifts no limit
    strict = node("--policy", str(tmp_path / "strict.toml"))
    assert f"this site's policy refuses experiment {digest[:12]}: a round may add up the" in strict
    assert node() == "runs"
    assert demanded == [False, False]
    (tmp_path / "strict.toml").write_text("record = true")
    assert node("--policy", str(tmp_path / "strict.toml")) == "runs"
    assert demanded[-1] is True  # and the run is refused once it turns out to leave none
    for command in ("peer", "swarm"):
        words[0] = command
        told = node("--policy", str(tmp_path / "strict.toml"), "--listen", "h:1")
        assert "--record: this site's policy asks for a record of the run; give a folder" in told


def test_a_site_with_other_code_of_the_same_version_is_refused(tmp_path: Path) -> None:
    public = plan()
    store = Store(tmp_path, public.digest())
    coordinator = Coordinator(public, store, lambda *_: None, lambda _: None)
    theirs = coordinator.software.replace(installed()[:12], "0123456789ab")
    site = coordinator.names[0]
    with pytest.raises(MessageError) as refused:
        coordinator.answer(site, Join(public.digest(), theirs, 40))
    assert f"{site!r} runs tacit {theirs}, the coordinator {coordinator.software}" in str(
        refused.value
    )
    coordinator.stop()
    store.close()
