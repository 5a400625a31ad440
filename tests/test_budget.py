"""The privacy ledger: pays first, adds up, says no, survives crashes and other processes."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from tacit.errors import InputError
from tacit.protection.accounting import filtered
from tacit.protection.budget import PrivacyBudget
from tacit.protection.release import Grid, Poisson, Release, WithoutReplacement

NOISY = Release("gaussian", 10.0)


@pytest.fixture
def ledger(tmp_path):
    budget = PrivacyBudget(tmp_path / "ledger.db")
    budget.grant("wards", epsilon=1.0, delta=1e-5)
    return budget


def start(code, *arguments):
    """Another process with this interpreter and path, that is spoken to through pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_spending_adds_up_over_experiments_and_runs(ledger):
    ledger.spend("wards", "first", 0, NOISY)
    ledger.spend("wards", "second", 0, Release("gaussian", 20.0), times=3)
    again = PrivacyBudget(ledger.path)
    expected = filtered([(NOISY, 1), (Release("gaussian", 20.0), 3)], 1e-5)
    assert again.spent("wards") == pytest.approx(expected)


def test_says_no_and_spends_nothing(ledger):
    # The bound of k releases at 10 is that of one at 10/sqrt(k); epsilon 1 is passed at k = 7 or 8.
    for round in range(100):
        before = ledger.spent("wards")
        try:
            ledger.spend("wards", "first", round, NOISY)
        except InputError as error:
            refusal = str(error)
            break
    assert round == sum(filtered([(NOISY, k)], 1e-5) <= 1.0 for k in range(1, 100)) > 3
    assert ledger.spent("wards") == before <= 1.0
    asked = filtered([(NOISY, round + 1)], 1e-5)
    assert refusal == (
        f"privacy budget of 'wards': epsilon {before:.4g} is spent and this would make it"
        f" {asked:.4g}; the budget is 1 at delta 1e-05"
    )
    # What is left still pays for something smaller.
    ledger.spend("wards", "first", round, Release("gaussian", 1000.0))


def test_data_sets_have_budgets_of_their_own(ledger):
    with pytest.raises(InputError, match="'beds': none was granted"):
        ledger.spend("beds", "first", 0, NOISY)
    ledger.grant("beds", epsilon=0.01, delta=1e-5)
    with pytest.raises(InputError, match=r"budget is 0\.01"):
        ledger.spend("beds", "first", 0, NOISY)
    ledger.spend("wards", "first", 0, NOISY)
    assert ledger.spent("beds") == 0


def test_a_larger_grant_keeps_what_was_spent(ledger):
    ledger.spend("wards", "first", 0, NOISY)
    before = ledger.spent("wards")
    ledger.grant("wards", epsilon=5.0, delta=1e-5)
    assert ledger.spent("wards") == before
    ledger.spend("wards", "first", 1, Release("gaussian", 1.5))


def test_the_same_noise_is_paid_once_and_fresh_noise_again(ledger):
    name = ledger.spend("wards", "first", 0, NOISY)
    paid = ledger.spent("wards")
    assert ledger.spend("wards", "first", 0, NOISY, attempt=name) == name
    assert ledger.spent("wards") == paid
    ledger.spend("wards", "first", 0, NOISY)
    assert ledger.spent("wards") == pytest.approx(filtered([(NOISY, 2)], 1e-5))


@pytest.mark.parametrize(
    "other",
    [
        ("wards", "second", 0, NOISY, 1),
        ("wards", "first", 1, NOISY, 1),
        ("wards", "first", 0, Release("gaussian", 9.0), 1),
        ("wards", "first", 0, NOISY, 2),
    ],
)
def test_an_attempt_pays_for_nothing_else(ledger, other):
    ledger.spend("wards", "first", 0, NOISY, attempt="a")
    with pytest.raises(InputError, match="attempt: 'a'"):
        ledger.spend(*other, attempt="a")


def test_every_release_comes_back_from_the_file(ledger):
    ledger.grant("wards", epsilon=1e6, delta=1e-5)
    ledger.grant("beds", epsilon=1e6, delta=1e-5)
    added = [
        Release("gaussian", 1.25, Poisson(0.1)),
        Release("laplace", 1 / 3),
        Release("skellam", 2.0, grid=Grid(7, 9.5, 3)),
        Release("discrete_gaussian", 2.0, grid=Grid(7, 9.5, 3)),
    ]
    replaced = [
        Release("gaussian", 1.25, WithoutReplacement(3, 10), "replace"),
        Release("randomised_response", 0.5, adjacency="replace"),
    ]
    for dataset, releases in (("wards", added), ("beds", replaced)):
        for round, release in enumerate(releases):
            ledger.spend(dataset, "first", round, release, times=round + 1)
        expected = filtered([(r, k + 1) for k, r in enumerate(releases)], 1e-5)
        assert ledger.spent(dataset) == pytest.approx(expected)
    with pytest.raises(InputError, match="'replace' was given; its earlier ones are under 'add"):
        ledger.spend("wards", "first", 9, replaced[0])


SPEND_AND_HANG = """
import sys, time
from pathlib import Path
from tacit.protection.budget import PrivacyBudget
from tacit.protection.release import Release
PrivacyBudget(Path(sys.argv[1])).spend("wards", "first", 0, Release("gaussian", 10.0))
print("paid", flush=True)
time.sleep(600)  # training
"""


