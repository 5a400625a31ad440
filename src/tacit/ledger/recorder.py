"""The record of a run in one process: every party's keys are made for it, and kept beside it."""

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from tacit.errors import CheckpointError, InputError
from tacit.ledger import records, scores
from tacit.ledger.contribution import Contribution, Floats, millionths
from tacit.ledger.keeper import Keeper
from tacit.ledger.log import Log
from tacit.ledger.note import COSIGNATURE, NOTE, Checkpoint, Key, split
from tacit.ledger.openings import PART, Openings
from tacit.ledger.policy import Policy, quorum
from tacit.ledger.rounds import FIRST, rule
from tacit.ledger.settlement import payouts
from tacit.ledger.statement import Envelope, Statement, canonical, signed
from tacit.ledger.witness import Witness
from tacit.protection.secagg.masks import Mask

LOG, POLICY, KEYS, OPENINGS = "log.db", "policy.txt", "keys.json", "openings.db"
HEAD = "head.txt"
KEEPER = "keeper"
# A node, the round from whose model it trained, and how often it had before.
Begun = tuple[int, int, int]
# Cosignatures of a head: enough for a quorum of traitors to be unlikely, few enough for its bytes.
MOST_WITNESSES = 100


def kept(folder: Path, policy: Path | None = None) -> tuple[Policy, Log]:
    """A record that is there, and the policy that its heads are held to.

    Args:
        policy: file of another policy than the record's own.

    Raises:
        InputError: there is none.
    """
    if not (folder / LOG).is_file():
        raise InputError(f"record: {folder} has no {LOG}")
    trusted = Policy.from_text(text(policy or folder / POLICY, "policy"))
    name = trusted.logs[0].name if trusted.logs else ""
    return trusted, Log(folder / LOG, name, read_only=True)


