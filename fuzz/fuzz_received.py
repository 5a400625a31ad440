"""Everything that decodes received bytes, fuzzed by atheris (``pip install atheris``).

python fuzz/fuzz_received.py -max_total_time=30
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
with atheris.instrument_imports(include=["tacit.network", "received"]):
    import received

if __name__ == "__main__":
    atheris.Setup(sys.argv, received.one)
    atheris.Fuzz()
