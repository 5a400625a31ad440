"""How a role's part of a run stands, in figures."""

import os
from dataclasses import dataclass
from typing import Any

from tacit.network.blobs import Blobs
from tacit.network.coordinator import Coordinator
from tacit.network.party import Party
from tacit.network.site import SiteRun
from tacit.network.swarm import SwarmRun


@dataclass(frozen=True)
class Status:
    """A role's part of a run; None for what it does not have, or not yet.

    Attributes:
        round: rounds that are done, of ``rounds``.
        here: other parties that are connected: sites, peers, or a site's coordinator.
        accepted, refused: updates since the process began.
        seconds: of the last round.
        epsilon: spent so far.
        outcome: "running", "finished" or "failed".
        trouble: why somebody should look at it, or nothing.
        sent, received: bytes of models and updates since the process began.
    """

    round: int
    rounds: int
    here: int
    accepted: int | None = None
    refused: int | None = None
    seconds: float | None = None
    epsilon: float | None = None
    outcome: str = "running"
    trouble: str = ""
    sent: int = 0
    received: int = 0


def of_coordinator(run: Coordinator, blobs: Blobs) -> Status:
    """Of a coordinator.

    Raises:
        CheckpointError: its store does not answer.
    """
    kept = run.store.read()
    round, outcome = (kept.round, kept.outcome) if kept else (0, None)
    return Status(
        round, run.experiment.rounds, run.connected, run.intake.accepted, run.intake.refused,
        outcome=outcome or "running", trouble=run.trouble, **_last(run.row, blobs),
    )  # fmt: skip


def of_site(run: SiteRun, connected: bool, blobs: Blobs) -> Status:
    """Of a site.

    Args:
        connected: with its coordinator.
    """
    done, reason = (run.done.outcome, run.done.reason) if run.done else ("running", "")
    return Status(
        run.notes.round + 1 if run.notes else 0, run.experiment.rounds, int(connected),
        outcome=done, trouble=reason if done == "failed" else _unwritable(run.folder),
        **_last(run.row, blobs),
    )  # fmt: skip


def of_peer(run: Party | SwarmRun, blobs: Blobs) -> Status:
    """Of a peer, or of a member of a swarm."""
    done, reason = (run.ended.outcome, run.ended.reason) if run.ended else ("running", "")
    return Status(
        run.notes.round, run.rounds, run.connected,
        outcome=done, trouble=reason if done == "failed" else _unwritable(run.folder),
        **_last(run.row, blobs),
    )  # fmt: skip


def _last(row: dict[str, Any], blobs: Blobs) -> dict[str, Any]:
    return {
        "seconds": row.get("seconds"), "epsilon": row.get("epsilon"), "sent": blobs.sent,
        "received": blobs.received,
    }  # fmt: skip


def _unwritable(folder: os.PathLike[str]) -> str:
    return "" if os.access(folder, os.W_OK) else f"{folder}: the folder cannot be written"