def text(path: Path, what: str) -> str:
    """What a file says that somebody else may have written.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{what}: {path} cannot be read ({error.strerror})") from None
    except UnicodeError:
        raise InputError(f"{what}: {path} is no text") from None


class Recorder:
    """Writes a run's record.

    Args:
        folder: of the record; one that is there goes on.
        experiment: its digest.
        nodes: names of the nodes, each a member; the first hundred are the witnesses.
        rows: (n,) rows of each.
        rules: of the experiment, in words.
        claim: what protects an update, in words.
        masked: file for the openings of masked vectors; None keeps none.

    Raises:
        InputError: a folder with another experiment's record.
        CheckpointError: a folder that cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        experiment: bytes,
        nodes: Sequence[str],
        rows: Sequence[int],
        rules: Mapping[str, str],
        claim: str,
        masked: Path | None = None,
    ) -> None:
        self.folder, self.experiment, self.nodes, self.rows = folder, experiment, nodes, rows
        self.claim = claim
        self.origin = f"tacit/{experiment.hex()[:16]}"
        if masked and masked.resolve() == (folder / OPENINGS).resolve():
            raise InputError(f"openings: {masked} is the record's own file; give another")
        self._sent: dict[Begun, Any] = {}
        self._bases: dict[int, bytes] = {}
        with ExitStack() as files:
            # First, so that a file that cannot be written leaves no record that was not begun.
            self._masked = files.enter_context(closing(Openings(masked))) if masked else None
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # Before anything is written, as another run may be writing here.
                log = files.enter_context(closing(Log(folder / LOG, self.origin)))
                self._seeds = self._keys()
            except OSError as error:
                raise CheckpointError(f"record: {folder} cannot be written ({error})") from None
            self._members = {name: self._key("member", name) for name in (KEEPER, *nodes)}
            self.keeper = self._keeper(log)
            self._openings = self._opened(folder / OPENINGS)
            files.enter_context(closing(self._openings))
            if not len(log):
                self._begin(rules)
            self._models, self._view = self._recorded(log)
            self._vouch(log)
            self._files = files.pop_all()

    @classmethod
    def again(cls, folder: Path) -> "Recorder":
        """The recorder of a run that is over, for what comes after its rounds.

        Raises:
            InputError: no record, or one whose keys are not here.
        """
        log = kept(folder)[1]
        genesis = Envelope.from_bytes(log[0]).statement
        log.close()
        try:
            held = _seeds(folder / KEYS)
        except OSError:
            raise InputError(
                f"record: {folder} has no {KEYS}; only a record of a run in one process holds the"
                " keys of all members, of whom a quorum signs a release"
            ) from None
        members = [use.removeprefix("member ") for use in held if use.startswith("member ")]
        nodes = [name for name in members if name != KEEPER]
        return cls(folder, genesis.subjects["experiment"], nodes, [], {}, "")

    @property
    def models(self) -> Sequence[bytes]:
        """Digest of the model after each round."""
        return self._models

    def release(self, signature: bytes, bom: bytes) -> None:
        """The last model is handed out; signed by a quorum of the members.

        Args:
            signature: digest of the file that ``model-signing`` wrote.
            bom: digest of the bill of materials.
        """
        said = records.release(len(self._models), self._models[-1], signature, bom)
        self._append_together(said)

    def open(self, round: int, base: bytes) -> None:
        """A round begins with a model.

        A round that was cut off begins again. One that is recorded to its end is not recorded again
        when a run resumes from the checkpoint before it; it must come to the same model.

        Args:
            round: from 0.
            base: the model's bytes.

        Raises:
            InputError: the record does not hold the rounds before this one.
        """
        if round > len(self._models):
            raise InputError(
                f"record: {self.folder} holds {len(self._models)} rounds, and round {round + 1} is"
                " to be recorded; give a new folder to a new run"
            )
        self._round, self._sent = round, {}
        self._bases[round] = hashlib.sha256(base).digest()
        self._new = round == len(self._models)
        if self._new:
            if self._masked:
                self._masked.begin(round)
            log, view = self.keeper.log, self._view
            base = self._bases[round]
            opened = records.round_open(round, view, self.experiment, base, log.head())
            log.append(self._signed([(opened, KEEPER)]))
            self._view += 1

    def heard(
        self, node: int, sent: bytes | memoryview, began: int | None = None, again: int = 0
    ) -> None:
        """What a node sent in the round; again for each exchange.

        Args:
            began: in asynchronous rounds, the one from whose model it trained, for the how manieth
                time (``again``).
        """
        begun = (node, self._round if began is None else began, again)
        self._sent.setdefault(begun, hashlib.sha256()).update(sent)
        if self._masked and self._new:
            self._masked.sent(self.nodes[node], sent)

    def summed(self, total: NDArray[Any], recovered: Sequence[Mask]) -> None:
        """A sum of what was sent behind masks was opened; again for each sum.

        Args:
            total: (length,) unsigned integers.
            recovered: masks that were taken out of it.
        """
        if self._masked and self._new:
            self._masked.summed(total, recovered, self.nodes)

    def close(
        self, round: int, excluded: Mapping[int, str], model: bytes,
        late: Mapping[Begun, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """A round ends.

        Args:
            excluded: nodes that were left out, and why.
            late: in asynchronous rounds, what was left out of theirs, and why.
            model: the new one's bytes.

        Raises:
            InputError: the record holds this round with another model.
        """
        found = hashlib.sha256(model).digest()
        if round < len(self._models):
            if self._models[round] != found:
                raise InputError(f"record: {self.folder} holds another model of round {round + 1}")
            return
        statements, openings, first = list[tuple[Statement, str]](), [], len(self.keeper.log)
        places = {begun: place for place, begun in enumerate(sorted(self._sent), first)}
        for node, began, again in places:
            site, nonce = self.nodes[node], secrets.token_bytes(records.NONCE)
            digest = self._sent[node, began, again].digest()
            committed = records.commitment(self._public(site), began, nonce, digest)
            statements.append(
                (records.contribution(
                    began, site, self._bases[began], committed, self.rows[node], self.claim
                ), site)
            )  # fmt: skip
            openings.append((site, nonce, digest))
        self.keeper.log.append(self._signed(statements))
        self._keep(openings, first)
        out = {begun: excluded[begun[0]] for begun in places if begun[0] in excluded} | dict(late)
        included = [place for begun, place in places.items() if begun not in out]
        why = {places[begun]: reason for begun, reason in out.items()}
        summed = self._summed(round, openings)
        # One head a round, with this entry: most of a record's time goes into cosignatures.
        self._append([(records.aggregate(round, found, included, why, summed), KEEPER)])
        self._models.append(found)
        self._view = 0

    def evaluated(self, metrics: Mapping[str, Any], told: str) -> None:
        """The model after the last round was measured; not again where that is recorded.

        Args:
            metrics: numbers by name.
            told: which of them the record tells, a share, to the percent.
        """
        if not self._new:
            return
        round = len(self._models) - 1
        nonce = secrets.token_bytes(records.NONCE)
        text = canonical({name: str(value) for name, value in metrics.items()})
        digest = hashlib.sha256(text).digest()
        committed = records.commitment(self._public(KEEPER), round, nonce, digest)
        percent = _percent(metrics[told])
        statement = records.evaluation(round, self._models[-1], committed, told, percent)
        first = self._append([(statement, KEEPER)])
        self._keep([(KEEPER, nonce, digest)], first)

    def scored(
        self, method: Contribution, players: Sequence[Sequence[str]], games: Sequence[scores.Game],
        found: Floats, pot: int | None,
    ) -> None:  # fmt: skip
        """The rounds of the run were scored, and perhaps a pot is paid out by the scores.

        The first node is the second scorer: it computes the scores from the utilities by itself.

        Args:
            players: each a node's name, or those of a group that is scored as one.
            games: what the scorer saw.
            found: (k,) scores of the players.
            pot: whole units.

        Raises:
            MessageError: the second scorer comes to others.
            InputError: the record scores these rounds otherwise, or has paid for them. What stands
                in it cannot be taken back, and it would not hold any more.
        """
        if not games:
            return
        file = scores.told(players, games)
        said = scores.shared(players, millionths(found))
        if isinstance(method, scores.GAMES):
            scores.require_same(said, scores.again(file, method, self.experiment))
        statement = records.score(
            self.experiment, games[0].round, games[-1].round, scores.named(method), said,
            hashlib.sha256(file).digest(),
        )  # fmt: skip
        self._require_unpaid(statement.says, pot)
        place = len(self.keeper.log)
        told = self.folder / scores.FILE.format(place)
        told.touch(0o600)
        told.write_bytes(file)
        both = {name: self._members[name] for name in (KEEPER, self.nodes[0])}
        self.keeper.append([signed(statement, both)])
        if pot is not None:
            paid = records.settlement(self.experiment, place, pot, payouts(said, pot))
            self._append_together(paid)

    def _require_unpaid(self, said: Mapping[str, Any], pot: int | None) -> None:
        told = dict[int, Mapping[str, Any]]()
        for place, entry in enumerate(self.keeper.log):
            before = Envelope.from_bytes(entry).statement
            if before.kind == "score" and scores.overlap(said, before.says):
                told[place] = before.says
                if said["scores"] != before.says["scores"]:
                    raise InputError(
                        f"record: entry {place} of {self.folder} scores these rounds by"
                        f" {before.says['method']['name']}, and otherwise; a record has one score"
                    )
            elif before.kind == "settlement" and before.says["score"] in told and pot is not None:
                raise InputError(
                    f"pot: {pot} was given; entry {place} of {self.folder} has paid for the rounds"
                )

    def finish(self) -> None:
        """Close the record's files."""
        self._files.close()

    def _summed(self, round: int, openings: Sequence[tuple[str, bytes, bytes]]) -> dict[str, bytes]:
        """Commitments to the round's sums and masks; they, and the sites', are opened to audits."""
        if self._masked is None or not self._masked.sums:
            return {}
        for site, nonce, digest in openings:
            self._masked.committed(site, PART, nonce, digest)
        found = {}
        for subject, digest in self._masked.digests().items():
            nonce = secrets.token_bytes(records.NONCE)
            self._masked.committed(KEEPER, subject, nonce, digest)
            found[subject] = records.commitment(self._public(KEEPER), round, nonce, digest)
        return found

    def _append(self, statements: Iterable[tuple[Statement, str]]) -> int:
        return self.keeper.append(self._signed(statements))

    def _signed(self, statements: Iterable[tuple[Statement, str]]) -> list[bytes]:
        return [signed(statement, {by: self._members[by]}) for statement, by in statements]

    def _append_together(self, statement: Statement) -> None:
        """What a quorum of the members signs."""
        everyone = list(self._members.items())
        self.keeper.append([signed(statement, dict(everyone[: quorum(len(everyone))]))])

    def _begin(self, rules: Mapping[str, str]) -> None:
        policy = str(self.keeper.policy)
        (self.folder / POLICY).write_text(policy)
        told = hashlib.sha256(policy.encode()).digest()
        first = records.genesis(self.experiment, told, KEEPER, self._public(KEEPER), rules)
        entries = [signed(first, {KEEPER: self._members[KEEPER]})]
        for start in range(0, len(self.nodes), records.MOST_FOUNDERS):
            added = self.nodes[start : start + records.MOST_FOUNDERS]
            statement = records.membership(self.experiment, {n: self._public(n) for n in added})
            entries.append(signed(statement, {name: self._members[name] for name in added}))
        self.keeper.append(entries)

    def _vouch(self, log: Log) -> None:
        """Have those entries cosigned that were when the run was cut off."""
        note = log.note()
        if note is None or Checkpoint.from_text(split(note)[0]).size < len(log):
            self.keeper.append([])

    def _keeper(self, log: Log) -> Keeper:
        private = self._key("log", self.origin)
        key = Key.of(self.origin, private, NOTE)
        witnesses, keys = dict[str, Witness](), []
        for name in self.nodes[:MOST_WITNESSES]:
            own = self._key("witness", name)
            mine = Key.of(_named(name), own, COSIGNATURE)
            witnesses[mine.name] = Witness(Path(":memory:"), mine, own, [key])
            keys.append(mine)
        return Keeper(log, key, private, Policy.of([key], keys), witnesses)

    def _opened(self, path: Path) -> sqlite3.Connection:
        path.touch(0o600)
        try:
            db = sqlite3.connect(path, isolation_level=None)
            db.execute(
                "CREATE TABLE IF NOT EXISTS openings"
                " (entry INTEGER PRIMARY KEY, site TEXT NOT NULL, nonce BLOB NOT NULL,"
                " digest BLOB NOT NULL) STRICT"
            )
        except sqlite3.Error as error:
            raise CheckpointError(f"{path}: it cannot be used ({error})") from None
        return db

    def _recorded(self, log: Log) -> tuple[list[bytes], int]:
        """Models of the rounds that the record holds, and how often the next one was begun."""
        models, begun = list[bytes](), 0
        for place, entry in enumerate(log):
            statement = Envelope.from_bytes(entry).statement
            if not place and statement.subjects.get("experiment") != self.experiment:
                raise InputError(f"record: {self.folder} holds another experiment's record")
            if not place:  # those before are in the record of another run
                models += [b""] * (rule(statement, FIRST) or 0)
            if statement.kind == "round-open":
                begun += 1
                self._bases[statement.says["round"]] = statement.subjects["base"]
            if statement.kind == "aggregate":
                models.append(statement.subjects["model"])
                begun = 0
        return models, begun

    def _keep(self, openings: Sequence[tuple[str, bytes, bytes]], first: int) -> None:
        rows = [(first + i, *opening) for i, opening in enumerate(openings)]
        with self._openings:  # forced to the disk once, not a row at a time
            self._openings.execute("BEGIN IMMEDIATE")
            self._openings.executemany("INSERT OR REPLACE INTO openings VALUES (?, ?, ?, ?)", rows)

    def _keys(self) -> dict[str, str]:
        path = self.folder / KEYS
        if path.exists():
            return _seeds(path)
        wanted = [("log", self.origin)]
        wanted += [("member", name) for name in (KEEPER, *self.nodes)]
        wanted += [("witness", name) for name in self.nodes[:MOST_WITNESSES]]
        seeds = {f"{use} {name}": secrets.token_hex(32) for use, name in wanted}
        part = self.folder / f".{KEYS}"  # half a file of keys would end every later run
        part.touch(0o600)
        part.write_text(json.dumps(seeds))
        part.replace(path)
        return seeds

    def _key(self, use: str, name: str) -> Ed25519PrivateKey:
        try:
            seed = bytes.fromhex(self._seeds[f"{use} {name}"])
        except KeyError:
            raise InputError(f"record: {self.folder} holds another experiment's record") from None
        return Ed25519PrivateKey.from_private_bytes(seed)

    def _public(self, name: str) -> bytes:
        return self._members[name].public_key().public_bytes_raw()


def _seeds(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict) and all(len(bytes.fromhex(s)) == 32 for s in found.values()):
            return found
    except (ValueError, TypeError):
        pass
    raise InputError(f"record: {path} does not hold its keys any more")


def _percent(share: float) -> int:
    """A share in percent; -1 where it is no number."""
    return round(100 * share) if share == share else -1


def _named(node: str) -> str:
    """A key's name for a node's, which may have spaces."""
    return "".join("-" if c.isspace() or c in "+\x7f" else c for c in node)[:60]
