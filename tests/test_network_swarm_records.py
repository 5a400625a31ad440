"""The record that a swarm leaves: the same at every member, and held to what the members signed."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tacit
from tacit.errors import InputError, MessageError
from tacit.ledger import records
from tacit.ledger.recorder import kept
from tacit.ledger.statement import Envelope, Statement, signed
from tacit.ledger.verify import verify
from tacit.network import swarm as swarms
from tacit.network.protocol import Entries, Founding, Witnessed
from test_network_swarm import BOUND, KEYS, Swarm, arm, plan_of


def copies(swarm: Swarm) -> list[Path]:
    return [swarm.folder / name / "copy" for name in swarm.names]


def statements(record: Path) -> list[Statement]:
    _, log = kept(record)
    return [Envelope.from_bytes(entry).statement for entry in log]


def close(swarm: Swarm) -> None:
    for run in swarm.members.values():
        run.replica.close()


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Copies of members who have all signed the beginning."""
    swarm = Swarm(plan_of(), tmp_path_factory.mktemp("swarm"), record=True)
    found = [swarm.member(name).replica for name in swarm.names]
    for _ in range(2):
        for one in found:
            for other in found:
                one.found(other.name, other.founding)
    assert all(one.turns for one in found)
    return found


@pytest.mark.parametrize(
    "changes", [{}, {"topology": tacit.Swarm(cohort=3)}, {"aggregation": tacit.Krum(f=1)}]
)
def test_all_copies_say_the_same_and_hold(changes, tmp_path):
    plan = plan_of(rounds=6, **changes)
    swarm = Swarm(plan, tmp_path, record=True)
    ended = swarm.all()
    assert {end.outcome for end in ended.values()} == {"finished"}
    whole = plan.layout.vector(tacit.run(plan).model)
    for model in swarm.models().values():
        assert torch.allclose(model, whole, atol=1e-5)
    close(swarm)
    first, *others = copies(swarm)
    for other in others:
        audit = verify(first, against=other)
        assert audit.findings == ()
    said = statements(first)
    assert [each.kind for each in said if each.kind != "contribution"] == [
        "genesis", *["round-open", "aggregate"] * 6
    ]  # fmt: skip
    assert (first / "policy.txt").read_text() == (others[0] / "policy.txt").read_text()
    # Who leads is drawn anew after each five rounds, from what was revealed in them.
    keys = {
        name: key.public_key().public_bytes_raw()
        for name, key in zip(swarm.names, KEYS, strict=True)
    }
    seed = bytes.fromhex(swarm.public.digest())
    first_nonces = b"".join(
        bytes.fromhex(each.says["revealed"])
        for each in said
        if each.kind == "contribution" and each.says["round"] < 5
    )
    assert len(first_nonces) >= 32 * 4 * 2
    for opened in (each for each in said if each.kind == "round-open"):
        if opened.says["round"] == 5:
            seed = sha256(seed + first_nonces).digest()
        order = sorted(keys, key=lambda name: sha256(seed + keys[name]).digest())
        turn = opened.says["round"] + opened.says["view"]
        place = said.index(opened)
        signers = Envelope.from_bytes(kept(first)[1][place]).signatures
        assert list(signers) == [order[turn % 5]]


@pytest.mark.parametrize(
    ("method", "back"), [("_fetch", False), ("_close", True), ("_settle", False), ("_settle", True)]
)
def test_a_leader_that_is_killed_leaves_copies_that_hold(method, back, tmp_path):
    swarm = Swarm(plan_of(), tmp_path, record=True)
    for name in swarm.names:
        swarm.join(swarm.member(name))
    victim = swarm.leader(1)
    arm(swarm, swarm.members[victim], method)
    with ThreadPoolExecutor(2) as pool:
        others = pool.submit(swarm.run)
        if back:
            while victim in swarm.members:
                threading.Event().wait(0.005)
            again = swarm.member(victim)
            swarm.join(again)
            assert pool.submit(again.run).result(BOUND).outcome == "finished"
        ended = others.result(BOUND)
    assert {end.outcome for end in ended.values()} == {"finished"}
    close(swarm)
    first, *others = [swarm.folder / name / "copy" for name in swarm.members]
    for other in others:
        assert verify(first, against=other).findings == ()
    assert len(statements(first)) == len(statements(others[0]))