def test_a_kill_between_spending_and_training_loses_no_entry(ledger):
    with start(SPEND_AND_HANG, ledger.path) as process:
        assert process.stdout.readline() == "paid\n"
        process.send_signal(signal.SIGKILL)
    assert ledger.spent("wards") == pytest.approx(filtered([(NOISY, 1)], 1e-5))


def test_a_kill_inside_the_payment_leaves_a_whole_ledger(ledger):
    # Another process dies with its transaction open and half of it in the file already.
    code = """
import os, sqlite3, sys
ledger = sqlite3.connect(sys.argv[1], isolation_level=None)
ledger.execute("PRAGMA cache_size = 1")
ledger.execute("BEGIN IMMEDIATE")
ledger.execute("DELETE FROM spending")
for k in range(500):
    paid = ("wards", str(k) * 99, "x", 0, "x", 1, "row")
    ledger.execute("INSERT INTO spending VALUES (?, ?, ?, ?, ?, ?, ?)", paid)
os.kill(os.getpid(), 9)
"""
    ledger.spend("wards", "first", 0, NOISY)
    size = ledger.path.stat().st_size
    with start(code, ledger.path) as process:
        process.wait()
    assert ledger.path.stat().st_size > size
    assert ledger.spent("wards") == pytest.approx(filtered([(NOISY, 1)], 1e-5))


SPEND_UNTIL_REFUSED = """
import sys
from pathlib import Path
from tacit.errors import InputError
from tacit.protection.budget import PrivacyBudget
from tacit.protection.release import Release
ledger, paid = PrivacyBudget(Path(sys.argv[1])), 0
print("ready", flush=True)
sys.stdin.readline()
try:
    while True:
        ledger.spend("wards", sys.argv[2], paid, Release("gaussian", 15.0))
        paid += 1
except InputError as error:
    assert "the budget is" in str(error), error
    print(paid)
"""


def test_two_processes_do_not_spend_the_same_epsilon_twice(ledger):
    alone = sum(filtered([(Release("gaussian", 15.0), k)], 1e-5) <= 1.0 for k in range(1, 500))
    with (
        start(SPEND_UNTIL_REFUSED, ledger.path, "first") as first,
        start(SPEND_UNTIL_REFUSED, ledger.path, "second") as second,
    ):
        for process in (first, second):
            assert process.stdout.readline() == "ready\n"
        for process in (first, second):
            process.stdin.write("go\n")
            process.stdin.flush()
        paid = [int(process.stdout.read()) for process in (first, second)]
    assert sum(paid) == alone
    assert ledger.spent("wards") <= 1.0


def test_the_file_is_for_its_owner_alone(ledger):
    assert os.stat(ledger.path).st_mode & 0o777 == 0o600
    os.chmod(ledger.path, 0o644)
    with pytest.raises(InputError, match="other users can open it"):
        ledger.spent("wards")


def test_a_missing_folder_a_vanished_file_and_a_folder(tmp_path, ledger):
    with pytest.raises(InputError, match="No such file"):
        PrivacyBudget(tmp_path / "nowhere" / "ledger.db")
    ledger.path.unlink()
    with pytest.raises(InputError, match="No such file"):
        ledger.spend("wards", "first", 0, NOISY)
    assert not ledger.path.exists()


def test_a_damaged_file_is_refused(ledger):
    ledger.spend("wards", "first", 0, NOISY)
    content = bytearray(ledger.path.read_bytes())
    content[:100] = bytes(100)
    ledger.path.write_bytes(content)
    with pytest.raises(InputError, match=r"privacy ledger .*ledger\.db: "):
        ledger.spend("wards", "first", 1, NOISY)


def test_a_damaged_entry_is_refused(ledger):
    ledger.spend("wards", "first", 0, NOISY)
    for text in ("{}", "[]", "no", '{"sampler": {"Coin": {}}}', '{"sampler": null, "grid": 3}'):
        with sqlite3.connect(ledger.path) as file:
            file.execute("UPDATE spending SET release = ?", (text,))
        file.close()
        with pytest.raises(InputError, match="an entry is damaged"):
            ledger.spend("wards", "first", 1, NOISY)


def test_another_data_base_is_left_alone(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE precious (x)")
    file.close()
    os.chmod(path, 0o600)
    before = path.read_bytes()
    with pytest.raises(InputError, match="not a ledger"):
        PrivacyBudget(path)
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_written_is_refused(ledger, monkeypatch):
    # Permissions do not stop root, so the file is opened read-only instead of made so.
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda name, **setting: connect(name.replace("=rw", "=ro"), **setting)
    )
    with pytest.raises(InputError, match="readonly"):
        ledger.spend("wards", "first", 0, NOISY)


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (float("inf"), 1e-5), (1, 0), (1, 1)])
def test_a_grant_without_meaning_is_refused(ledger, epsilon, delta):
    with pytest.raises(InputError, match="allowed is"):
        ledger.grant("wards", epsilon, delta)


def test_times_below_one_are_refused(ledger):
    with pytest.raises(InputError, match="times: 0"):
        ledger.spend("wards", "first", 0, NOISY, times=0)
