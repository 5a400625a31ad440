"""What a run leaves in its folder.

checkpoint.json and its tensors after every round; at the end report.html, model.safetensors (the
shared model, or the mean of the nodes' models) and, last of all, metrics.json.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tacit.cli.output import to_json
from tacit.data.contract import Contract
from tacit.engine.run import Result
from tacit.errors import InputError
from tacit.explain import explain
from tacit.ledger.release import MODEL, order
from tacit.report import write


@dataclass(frozen=True)
class Folder:
    """The folder of one run."""

    path: Path

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").exists()

    def rounds_done(self) -> int:
        """Rounds that a run can go on from; 0 without a checkpoint."""
        try:
            return int(json.loads((self.path / "checkpoint.json").read_text())["round"])
        except (OSError, ValueError, KeyError):
            return 0

    def begin(self, resume: bool) -> None:
        """Make sure that a new run does not destroy an unfinished one.

        Raises:
            InputError: there is one, and it is not to be resumed.
        """
        done = self.rounds_done()
        if done and not self.finished and not resume:
            raise InputError(
                f"{self.path} holds an unfinished run (round {done} is done); go on with --resume,"
                " take another --folder, or delete it"
            )

    def reopen(self) -> None:
        """Mark the run as unfinished: what an earlier one left here is not its result."""
        for name in ("metrics.json", MODEL, "report.html"):
            (self.path / name).unlink(missing_ok=True)

    def finish(self, result: Result) -> dict[str, Any]:
        """Write the report, the model and the metrics; returns the content of metrics.json."""
        from safetensors.torch import save

        write(self.path / "report.html", result, explain(result.experiment))
        state = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
        names = order([entry.name for entry in result.experiment.layout.entries])
        (self.path / MODEL).write_bytes(save(state, names))
        found = summary(result) | {"folder": str(self.path)}
        (self.path / "metrics.json").write_text(to_json(found) + "\n")
        return found


def summary(result: Result) -> dict[str, Any]:
    """A result as plain values."""
    return {
        "experiment": result.experiment.description(),
        "digest": result.experiment.digest(),
        "contract": asdict(result.experiment.contract or Contract.of(result.experiment.data)),
        "privacy": _privacy(result),
        "engine": result.engine,
        "seconds": result.seconds,
        "baseline": result.baseline,
        "rounds": list(result.metrics),
        "nodes": result.nodes,
    }


def _privacy(result: Result) -> dict[str, Any] | None:
    """What the run has spent, and of whose; None where nothing is promised."""
    guard = result.experiment.guard
    if guard is None or not (guard.budget or guard.labels):
        return None
    delta = guard.budget.delta if guard.budget else 0.0
    return {"epsilon": guard.epsilon(len(result.metrics)), "delta": delta, "unit": guard.unit}
