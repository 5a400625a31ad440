"""What a coordinator must not forget, in SQLite and in a real PostgreSQL server."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

import network_postgres
import tacit
from network_parties import until
from tacit.errors import CheckpointError, InputError
from tacit.network import schema
from tacit.network.blobs import Offer
from tacit.network.store import Store, Update
from test_network_rounds import experiment
from test_network_run import Bench

EXPERIMENT = "5" * 64
STATE, NEXT = Offer(b"s" * 32, 2**40), Offer(b"t" * 32, 5)  # more bytes than 32 bits hold
Make = Callable[..., Store]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with network_postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'own.db'}"
        return
    url = request.getfixturevalue("postgres")
    yield url
    empty(url)


def empty(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as database:
        for table in sa.inspect(engine).get_table_names():
            database.execute(sa.text(f'DROP TABLE "{table}"'))
    engine.dispose()


@pytest.fixture
def make(url: str, tmp_path: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def make(experiment: str = EXPERIMENT) -> Store:
            store = Store(tmp_path, experiment, url)
            stack.callback(store.close)
            return store

        yield make


def version(url: str, change: str | None = None) -> str:
    engine = sa.create_engine(url)
    with engine.begin() as database:
        if change:
            database.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": change})
        found = database.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one()
    engine.dispose()
    return str(found)


def fill(store: Store) -> None:
    store.join("north", 2**33)
    store.begin(STATE, b"m" * 32)
    store.accept(0, "north", Update(b"u" * 32, 0.25))


def test_what_was_written_is_there_after_a_restart(make: Make) -> None:
    first = make()
    fill(first)
    first.accept(0, "north", Update(b"v" * 32, 0.5))  # a second one
    first.join("north", 7)  # other rows
    first.begin(NEXT, b"n" * 32)
    first.accept(0, "south", Update(b"w" * 32, None, b"all of it"))
    first.spend(0, 1.5, 1e-5)
    first.spend(0, 9.0, 1e-5)  # again, after it was killed
    again = make()
    assert again.read() == first.read()
    assert again.read().state == STATE
    assert again.sites() == {"north": 2**33}
    assert again.accepted(0) == {
        "north": Update(b"u" * 32, 0.25),
        "south": Update(b"w" * 32, None, b"all of it"),
    }
    assert again.spent() == [(1.5, 1e-5)]
    again.advance(0, NEXT, b"n" * 32, {"round": 1, "left_out": ["south"]})
    assert again.accepted(0)["south"] == Update(b"w" * 32, None)  # of no use any more
    again.describe(0, {"round": 1, "loss": 0.1})
    again.end("finished", "all rounds are done")
    kept = make().read()
    assert (kept.round, kept.state, kept.memory) == (1, NEXT, b"n" * 32)
    assert (kept.outcome, kept.reason) == ("finished", "all rounds are done")
    assert again.metrics() == [{"round": 1, "loss": 0.1}]
    other = make("6" * 64)  # another run in the same database
    assert other.read() is None
    assert other.sites() == {}


def test_the_tables_are_those_that_the_migrations_make(make: Make, url: str) -> None:
    make()
    engine = sa.create_engine(url)
    with engine.connect() as database:
        assert compare_metadata(MigrationContext.configure(database), schema.facts) == []
    engine.dispose()


def test_a_store_of_the_first_version_is_upgraded(make: Make, url: str) -> None:
    """Which wrote down no version."""
    engine = sa.create_engine(url)
    first = [schema.runs, schema.sites, schema.updates, schema.metrics]
    schema.facts.create_all(engine, tables=first)
    with engine.begin() as database:
        database.execute(sa.text("ALTER TABLE updates DROP COLUMN inside"))
        database.execute(
            schema.runs.insert().values(
                experiment=EXPERIMENT, round=4, state=b"s" * 32, state_size=3, memory=b"m" * 32
            )
        )
    engine.dispose()
    store = make()
    assert store.read().round == 4
    store.spend(4, 1.0, 1e-5)
    assert version(url) == "0005"
    make()


def test_a_store_of_a_later_version_is_refused(make: Make, url: str) -> None:
    fill(make())
    version(url, change="9999")
    with pytest.raises(InputError, match=r"later version of tacit.*9999.*install"):
        make()
    assert version(url) == "9999"
    version(url, change="0005")
    assert make().sites() == {"north": 2**33}


def test_two_that_open_a_new_store_at_once_make_it_once(make: Make) -> None:
    together = threading.Barrier(4)

    def open_it(_: int) -> Store:
        together.wait(60)
        return make()

    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(open_it, range(4)))
    fill(stores[0])
    assert all(store.sites() == {"north": 2**33} for store in stores)


def test_an_upgrade_that_was_interrupted_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        stamped(*_)
        raise sqlite3.OperationalError("database or disk is full")

    stamped = schema.command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(schema.command, "upgrade", broken)
        with pytest.raises((CheckpointError, sqlite3.OperationalError)):
            Store(tmp_path, EXPERIMENT)
    with contextlib.closing(sqlite3.connect(tmp_path / "tacit.db")) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    store = Store(tmp_path, EXPERIMENT)
    fill(store)
    store.close()


def test_updates_that_come_together_are_all_kept(make: Make) -> None:
    store, together = make(), threading.Barrier(8)

    def accept(k: int) -> None:
        together.wait(60)
        store.accept(0, f"site-{k % 6}", Update(bytes([k]) * 32, None))  # two come twice

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(accept, range(8)))
    kept = make().accepted(0)
    assert kept.keys() == {f"site-{k}" for k in range(6)}
    assert all(digest[0] % 6 == int(site[-1]) for site, (digest, *_) in kept.items())


def test_all_learn_that_their_updates_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, writing, go = Store(tmp_path, EXPERIMENT), threading.Event(), threading.Event()

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        writing.set()
        assert go.wait(60)
        raise CheckpointError("the disk is full")
        yield

    monkeypatch.setattr(store, "_transaction", full)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(store.accept, 0, "a", Update(b"a" * 32, None))
        assert writing.wait(60)
        others = [pool.submit(store.accept, 0, name, Update(b"b" * 32, None)) for name in "bcd"]
        until(lambda: len(store._batch.updates) == 3)
        go.set()
        for each in (first, *others):
            with pytest.raises(CheckpointError):
                each.result(timeout=60)
    monkeypatch.undo()
    assert store.accepted(0) == {}
    store.close()


def test_privacy_is_spent_before_noise_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = tacit.GaussianNoise(epsilon=8, delta=1e-5, where="central")
    plan = experiment(protection=[tacit.Clip(1.0), noise], rounds=2)
    bench = Bench(plan, tmp_path, patience=60)
    close, seen = bench.coordinator._close, []

    def watched(*words: object) -> object:
        seen.append(len(bench.store.spent()))
        return close(*words)

    monkeypatch.setattr(bench.coordinator, "_close", watched)
    assert bench.all().outcome == "finished"
    assert seen == [1, 2]
    rows = bench.store.metrics()
    assert bench.store.spent() == [(row["epsilon"], 1e-5) for row in rows]
    assert 0 < rows[0]["epsilon"] < rows[1]["epsilon"] <= 8


@pytest.mark.parametrize("url", ["nonsense", "foo://anna:geheim@host/db", "mysql+nobody://geheim"])
def test_a_url_that_cannot_be_used_is_refused_without_its_password(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--database") as refused:
        Store(tmp_path, EXPERIMENT, url)
    assert "geheim" not in str(refused.value)
