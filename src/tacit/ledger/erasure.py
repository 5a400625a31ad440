"""What a site may have forgotten: the nonces, without which its commitments say nothing, for ever.

The record itself stays as it is, and verifies: no update is in it, and nothing of one can be told
from a commitment whose 32 random bytes are gone.
"""

import os
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

from tacit.data.names import unknown
from tacit.errors import CheckpointError, InputError
from tacit.experiment import Experiment
from tacit.ledger.log import hold
from tacit.ledger.recorder import KEEPER, LOG, OPENINGS, kept
from tacit.ledger.statement import Envelope

# Openings on their way out.
_OLD = f"{OPENINGS}.forgotten"
_BLOCK = bytes(2**20)


def first_contribution(record: Path, experiment: Experiment, site: str) -> int:
    """The round, from 0, of a site's first contribution; the number of all, if there is none.

    Raises:
        InputError: there is no record, or it is of another experiment.
    """
    log = kept(record)[1]
    try:
        for place, entry in enumerate(log):
            said = Envelope.from_bytes(entry).statement
            if not place and said.subjects.get("experiment") != bytes.fromhex(experiment.digest()):
                raise InputError(f"record: {record} holds another experiment's record")
            if said.kind == "contribution" and said.says["site"] == site:
                return int(said.says["round"])
    finally:
        log.close()
    return experiment.rounds


def forget(record: Path, site: str | None) -> tuple[str, int]:
    """Destroy a site's nonces in the record of a run in one process, and note that they are gone.

    Args:
        record: folder with the openings of all sites.
        site: whose; may be left out where there is only one.

    Returns:
        Its name, and how many nonces there were; 0 where they had been destroyed before.

    Raises:
        InputError: there are no openings, or the site has none; or a run is writing them.
        CheckpointError: the folder cannot be written.
    """
    path, old = record / OPENINGS, record / _OLD
    if not path.is_file():
        raise InputError(f"WHERE: {record} holds no {OPENINGS}")
    try:
        with ExitStack() as files:
            if (record / LOG).is_file():  # whose run would write on into the file that is destroyed
                files.enter_context(closing(hold(record / LOG)))
            db = files.enter_context(closing(sqlite3.connect(path)))
            found = db.execute("SELECT DISTINCT site FROM openings")
            known = sorted({*(name for (name,) in found), *gone(db)} - {KEEPER})
            if site is None and len(known) == 1:
                site = known[0]
            if site is None:
                raise InputError(f"--site: whose nonces? There are: {', '.join(known)}")
            if site not in known:
                raise unknown("site", site, known)
            count = db.execute("SELECT count(*) FROM openings WHERE site = ?", (site,)).fetchone()
            if count[0]:
                _rewrite(db, site, path, old)
        destroy(old)  # also where an earlier call was cut off
    except (OSError, sqlite3.Error) as error:
        raise CheckpointError(f"{path}: it cannot be changed ({error})") from None
    return site, count[0]


def _rewrite(db: sqlite3.Connection, site: str, path: Path, old: Path) -> None:
    """Put a file without the site's openings in the place of the one with them."""
    new = path.with_name(f"{OPENINGS}.part")
    new.unlink(missing_ok=True)
    new.touch(0o600, exist_ok=False)
    with closing(sqlite3.connect(new)) as copy:
        (table,) = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'openings'").fetchone()
        copy.execute(table)
        copy.execute("CREATE TABLE gone (site TEXT PRIMARY KEY) STRICT")
        rows = db.execute("SELECT * FROM openings WHERE site != ?", (site,))
        copy.executemany("INSERT INTO openings VALUES (?, ?, ?, ?)", rows)
        copy.executemany("INSERT INTO gone VALUES (?)", [(name,) for name in [*gone(db), site]])
        copy.commit()
    destroy(old)
    os.link(path, old)
    new.replace(path)


def gone(openings: sqlite3.Connection) -> list[str]:
    """Sites whose nonces were destroyed."""
    if not openings.execute("SELECT 1 FROM sqlite_schema WHERE name = 'gone'").fetchone():
        return []
    return [str(site) for (site,) in openings.execute("SELECT site FROM gone ORDER BY site")]


def destroy(path: Path) -> bool:
    """Overwrite a file, and remove it; whether it was there.

    Where the disk writes to another place than before, as with copies on write and in flash memory,
    the old bytes may still be found by whoever has the disk.
    """
    try:
        if path.is_symlink():
            path.unlink()
            return True
        with path.open("r+b", buffering=0) as file:
            left = os.fstat(file.fileno()).st_size
            while left:
                left -= file.write(_BLOCK[:left])
            os.fsync(file.fileno())
    except FileNotFoundError:
        return False
    path.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return True
