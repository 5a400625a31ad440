"""What a finished run's folder and its record say, for those to whom the model is handed out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.errors import InputError
from tacit.ledger.log import Log
from tacit.ledger.note import Checkpoint
from tacit.ledger.scores import METHODS
from tacit.ledger.settlement import payouts
from tacit.ledger.statement import Envelope

METRICS, AUDIT, CONTRIBUTIONS = "metrics.json", "audit.json", "contributions.json"


@dataclass(frozen=True)
class Facts:
    """What is told of a model.

    Attributes:
        name: of the run.
        digest: of the experiment, 64 hexadecimal digits.
        experiment: its description.
        contract: what every site's data look like.
        privacy: what was spent: epsilon (None: no bound), delta, and of whose; None where nothing
            was promised.
        scores: of the model, on all sites' test rows.
        rounds: that it has been through.
        audit: what ``tacit audit --json`` printed; None: no attack was tried.
        contributions: what ``tacit contributions --json`` printed, or the record's last scores;
            None: not measured.
        head: of the record, before the release.
        state: whether the record is of the state that the model is a part of.
    """

    name: str
    digest: str
    experiment: Mapping[str, Any]
    contract: Mapping[str, Any]
    privacy: Mapping[str, Any] | None
    scores: Mapping[str, float]
    rounds: int
    audit: Mapping[str, Any] | None
    contributions: Mapping[str, Any] | None
    head: Checkpoint
    state: bool = False

    @classmethod
    def of(cls, run: Path, log: Log) -> "Facts":
        """Read a run's folder and record.

        Raises:
            InputError: the run is not finished, or a file is not as this version writes it.
        """
        found = _json(run / METRICS)
        if found is None:
            raise InputError(f"RUN: {run} holds no finished run: there is no {METRICS}")
        try:
            last = found["rounds"][-1]
            scores = {name: last[name] for name in found["baseline"] if name in last}
            return cls.beside(
                run, log, found["digest"], found["experiment"], found["contract"],
                found["privacy"], scores, last["round"],
            )  # fmt: skip
        except (KeyError, IndexError, TypeError):
            raise InputError(
                f"RUN: {run / METRICS} is not as this version of tacit writes it; run it again"
            ) from None

    @classmethod
    def beside(
        cls, run: Path, log: Log, digest: str, experiment: Mapping[str, Any],
        contract: Mapping[str, Any], privacy: Mapping[str, Any] | None,
        scores: Mapping[str, float], rounds: int, *, state: bool = False,
    ) -> "Facts":  # fmt: skip
        """With what was tried and measured, by the files in a run's folder and by the record.

        Raises:
            InputError: a file that is about another experiment.
        """
        facts = cls(
            run.resolve().name, digest, experiment, contract, privacy, scores, rounds,
            _json(run / AUDIT), _json(run / CONTRIBUTIONS) or _scored(log), log.head(), state,
        )  # fmt: skip
        for name, found in ((AUDIT, facts.audit), (CONTRIBUTIONS, facts.contributions)):
            if found is not None and found.get("experiment") != facts.digest:
                raise InputError(f"RUN: {run / name} is about another experiment than the run's")
        return facts

    @property
    def protection(self) -> list[Mapping[str, Any]]:
        return list(self.experiment["protection"])

    def spent(self) -> str:
        """The privacy that was spent, in a sentence."""
        if self.privacy is None:
            return "None is promised: no differential privacy."
        epsilon, delta = self.privacy["epsilon"], self.privacy["delta"]
        if epsilon is None:
            return "No bound: the noise of this run was set to nothing."
        return f"Epsilon {epsilon:.4g} at delta {delta:g}, for one {self.privacy['unit']}."

    def attacked(self) -> str:
        """The attacks that were tried on the run, in a sentence or two."""
        if self.audit is None:
            return "None."
        return (
            f"Membership inference with {self.audit['canaries']:,} canaries, one for each"
            f" {self.audit['unit']} that is tried: {self.audit['verdict']}"
        )


def _scored(log: Log) -> dict[str, Any] | None:
    """The last scores of a record, as ``tacit contributions`` tells them, without the gains."""
    said = [Envelope.from_bytes(entry).statement for entry in log]
    scores = [each for each in said if each.kind == "score"]
    if not scores:
        return None
    method, found = scores[-1].says["method"]["name"], scores[-1].says["scores"]
    return {
        "experiment": scores[-1].subjects["experiment"].hex(),
        "method": method,
        "weakness": METHODS[method].weakness,
        "nodes": [{"node": n, "percent": share} for n, share in payouts(found, 100).items()],
    }


def _json(path: Path) -> dict[str, Any] | None:
    """A file's JSON object; None where there is none, or nothing: its command was refused."""
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"RUN: {path} is damaged: it holds no JSON object")
    return found
