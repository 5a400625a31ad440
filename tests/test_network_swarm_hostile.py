"""One member of a swarm who lies, or says nothing, does not keep the others from their run; nor
does a power failure while they begin."""

import threading
from types import SimpleNamespace

import msgspec
import pytest

from tacit.errors import MessageError
from tacit.ledger.log import MOST_ENTRY
from tacit.network.blobs import Offer
from tacit.network.protocol import Record, Talk
from tacit.network.swarm import _Failed
from tacit.network.transport import Unreachable
from test_network_swarm import Swarm, plan_of


def told(replicas):
    for one in replicas:
        for other in replicas:
            if one is not other:
                one.found(other.name, other.founding)


def test_all_may_be_killed_once_one_has_begun_the_record(tmp_path):
    swarm = Swarm(plan_of(), tmp_path, record=True)
    before = [swarm.member(name).replica for name in swarm.names]
    told(before)
    for other in before[1:]:
        before[0].found(other.name, other.founding)
    assert before[0].turns
    assert not before[1].turns
    for one in before:
        one.close()
    after = [swarm.member(name).replica for name in swarm.names]
    told(after)
    assert [one.absent for one in after] == [[]] * 5
    assert {one.log[0] for one in after} == {after[0].log[0]}
    for one in after:
        one.close()


def test_a_leader_that_never_gives_what_it_has_proposed_is_passed_over(tmp_path):
    swarm = Swarm(plan_of(rounds=1), tmp_path)
    for name in swarm.names:
        # The leader is there, so that it is given up for the lack of progress alone.
        swarm.join(swarm.member(name, stall=0.5))
    rogue = swarm.leader(0)

    def withheld(run):
        pull = run.proposals.pull

        def pulled(member, offer, path):
            if member == rogue:
                raise Unreachable("it sends nothing")
            return pull(member, offer, path)

        return pulled

    views = []
    for run in swarm.members.values():
        run.proposals.pull = withheld(run)
        run.on_round = lambda row, run=run: views.append(run.notes.settled.certificate.view)
    found = {}
    whole = threading.Thread(target=lambda: found.update(swarm.run()), daemon=True)
    whole.start()
    whole.join(60)
    assert {name: end.outcome for name, end in found.items()} == dict.fromkeys(
        swarm.names, "finished"
    )
    assert min(views) > 0


@pytest.fixture
def member(tmp_path):
    """A member in its first round, the leader, and a talk of the latter."""
    swarm = Swarm(plan_of(), tmp_path)
    leader = swarm.member("0").committee.leader(0, 0)
    run = swarm.member(next(name for name in swarm.names if name != leader))
    return run, leader, Talk(run.digest, run.software, b"12345678", 3, 0)


def test_a_leader_cannot_have_ever_more_updates(member):
    run, leader, talk = member
    run.answer(leader, msgspec.structs.replace(talk, collected=5))  # of five members
    run.attendance.progress = 0.0
    run.answer(leader, msgspec.structs.replace(talk, collected=6))
    run.answer(leader, msgspec.structs.replace(talk, collected=1000))
    assert run.attendance.progress == 0.0


def test_records_that_nobody_has_proposed_are_not_kept(member):
    run, leader, talk = member
    base = run.notes.base
    for i in range(20):
        record = Record(run.digest, 0, base.digest, Offer(bytes([i]) * 32, 9), (0, 1, 2), None)
        run.answer(leader, msgspec.structs.replace(talk, records=(record,)))
    assert run._records == {}


def test_who_sends_something_else_than_was_decided_on_is_not_the_last_to_be_asked(tmp_path):
    swarm = Swarm(plan_of(), tmp_path)
    run = swarm.member("0")
    asked = []

    def pull(member, offer, path):
        asked.append(member)
        if member == "1":
            raise MessageError("'1' sent something else than what it offered")
        raise Unreachable(f"no {member}")

    run.proposals.pull = pull
    for other in "1234":
        run.here(other, True)
    state = Offer(bytes(32), 9)
    record = Record(run.digest, 0, run.notes.base.digest, state, (0, 1, 2), None)
    settled = SimpleNamespace(record=record, certificate=SimpleNamespace(signatures={"2": b""}))
    try:
        run._settle("1", settled)
    except _Failed as error:
        pytest.fail(f"one liar ends the run: {error}")
    assert asked == ["1", "2", "3", "4"]


def test_nobody_brings_the_key_of_another_member(tmp_path):
    swarm = Swarm(plan_of(), tmp_path, record=True)
    one, other, third = (swarm.member(name).replica for name in "012")
    for mine in (one.founding.log, third.founding.log):
        one.found("2", third.founding)
        with pytest.raises(MessageError, match="has a key for the record that another one has"):
            one.found("1", msgspec.structs.replace(other.founding, log=mine))
    one.found("1", other.founding)
    close(
        SimpleNamespace(members={r.name: SimpleNamespace(replica=r) for r in (one, other, third)})
    )


def test_an_entry_that_no_log_takes_is_refused_before_the_vote(tmp_path):
    swarm = Swarm(plan_of(), tmp_path, record=True)
    found = [swarm.member(name).replica for name in swarm.names]
    told(found)
    told(found)
    leader = next(one for one in found if one.name == one.turns.leader(0, 0))
    file, base, state = tmp_path / "update", bytes(32), bytes([1]) * 32
    file.write_bytes(b"an update")
    parts = {one.name: one.contribution(0, base, file, 40) for one in found}
    why = {"2": "x" * MOST_ENTRY}
    entries, size, root = leader.round(0, 0, base, state, parts, why)
    with pytest.raises(MessageError, match="65535 is the most"):
        found[0].judge(0, base, state, dict.fromkeys(parts, 40), entries, size, root)
    for one in found:
        one.close()
