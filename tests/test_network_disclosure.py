"""How much of an error leaves a site, at each level; looked at as bytes on their way."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import torch
from torch import nn

from network_parties import Ping, Pong, joined, listening
from tacit.errors import InputError, MessageError
from tacit.network.authority import Authority
from tacit.network.disclosure import Disclosure, disclosed
from tacit.network.identity import Identity
from tacit.network.messages import Refused
from tacit.network.transport import Endpoint
from test_network_rounds import experiment
from test_network_run import Bench

LEVELS: tuple[Disclosure, ...] = get_args(Disclosure)
SECRET = "Meier, HIV positive, /home/anna/table.csv, 4711"


def caught(error: Exception) -> Exception:
    try:
        raise error
    except Exception as raised:
        return raised


def refused_by_tacit() -> Exception:
    from tacit.errors import require

    try:
        require(False, SECRET, SECRET, SECRET)
    except InputError as raised:
        return raised
    raise AssertionError


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "error",
    [InputError(SECRET), ValueError(SECRET), caught(KeyError(SECRET)), refused_by_tacit()],
    ids=["not raised", "a library's", "raised elsewhere", "tacit's"],
)
def test_a_sentence_leaves_at_the_last_level_alone(level: Disclosure, error: Exception) -> None:
    code, said = disclosed(level, error, "it could not train")
    assert code == ("TACIT-101" if isinstance(error, InputError) else "TACIT-100")
    assert ("it could not train" in said) == (level in ("phase", "redacted"))
    assert ("Meier" in said) == (level == "full")
    for word in ("HIV", "anna", "4711"):
        assert (word in said) == (level == "full")


def test_a_redacted_sentence_is_that_of_the_source() -> None:
    _, said = disclosed("redacted", refused_by_tacit(), "it could not train")
    assert said.startswith("it could not train: …: … was given; allowed is … (errors.py, line ")


class Leaks(nn.Module):
    """A loss that fails with the rows that it was given in its message."""

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(f"{SECRET}: {target.tolist()} {output.tolist()}")


class Recorded(Bench):
    """A bench that keeps the bytes that each site sent."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.sent = b""
        super().__init__(*args, **settings)

    def ask(self, name: str, request: Any) -> Any:
        self.sent += msgspec.msgpack.encode(request)
        return super().ask(name, request)


@pytest.mark.parametrize("level", LEVELS)
def test_what_training_fails_of_leaves_as_little_as_the_site_says(
    level: Disclosure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = experiment(rounds=1)
    bench = Recorded(plan, tmp_path, patience=60)

    def run(name: str) -> Any:
        site = bench.site(name, disclosure=level)
        site._train = lambda *_: Leaks()(torch.zeros(2), torch.ones(2))
        return site.run()

    with ThreadPoolExecutor(8) as pool:
        sites = [pool.submit(run, name) for name in plan.data.names]
        kept = bench.coordinator.run()
        for site in sites:
            site.result()
    assert kept.outcome == "failed"
    assert "TACIT-100" in (kept.reason or "")
    assert (b"Meier" in bench.sent) == (level == "full")
    assert (b"[1.0, 1.0]" in bench.sent) == (level == "full")
    assert (b"it could not train" in bench.sent) == (level in ("phase", "redacted"))
    assert "Meier" in caplog.text  # the site's own log has it


@pytest.mark.parametrize("level", LEVELS)
def test_a_refused_reply_tells_as_little_as_the_site_says(
    level: Disclosure, tmp_path: Path
) -> None:
    authority = Authority.init("hearts", tmp_path / "coordinator", ["127.0.0.1:0"])
    joined(authority, tmp_path / "zurich", "zurich")

    def refuse(sender: str, ping: Ping) -> Pong:
        if ping.number == 1:
            raise MessageError(SECRET)
        raise RuntimeError(SECRET)

    with listening(Identity.load(authority.home)) as coordinator:
        address = [coordinator.address]  # type: ignore[attr-defined]
        coordinator.serve(Ping, lambda *_: Pong(0))
        with Endpoint(
            Identity.load(tmp_path / "zurich"), connect=address, disclosure=level
        ) as zurich:
            zurich.serve(Ping, refuse)
            assert zurich.ask("coordinator", Ping(0), Pong, timeout=60) == Pong(0)
            with pytest.raises(Refused) as refused:
                coordinator.ask("zurich", Ping(1), Pong, timeout=60)
            assert refused.value.code == "TACIT-105"
            assert ("Meier" in str(refused.value)) == (level == "full")
            assert ("a Ping" in str(refused.value)) == (level in ("phase", "redacted"))
            with pytest.raises(Refused) as failed:
                coordinator.ask("zurich", Ping(2), Pong, timeout=60)
            assert failed.value.code == "TACIT-100"
            assert "Meier" not in str(failed.value)
