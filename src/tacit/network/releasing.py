"""The release of a networked run's model: its folder, on which a quorum of the members signs.

The folder is made before anybody signs, and is whole or not there, so that whoever is killed goes
on with the same: its signature would be another the next time.
"""

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from tacit.algorithms.base import State
from tacit.data.contract import Contract
from tacit.errors import CheckpointError, InputError
from tacit.experiment import Experiment
from tacit.ledger.records import file_digest
from tacit.ledger.release import BOM, SIGNATURE, STATE, order, require_library
from tacit.network.attendance import Attendance
from tacit.network.recording import Recording
from tacit.release.facts import Facts
from tacit.release.folder import fill, filled, made

_log = logging.getLogger("tacit.network")


class Releasing:
    """Hands a run's model out.

    Args:
        to: folder to make; one that was made of this run goes on.
        own: the coordinator's folder of the run, for the key and what the card tells.
        record: whose members sign.

    Raises:
        InputError: a folder with something else in it, or nothing to sign with.
    """

    def __init__(self, to: Path, own: Path, record: Recording) -> None:
        require_library()
        if filled(to) and not record.ends_with(to / STATE):
            raise InputError(f"release: {to} is there and not empty; give a new folder")
        self.to, self.own, self.record = to, own, record

    def carry_out(
        self,
        experiment: Experiment,
        state: State,
        file: Path,
        scores: Mapping[str, float],
        attendance: Attendance,
        tell: Callable[[], object],
    ) -> str:
        """Make the folder, and wait for a quorum as long as the run is patient.

        Args:
            experiment: with the rows that sites told.
            state: the server's entries after the last round, and the file with them.
            scores: of the model, for the card.
            tell: lets the sites know that there is something to sign.

        Returns:
            What is to be said of it at the run's end.
        """
        try:
            if not filled(self.to):
                self._make(experiment, state, file, scores)
            digests = [file_digest(self.to / name) for name in (SIGNATURE, BOM)]
        except OSError as error:
            raise CheckpointError(f"release: {self.to} cannot be written ({error})") from None
        self.record.release(*digests)
        tell()
        until = time.monotonic() + attendance.patience
        with attendance.changed:
            while self.record.unsigned() and (left := until - time.monotonic()) > 0:
                attendance.wait(left)
        if missing := self.record.unsigned(for_good=True):
            said = f"the release of the model is not in the record: {missing} in time"
            _log.warning("%s", said)
            return said
        _log.info("the model is handed out in %s", self.to)
        return ""

    def _make(
        self, experiment: Experiment, state: State, file: Path, scores: Mapping[str, float]
    ) -> None:
        part = self.to.with_name(f".{self.to.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        plan, guard = self.record.experiment, experiment.guard
        privacy = None
        if guard and (guard.budget or guard.labels):
            delta = guard.budget.delta if guard.budget else 0.0
            epsilon = guard.epsilon(experiment.rounds)
            bound = None if math.isinf(epsilon) else epsilon
            privacy = {"epsilon": bound, "delta": delta, "unit": guard.unit}
        facts = Facts.beside(
            self.own, self.record.log, self.record.digest, plan.description(),
            asdict(plan.contract or Contract.of(plan.data)), privacy, scores, experiment.rounds,
            state=True,
        )  # fmt: skip
        module = experiment.layout.module(experiment.template, experiment.algorithm.model(state))
        names = order([entry.name for entry in experiment.layout.entries])
        tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
        fill(part, facts, lambda path: save_file(tensors, path, names), made(self.own), file)
        part.replace(self.to)  # an empty folder gives way
        folder = os.open(self.to.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
