"""A site forgets its part in a run: what it kept to go on, and to open its commitments."""

import json
from pathlib import Path

from tacit.errors import CheckpointError, InputError
from tacit.ledger.erasure import destroy
from tacit.ledger.recorder import OPENINGS
from tacit.network.approval import withdraw
from tacit.network.identity import write

# Lies where a part was forgotten: trained on again, a round would tell more than was paid for.
_FORGOTTEN = "forgotten.json"
# A site's, a peer's and a swarm member's notes; tensors that they kept; labels that were answered.
_NOTES = ("site.json", "peer.json", "swarm.json")
_TENSORS = ("tensors", "states", "received", "replies", "asks")
# A site's part in the record of a run, in its folder of the run.
RECORD = "record"


def require_remembered(folder: Path, experiment: str) -> None:
    """Refuse to take part again where the site has forgotten its part.

    Raises:
        InputError: it has.
    """
    path = folder / _FORGOTTEN
    if path.exists() and experiment in json.loads(path.read_text()):
        raise InputError(f"{folder}: this site has forgotten its part in this run, and takes none")


def takes_part(folder: Path) -> bool:
    """Whether a folder is a site's of a run, or was."""
    return any((folder / name).exists() for name in (*_NOTES, _FORGOTTEN))


def forget(folder: Path, home: Path) -> list[str]:
    """Destroy what a site keeps of a run; what was destroyed, in words.

    What shows that the record was not changed stays, so does the model. The approval is withdrawn.

    Args:
        folder: of the run at the site.
        home: with the site's keys.

    Raises:
        InputError: it is no such folder.
        CheckpointError: it cannot be written.
    """
    if not takes_part(folder):
        raise InputError(f"WHERE: {folder} is no folder of a site's run")
    notes = [folder / name for name in _NOTES]
    known = set[str]()
    for path in (*notes, folder / _FORGOTTEN):
        if path.exists():
            try:
                said = json.loads(path.read_text())
            except ValueError:
                raise InputError(f"{path}: the file is damaged; remove it") from None
            known |= {said["experiment"]} if isinstance(said, dict) else set(said)
    try:
        # From here on nothing goes on in this folder, wherever this is cut off.
        write(folder / _FORGOTTEN, json.dumps(sorted(known)).encode())
        done = list[str]()
        nonces = sorted((folder / RECORD).glob(f"{OPENINGS}*"))
        if sum([destroy(path) for path in nonces]):
            done.append(f"the nonces in {folder / RECORD / OPENINGS}")
        tensors = [path for name in _TENSORS for path in (folder / name).glob("*")]
        if count := sum([destroy(path) for path in tensors if path.is_file()]):
            done.append(f"{count} files of updates and models kept for going on")
        if sum([destroy(path) for path in sorted(folder.glob("labels-*"))]):
            done.append("the labels that were answered in place of the true ones")
        if sum([destroy(path) for path in notes]):
            done.append("the notes on its rounds")
    except OSError as error:
        raise CheckpointError(f"{folder}: it cannot be changed ({error})") from None
    done += [
        f"the approval of experiment {each[:12]}" for each in sorted(known) if withdraw(home, each)
    ]
    return done