def test_a_head_that_too_few_cosign_holds_nobody_up(tmp_path, monkeypatch, caplog):
    """Two of five die once the last round is decided on, before they have cosigned it."""
    monkeypatch.setattr(swarms, "_FAREWELL", 0.5)
    swarm = Swarm(plan_of(rounds=1), tmp_path, record=True)
    for name in swarm.names:
        swarm.join(swarm.member(name))
    victims = [name for name in swarm.names if name != swarm.leader(0)][:2]
    for name in victims:
        run = swarm.members[name]
        run._settle = lambda *_, run=run: swarm.killed(run)
    ended = swarm.run()
    assert set(ended) == set(swarm.names) - set(victims)
    assert {end.outcome for end in ended.values()} == {"finished"}
    close(swarm)
    assert caplog.text.count("3 of 5 members have cosigned the record of 8 entries, too few") == 3
    for name in ended:
        audit = verify(tmp_path / name / "copy")
        assert (audit.findings, audit.beyond) == ((), 7)
    # They come back, and cosign what was decided on.
    monkeypatch.setattr(swarms, "_FAREWELL", BOUND)
    for name in swarm.names:
        swarm.join(swarm.member(name))
    assert {end.outcome for end in swarm.run().values()} == {"finished"}
    close(swarm)
    for copy in copies(swarm):
        audit = verify(copy)
        assert (audit.findings, audit.beyond) == ((), 0)


def test_a_member_that_was_away_gets_the_entries_that_it_missed(tmp_path):
    swarm = Swarm(plan_of(rounds=5), tmp_path, record=True)
    back, arrived = threading.Event(), threading.Event()

    def pause(row):
        if row["round"] == 3:
            arrived.set()
            assert back.wait(BOUND)

    for name in swarm.names:
        swarm.join(swarm.member(name, on_round=pause))
    late = swarm.leader(1)
    arm(swarm, swarm.members[late], "_fetch")
    with ThreadPoolExecutor(2) as pool:
        others = pool.submit(swarm.run)
        assert arrived.wait(BOUND)
        run, asked = swarm.member(late), list[int]()
        pages = run.proposals.missing

        def lied_to(member, missing):
            """The first answer is of another record."""
            asked.append(missing.first)
            page = pages(member, missing)
            return Entries(page.entries[::-1]) if len(asked) == 1 else page

        run.proposals.missing = lied_to
        swarm.join(run)
        own = pool.submit(run.run)
        back.set()
        assert own.result(BOUND).outcome == "finished"
        assert others.result(BOUND)
    close(swarm)
    assert len(asked) > 1
    for other in copies(swarm):
        assert verify(tmp_path / late / "copy", against=other).findings == ()


def another_view(entries, key):
    said = records_of(entries)[0]
    said.says["view"] += 1
    entries[0] = signed(said, key)


def another_head(entries, key):
    said = records_of(entries)[0]
    said.says["head"]["size"] -= 1
    entries[0] = signed(said, key)


def one_less(entries, key):
    del entries[1]


def one_changed(entries, key):
    said = records_of(entries)[1]
    said.says["claim"] = "DPSGD"
    entries[1] = signed(said, key)


def one_twice(entries, key):
    entries[2] = entries[1]


def another_model(entries, key):
    said = records_of(entries)[-1]
    said.subjects["model"] = bytes(32)
    entries[-1] = signed(said, key)


def one_not_counted(entries, key):
    said = records_of(entries)[-1]
    said.says["included"].pop()
    entries[-1] = signed(said, key)


