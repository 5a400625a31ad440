"""What is logged, in which form, and what never is."""

import io
import json
import logging
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from network_killing import small_plan
from network_parties import joined, listening
from network_small import SITES, Small
from tacit.errors import MessageError
from tacit.network import joining
from tacit.network.authority import Authority
from tacit.network.blobs import Blobs
from tacit.network.configuration import CHUNK
from tacit.network.identity import SIGN, TLS, Identity
from tacit.network.logs import JsonLines, begin
from tacit.network.transport import Endpoint

Lines = list[dict[str, object]]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, from debug on, as text with tracebacks and as JSON."""
    written, root = io.StringIO(), logging.getLogger()
    handlers = [logging.StreamHandler(written), logging.StreamHandler(written)]
    handlers[1].setFormatter(JsonLines(federation="hearts"))
    before = root.level
    root.setLevel(logging.DEBUG)
    for handler in handlers:
        root.addHandler(handler)
    yield written
    for handler in handlers:
        root.removeHandler(handler)
    root.setLevel(before)


def objects(log: io.StringIO) -> Lines:
    return [json.loads(line) for line in log.getvalue().splitlines() if line.startswith("{")]


def test_a_line_says_when_where_and_what() -> None:
    record = logging.makeLogRecord(
        {"name": "tacit.network", "levelno": 30, "levelname": "WARNING", "created": 1e9 + 0.25,
         "msg": "%s\nis late", "args": ("north",), "site": "north", "round": 3, "other": 5}
    )  # fmt: skip
    line = JsonLines(federation="hearts", member="coordinator").format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2001-09-09T01:46:40.250+00:00", "level": "warning", "logger": "tacit.network",
        "message": "north\nis late", "federation": "hearts", "member": "coordinator",
        "site": "north", "round": 3,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_goes_to_standard_error_from_its_level_on(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        root.handlers = []
        begin(form, "warning", member="north")  # type: ignore[arg-type]
        logging.getLogger("tacit.network").info("quiet")
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("tacit.network").exception("loud")
    finally:
        root.handlers, root.level = before
        root.setLevel(before[1])
    said = capsys.readouterr()
    assert said.out == ""
    assert "quiet" not in said.err
    if form == "json":
        (line,) = [json.loads(line) for line in said.err.splitlines()]
        assert line["exception"].endswith("ValueError: broken")
        age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
        assert abs(age.total_seconds()) < 600
    else:
        assert "loud" in said.err


def spellings(secret: bytes) -> list[str]:
    """How a log might show bytes."""
    kinds = [b64encode(secret), urlsafe_b64encode(secret)]
    return [secret.hex(), repr(secret)[2:-1], *(kind.decode().rstrip("=") for kind in kinds)]


def test_no_secret_is_in_any_log(tmp_path: Path, log: io.StringIO) -> None:
    small = Small(tmp_path)
    used = small.tokens["north"]
    kept, taken = small.all(
        on_round=lambda row: _try_in_vain(used, tmp_path / "thief") if row["round"] == 1 else None
    )
    assert {kept.outcome, *(each.outcome for each in taken)} == {"finished"}
    text = log.getvalue()
    assert "north joined with" in text  # it is the run's log
    secrets = [token.to_text()[10:60] for token in small.tokens.values()]
    for token in small.tokens.values():
        secrets += spellings(token.nonce)
    for home in [small.authority.home, *(tmp_path / site for site in SITES)]:
        secrets += spellings((home / SIGN).read_bytes())
        pem = (home / TLS).read_text().split("-----BEGIN CERTIFICATE")[0]
        secrets += [line for line in pem.splitlines() if line and "-----" not in line]
    for x, _ in small.whole.data.train.parts():
        secrets += [f"{abs(value):.5f}"[:7] for value in x.flatten().tolist()]
    assert len(secrets) > 200
    assert [secret for secret in secrets if secret in text] == []
    for line in objects(log):
        assert {"time", "level", "logger", "message", "federation"} <= line.keys()


def _try_in_vain(token: joining.Token, folder: Path) -> None:
    with pytest.raises(MessageError):
        joining.join(msgspec.structs.replace(token, nonce=token.nonce[::-1]), folder)


def test_what_messages_carry_is_counted_and_logged_as_well(
    tmp_path: Path, log: io.StringIO
) -> None:
    small = Small(tmp_path, small_plan())
    kept, _ = small.all()
    assert kept.outcome == "finished"
    audit = [line for line in objects(log) if line["logger"] == "tacit.network.audit"]
    # In each of two rounds a model to each site, and an update of each.
    went = [line["site"] for line in audit if line["bytes"] == line["of"]]
    assert sorted(went)[:4] == ["coordinator"] * 4
    assert all(went.count(site) >= 2 for site in SITES)


def test_who_was_sent_what_is_logged(tmp_path: Path, log: io.StringIO) -> None:
    authority = Authority.init("hearts", tmp_path / "coordinator", ["127.0.0.1:0"])
    joined(authority, tmp_path / "zurich", "zurich")
    with listening(Identity.load(authority.home)) as coordinator:
        address = [coordinator.address]  # type: ignore[attr-defined]
        with Endpoint(Identity.load(tmp_path / "zurich"), connect=address) as zurich:
            holder, taker = Blobs(coordinator), Blobs(zurich)
            for size in (10, 2 * CHUNK + 7):
                offer = holder.offer(bytes(size))
                taker.pull("coordinator", offer, tmp_path / "received", most=size)
            secret = holder.offer(b"for others", to=["bern"])
            with pytest.raises(Exception, match="sent no chunk"):
                taker.pull("coordinator", secret, tmp_path / "secret", most=10, stall=0.3)
    assert (holder.sent, taker.received) == (2 * CHUNK + 17, 2 * CHUNK + 17)
    audit = [line for line in objects(log) if line["logger"] == "tacit.network.audit"]
    assert {line["site"] for line in audit} == {"zurich"}
    assert secret.digest.hex() not in {line["digest"] for line in audit}
    small, *large = [(line["bytes"], line["of"]) for line in audit]
    # Of several chunks a line with the first, before all is sent, and one with the last.
    assert small == (10, 10)
    assert len(large) == 2
    assert large[0][0] < large[0][1]  # type: ignore[operator]
    assert large[1] == (2 * CHUNK + 7, 2 * CHUNK + 7)
