"""Whose signatures make a checkpoint count, in the format of https://c2sp.org/tlog-policy."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tacit.errors import InputError, MessageError
from tacit.ledger.note import NOTE, Checkpoint, Key, verified

# The specification recommends to support 32 of each at least.
_MOST = 4096
_MOST_GROUPS = 128  # which may stand in one another
_NONE = "none"


def quorum(witnesses: int) -> int:
    """More than two thirds of the witnesses, so that two quorums share an honest one."""
    return 2 * witnesses // 3 + 1


@dataclass(frozen=True)
class Policy:
    """Logs and witnesses that are trusted, and how many of the latter must have cosigned.

    Attributes:
        logs: keys of logs; a checkpoint is signed by one of them.
        witnesses: by their names in the policy.
        groups: how many of which witnesses or groups; each stands in one group at most.
        rule: name of the witness or group that must have cosigned, or "none".
    """

    logs: tuple[Key, ...]
    witnesses: dict[str, Key]
    groups: dict[str, tuple[int, tuple[str, ...]]]
    rule: str

    @classmethod
    def of(cls, logs: Sequence[Key], witnesses: Sequence[Key]) -> "Policy":
        """A log, or copies of it with a key each, with a quorum of all witnesses."""
        if not witnesses:
            return cls(tuple(logs), {}, {}, _NONE)
        names = tuple(key.name for key in witnesses)
        group = "witnesses"
        while group in names:
            group += "-"
        return cls(
            tuple(logs), dict(zip(names, witnesses, strict=True)),
            {group: (quorum(len(names)), names)}, group,
        )  # fmt: skip

    def __str__(self) -> str:
        lines = [f"log {key}" for key in self.logs]
        lines += [f"witness {name} {key}" for name, key in self.witnesses.items()]
        lines += [f"group {name} {k} {' '.join(of)}" for name, (k, of) in self.groups.items()]
        return "\n".join([*lines, f"quorum {self.rule}"]) + "\n"

    @classmethod
    def from_text(cls, text: str) -> "Policy":
        """A policy file.

        Raises:
            InputError: it is none; the sentence names the line.
        """
        logs: list[Key] = []
        witnesses: dict[str, Key] = {}
        groups: dict[str, tuple[int, tuple[str, ...]]] = {}
        rule, listed = "", set[str]()
        for number, line in enumerate(text.split("\n"), 1):
            where = f"policy, line {number}"
            match [word for word in line.replace("\t", " ").split(" ") if word]:
                case []:
                    continue
                case [word, *_] if word.startswith("#"):
                    continue
                case ["log", key] | ["log", key, _]:
                    logs.append(Key.from_text(key))
                case ["witness", name, key] | ["witness", name, key, _]:
                    _fresh(where, name, witnesses, groups)
                    witnesses[name] = Key.from_text(key)
                case ["group", name, k, first, *more]:
                    _fresh(where, name, witnesses, groups)
                    members = (first, *more)
                    for member in members:
                        if member not in witnesses.keys() | groups.keys() or member in listed:
                            raise InputError(f"{where}: {member!r} is unknown, or in two groups")
                        listed.add(member)
                    groups[name] = (_threshold(where, k, len(members)), members)
                case ["quorum", name] if not rule:
                    if name not in witnesses.keys() | groups.keys() | {_NONE}:
                        raise InputError(f"{where}: {name!r} is no witness and no group above")
                    rule = name
                case words:
                    raise InputError(f"{where}: {words[0]!r} begins no line of a policy, or again")
        public = [key.public for key in (*logs, *witnesses.values())]
        if not rule or len(set(public)) < len(public) or len(public) > _MOST:
            raise InputError(
                f"policy: it has one quorum line, no key twice, and at most {_MOST} keys"
            )
        if len(groups) > _MOST_GROUPS:
            raise InputError(f"policy: it has {len(groups)} groups; {_MOST_GROUPS} is the most")
        if any(key.kind == NOTE for key in witnesses.values()):
            raise InputError("policy: a witness has a key of another type than cosignatures'")
        return cls(tuple(logs), witnesses, groups, rule)

    def check(self, note: str) -> Checkpoint:
        """The checkpoint of a signed note that the policy takes.

        Raises:
            MessageError: it does not; the sentence says what is missing.
        """
        checkpoint, by = verified(note, (*self.logs, *self.witnesses.values()))
        if not any(key in by and key.name == checkpoint.origin for key in self.logs):
            raise MessageError(f"no log of the policy has signed the head of {checkpoint.origin!r}")
        cosigned = {name for name, key in self.witnesses.items() if key in by}
        if not self._holds(self.rule, cosigned):
            count, of = len(cosigned), len(self.witnesses)
            raise MessageError(
                f"{count} of {of} witnesses have cosigned the head of {checkpoint.size} entries,"
                " fewer than the policy asks for"
            )
        return checkpoint

    def _holds(self, name: str, cosigned: set[str]) -> bool:
        if name == _NONE:
            return True
        if name in self.witnesses:
            return name in cosigned
        least, members = self.groups[name]
        return sum(self._holds(member, cosigned) for member in members) >= least


def _fresh(where: str, name: str, *known: Collection[str]) -> None:
    if name == _NONE or any(name in names for names in known):
        raise InputError(f"{where}: the name {name!r} is taken")


def _threshold(where: str, word: str, members: int) -> int:
    k = {"any": 1, "all": members}.get(word) or (int(word[:9]) if word.isdecimal() else 0)
    if not 1 <= k <= members:
        raise InputError(f"{where}: {word!r} was given; allowed is any, all or 1 to {members}")
    return k
