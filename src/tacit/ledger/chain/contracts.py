"""The compiled contracts, shipped so that nobody needs a compiler to use them.

``vyper`` makes them from the sources beside this file: python -m tacit.ledger.chain.contracts
"""

import json
from pathlib import Path
from typing import Any

NAMES = ("Anchor", "Settlement")
_HERE = Path(__file__).parent


def contract(name: str) -> dict[str, Any]:
    """A contract's ``abi``, its ``bytecode`` to deploy, and the ``runtime`` that it leaves."""
    found: dict[str, Any] = json.loads((_HERE / f"{name}.json").read_text())
    return found


def compiled(name: str) -> dict[str, Any]:
    """The same, from the source, by the compiler and for the EVM version that it names."""
    from vyper import compile_code

    formats = ["abi", "bytecode", "bytecode_runtime"]
    made = compile_code((_HERE / f"{name}.vy").read_text(), output_formats=formats)
    return {
        "abi": made["abi"],
        "bytecode": made["bytecode"],
        "runtime": made["bytecode_runtime"],
    }


if __name__ == "__main__":
    for each in NAMES:
        (_HERE / f"{each}.json").write_text(json.dumps(compiled(each)) + "\n")
