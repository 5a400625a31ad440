"""Decoding is safe in threads: msgspec itself crashes where two first meet a type at once."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import tacit

# Four threads decode a type that none has met, 100 times over; msgspec's own decode dies of it
# within a few dozen times.
SCRIPT = """
import sys, threading
from typing import Annotated

import msgspec

from tacit.network.decoding import from_json, from_msgpack

sys.setswitchinterval(1e-6)
failed = []
for _ in range(100):
    class New(msgspec.Struct):
        text: Annotated[bytes, msgspec.Meta(max_length=32)]
        number: Annotated[int, msgspec.Meta(ge=0)]

    value, gate = New(b"a", 5), threading.Barrier(4)

    def decode(i):
        gate.wait(60)
        try:
            if i % 2:
                assert from_json(msgspec.json.encode(value), New) == value
            else:
                assert from_msgpack(msgspec.msgpack.encode(value), New, int) == value
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=decode, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
sys.exit(str(failed) if failed else 0)
"""


def test_threads_that_first_meet_a_type_at_once_decode_it() -> None:
    code = subprocess.run([sys.executable, "-c", SCRIPT], timeout=120, check=False).returncode
    assert code == 0, signal.Signals(-code).name if code < 0 else code


def test_nothing_else_decodes() -> None:
    decoding = re.compile(r"(msgpack|json)\.(decode\(|Decoder)")
    package = Path(tacit.__file__).parent
    found = {
        path.name
        for path in package.rglob("*.py")
        if "msgspec" in (text := path.read_text()) and decoding.search(text)
    }
    assert found == {"decoding.py"}