def another_leader(entries, key):
    (other,) = [name for name in "01234" if name not in key][:1]
    entries[0] = signed(records_of(entries)[0], {other: KEYS[int(other)]})


def closed_by_another(entries, key):
    (other,) = [name for name in "01234" if name not in key][:1]
    entries[-1] = signed(records_of(entries)[-1], {other: KEYS[int(other)]})


def records_of(entries):
    return [Envelope.from_bytes(entry).statement for entry in entries]


LIES = [
    another_view, another_head, one_less, one_changed, one_twice, another_model, one_not_counted,
    another_leader, closed_by_another,
]  # fmt: skip


@pytest.mark.parametrize("lie", [*LIES, None], ids=lambda lie: lie and lie.__name__)
def test_entries_that_cannot_be_are_refused(lie, begun):
    first = begun[0]
    leader = next(one for one in begun if one.name == first.turns.leader(0, 0))
    file, base, state = first.folder / "update", bytes(32), bytes([1]) * 32
    file.write_bytes(b"an update")
    parts = {one.name: one.contribution(0, base, file, 40) for one in begun[:4]}
    rows = dict.fromkeys(parts, 40)
    entries, size, root = leader.round(0, 0, base, state, parts, {"2": "turned away by Krum"})
    first.judge(0, base, state, rows, entries, size, root)
    if lie is None:
        root = bytes(32)
    else:
        lie(entries, {leader.name: leader.signer})
        size, root = leader._after(entries)
    with pytest.raises(MessageError):
        first.judge(0, base, state, rows, entries, size, root)
    with pytest.raises(MessageError, match="do not lead to the head"):
        first.decided(entries, size, bytes(32))
    assert len(first.log) == 1


def test_a_leader_that_proposes_entries_that_cannot_be_is_passed_over(tmp_path, caplog):
    swarm = Swarm(plan_of(rounds=1), tmp_path, record=True)
    for name in swarm.names:
        swarm.join(swarm.member(name))
    rogue = swarm.members[swarm.leader(0)]
    round = rogue.replica.round

    def falsified(*given):
        entries, _, _ = round(*given)
        another_model(entries, {rogue.name: rogue.signer})
        return entries, *rogue.replica._after(entries)

    rogue.replica.round = falsified
    ended = swarm.run()
    assert f"{rogue.name!r} proposes what cannot be" in caplog.text
    assert {end.outcome for end in ended.values()} == {"finished"}
    close(swarm)
    for copy in copies(swarm):
        assert verify(copy).findings == ()
    opened = [each for each in statements(copies(swarm)[0]) if each.kind == "round-open"]
    assert [each.says["view"] for each in opened] == [1]


def test_who_keeps_no_record_takes_no_part(tmp_path, caplog):
    swarm = Swarm(plan_of(), tmp_path, record=True)
    for name in swarm.names[:4]:
        swarm.join(swarm.member(name, patience=2.0))
    swarm.record = False
    swarm.join(swarm.member(swarm.names[4], patience=2.0))
    ended = swarm.run()
    assert {end.outcome for end in ended.values()} == {"failed"}
    assert "'4' keeps no record of the run, unlike" in caplog.text


def test_who_has_lost_its_keys_before_all_have_signed_is_named(tmp_path):
    swarm = Swarm(plan_of(), tmp_path, record=True)
    one, other, *rest = (swarm.member(name).replica for name in swarm.names)
    for each in (other, *rest):
        one.found(each.name, each.founding)
    assert one.founding.signature
    shutil.rmtree(tmp_path / "1")
    again = swarm.member("1").replica
    with pytest.raises(MessageError, match="'1' has other keys for the record than those"):
        one.found("1", again.founding)
    # Who comes back with those that were signed is as welcome as before.
    assert not one.found("1", other.founding)


