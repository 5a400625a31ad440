"""A PostgreSQL server for tests, if one can be had: of TACIT_TEST_POSTGRES, or started here."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def server() -> Iterator[str]:
    """URL of a database that nobody else uses, or the test is skipped."""
    if url := os.environ.get("TACIT_TEST_POSTGRES"):
        yield url
        return
    pytest.importorskip("psycopg")
    initdb = shutil.which("initdb") or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None
    )
    if initdb is None:
        pytest.skip("no PostgreSQL server is installed, and TACIT_TEST_POSTGRES names none")
    # A server does not run as root. Its socket's path must be short, and open to its user.
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="tacit-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, user)
        data = folder / "data"
        how = {"user": user if os.geteuid() == 0 else None, "cwd": folder, "timeout": 120}
        words = [initdb, "-D", data, "-A", "trust", "-U", "tacit", "--no-sync"]
        subprocess.run(words, check=True, capture_output=True, **how)
        control = [Path(initdb).with_name("pg_ctl"), "-D", data, "-w", "-t", "110"]
        options = f"-c listen_addresses='' -k {folder} -c fsync=off -c max_connections=10"
        log = ["-l", folder / "log"]
        subprocess.run([*control, *log, "-o", options, "start"], check=True, **how)
        try:
            yield f"postgresql+psycopg://tacit@/postgres?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, **how)
    finally:
        shutil.rmtree(folder)
