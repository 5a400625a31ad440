"""What a site may ask to be forgotten, and what a record still says of it."""

from pathlib import Path

from tacit.errors import InputError
from tacit.experiment import Experiment
from tacit.ledger.recorder import kept
from tacit.ledger.statement import Envelope


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