def test_a_signature_on_another_beginning_does_not_count(tmp_path, caplog):
    swarm = Swarm(plan_of(), tmp_path, record=True)
    one, other, *rest = (swarm.member(name).replica for name in swarm.names)
    wrong = msgspec.structs.replace(other.founding, signature=KEYS[1].sign(b"something else"))
    one.found("1", wrong)
    for each in rest:
        one.found(each.name, each.founding)
    assert "1 has signed another beginning" in caplog.text
    assert "1" in one.absent


TEXT = st.text(max_size=60) | st.from_regex(r"\A[a-z]{1,5}\+[0-9a-f]{8}\+[A-Za-z0-9/]{4,44}=?\Z")
FEW = settings(max_examples=60, deadline=None, derandomize=True)


def test_any_founding_is_taken_or_refused_in_a_sentence(tmp_path):
    swarm = Swarm(plan_of(), tmp_path, record=True)
    one, other = swarm.member("0").replica, swarm.member("1").replica

    @FEW
    @given(TEXT, TEXT, st.binary(max_size=64), st.sampled_from([0, 1, 2]))
    def told(log, witness, signature, keys):
        said = Founding(
            other.founding.log if keys else log,
            other.founding.witness if keys == 2 else witness,
            signature,
        )
        with suppress(MessageError):
            one.found("1", said)
        assert one.turns is None

    told()


@FEW
@given(st.text(max_size=200), st.integers(0, 2**53 - 1), st.booleans(), st.booleans())
def test_any_cosignature_is_counted_or_not(begun, text, size, counts, same):
    one, other = begun[:2]
    mine = other.witnessed
    line = text if same else mine.line.replace(mine.line[5:9], text[:4])
    before = dict(one._lines)
    one.cosigned("1", Witnessed(mine.size if same else size, line, counts))
    assert one._lines == before or line == mine.line


def test_a_cosignature_counts_for_who_made_it(begun):
    one, other, third = begun[:3]
    before, mine = dict(one._lines), other.witnessed
    assert one.cosigned("1", msgspec.structs.replace(mine, line=third.witnessed.line)) is False
    stale = mine.line[:-8] + ("AAAA" if mine.line[-8:-4] != "AAAA" else "BBBB") + mine.line[-4:]
    one.cosigned("1", msgspec.structs.replace(mine, line=stale))
    assert one._lines == before
    one.cosigned("1", mine)
    assert one._lines == before | {"1": mine.line}


def test_a_nonce_that_was_not_committed_to_is_refused(begun):
    turn = records.Turn(bytes(32), bytes(32))
    said = records.contribution(0, "1", bytes(32), bytes(32), 40, begun[0].claim, turn)
    with pytest.raises(MessageError, match="1 reveals another nonce than it has committed to"):
        begun[0].check("1", 0, bytes(32), signed(said, {"1": KEYS[1]}), 40)


@FEW
@given(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 255))
def test_any_entry_is_refused_in_a_sentence(begun, raw, at, byte):
    one, other = begun[:2]
    file = other.folder / "update"
    file.write_bytes(b"an update")
    good = other.contribution(0, bytes(32), file, 40)
    one.check("1", 0, bytes(32), good, 40)
    place = at % len(good)
    changed = good[:place] + bytes([byte]) + good[place + 1 :]
    for entry in (raw, good[:place], changed):
        if entry != good:
            with pytest.raises(MessageError):
                one.check("1", 0, bytes(32), entry, 40)
    for wrong in ((1, bytes(32), 40), (0, bytes(31) + b"1", 40), (0, bytes(32), 4000)):
        with pytest.raises(MessageError, match="has signed a contribution to something else"):
            one.check("1", wrong[0], wrong[1], good, wrong[2])


def test_a_copy_that_was_lost_is_named(tmp_path):
    swarm = Swarm(plan_of(), tmp_path, record=True)
    swarm.all()
    close(swarm)
    shutil.rmtree(copies(swarm)[0])
    with pytest.raises(InputError, match=r"holds 0 rounds, and round 4 is to be recorded"):
        swarm.member("0")
    swarm.record = False
    swarm.member("0")  # who is done may look without it
