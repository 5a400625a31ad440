"""What an experiment discloses: who receives which bytes in which form, before anything runs."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tacit.aggregation import Mean
from tacit.aggregation.sketch_guard import SketchGuard
from tacit.algorithms import ADPSGD, LEARN, FedBuff
from tacit.attacks.base import UpdateAttack
from tacit.attacks.view import Knowledge
from tacit.compression.choco import consensus_step
from tacit.data import Federation
from tacit.experiment import Experiment
from tacit.parties import carried, form, guarantee, parties, receiver_of
from tacit.protection import HomomorphicEncryption, SecretSharing
from tacit.protection.guard import Guard
from tacit.topology import Graph, Hierarchical, Neighbours, Star, Swarm

_NEIGHBOUR = "each neighbour"
_FLOAT_BYTES = 4  # numbers travel as float32
_ATTACKS = (
    "may reconstruct training rows (gradient inversion: Zhu, Liu, Han, NeurIPS 2019) or tell"
    " whether a certain row was among them (membership inference: Shokri et al., IEEE S&P 2017)"
)


_KNOWS: dict[Knowledge, str] = {
    "own": "each liar knows its own data and models alone",
    "colluders": "the liars know their own data and models, and each other's",
    "all": "the liars also know what all honest nodes send in the round, and the graph",
    "defence": "the liars know what all nodes send, and may ask the receivers' rule at will",
}


@dataclass(frozen=True)
class Message:
    """One kind of message that a run sends.

    Attributes:
        sender: who sends it.
        receiver: who receives and can read it.
        what: its content.
        when: how often one party sends it.
        message_bytes: size of one.
        messages: how many all parties send in the whole run.
        round_bytes: what all of them take in a round, on average; 0 for what travels only once.
        form: how it travels.
        guarantee: what its form promises about the rows behind it.
    """

    sender: str
    receiver: str
    what: str
    when: str
    message_bytes: int
    messages: int
    round_bytes: float
    form: str = "in the clear"
    guarantee: str = "none"

    @property
    def bytes(self) -> int:
        return self.messages * self.message_bytes


@dataclass(frozen=True)
class Disclosure:
    """Who sees what in a run.

    Attributes:
        title: the plan in one line.
        experiment: its digest, by which a site approves it.
        rows: the kinds of messages.
        sentences: who can read what from them, what nobody receives, and what it comes to.
    """

    title: str
    experiment: str
    rows: tuple[Message, ...]
    sentences: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Sent by all parties in the whole run."""
        return sum(row.bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [dataclasses.asdict(row) | {"bytes": row.bytes} for row in self.rows]
        return {
            "title": self.title,
            "experiment": self.experiment,
            "rows": rows,
            "sentences": list(self.sentences),
            "bytes": self.bytes,
        }

    def to_text(self) -> str:
        """For a terminal: a block for each kind of message, then the sentences."""
        lines = [self.title, ""]
        for row in self.rows:
            size = f"{readable(row.message_bytes)} a message, {readable(row.bytes)} in all"
            lines += [
                f"{row.sender} -> {row.receiver}: {row.what}",
                f"    {row.when}; {size}; {row.form}; guarantee: {row.guarantee}",
            ]
        if not self.rows:
            lines.append("No message is sent.")
        lines += ["", *(f"- {sentence}" for sentence in self.sentences)]
        return "\n".join([*lines, "", f"Experiment {self.experiment}"])


def explain(experiment: Experiment) -> Disclosure:
    """Who receives which bytes in which form, under this topology and algorithm.

    Cohorts and graphs are functions of the seed, so that the messages are counted and not
    estimated: they are those of the run.

    Raises:
        InputError: a plan that cannot work, with the reason.
        ContractError: the nodes' data do not fit together.
    """
    experiment.check()
    algorithm, plan, data = experiment.algorithm, experiment.plan, experiment.data
    if algorithm.pools:
        rows, seen = _pooled(data)
    elif algorithm.exchanges == "nobody":
        rows, seen = [], ["Nobody sees any model: training sends no message."]
    elif isinstance(plan, Graph):
        rows, seen = _graph(experiment, plan)
    else:
        assert plan is not None
        rows, seen = _star(experiment, plan)
    seen += parties(experiment)
    if experiment.data.table is not None:
        seen.append(
            "An outsider on the wire: all links among real machines are encrypted (mutual TLS); it"
            " sees who sends how much, and when. Noise comes from the operating system there."
        )
    elif rows and form(experiment) == "in the clear":
        seen.append(
            "An outsider on the wire: between machines, whoever listens reads the same bytes, for"
            " no protection encrypts them. A simulation in one process sends nothing over a wire."
        )
    if rows and plan is not None and not algorithm.pools:
        seen.append(_defended(experiment))
    if experiment.attacks:
        seen += _attacked(experiment)
    if not algorithm.pools:
        seen += _at_home(experiment)
    disclosed = Disclosure(_title(experiment), experiment.digest(), tuple(rows), ())
    total = (
        f"In all: {readable(disclosed.bytes)} in {_rounds(experiment):,} rounds, from all parties."
    )
    return replace(disclosed, sentences=(*seen, total))


def readable(size: float) -> str:
    """A number of bytes for people: "512 B", "8.46 kB", "2.03 MB" (powers of 1,000)."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:,.3g} TB"


def listed(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def plan_name(experiment: Experiment) -> str:
    """The algorithm and the topology, with what differs from their defaults: "FedAvg, Star"."""
    parts: list[Any] = [experiment.algorithm]
    if experiment.algorithm.exchanges != "nobody":
        parts.append(experiment.plan)
    return ", ".join(map(_brief, parts))


def _brief(part: Any) -> str:
    if not dataclasses.is_dataclass(part):
        return str(part)
    given = [
        f"{field.name}={getattr(part, field.name)!r}"
        for field in dataclasses.fields(part)
        if getattr(part, field.name) != field.default
    ]
    return type(part).__name__ + (f"({', '.join(given)})" if given else "")


def _title(experiment: Experiment) -> str:
    data = experiment.data
    return (
        f"{plan_name(experiment)}: {data.name}, {data.nodes:,} nodes, {experiment.rounds:,} rounds"
    )


def _messages(
    experiment: Experiment, sender: str, receiver: str, when: str, count: int, whose: str
) -> list[Message]:
    """What the algorithm sends, over one kind of link that ``count`` models travel over in all."""
    algorithm, rounds = experiment.algorithm, _rounds(experiment)
    messages = []
    for name, numbers in algorithm.sends(experiment.layout).items():
        often, times = when, count
        if isinstance(algorithm, LEARN) and name == "gradient":
            often = "in round t, from 1, ceil(log2 t) times"
            times = count // rounds * sum(map(algorithm.agreements, range(rounds)))
        what = f"{whose} {name} ({_numbers(numbers)})"
        messages.append(_message(experiment, sender, receiver, what, often, numbers, times))
    return messages


def _message(
    experiment: Experiment, sender: str, receiver: str, what: str, when: str, size: int, count: int
) -> Message:
    size *= _FLOAT_BYTES
    return Message(sender, receiver, what, when, size, count, count * size / _rounds(experiment))


def _uploads(experiment: Experiment, receiver: str, when: str, count: int) -> list[Message]:
    """What nodes send, compressed where they do so."""
    rows = _messages(experiment, "each node", receiver, when, count, "its")
    if (compression := experiment.compression) is None:
        return rows
    size = compression.upload_bytes(experiment.layout)
    numbers, total = _numbers(experiment.layout.size), count * size / _rounds(experiment)
    known = "the copy that all neighbours have" if receiver == _NEIGHBOUR else f"{receiver}'s"
    what = f"its model's difference to {known} ({numbers}), compressed by {compression}"
    return [replace(row, what=what, message_bytes=size, round_bytes=total) for row in rows]


def _compression(experiment: Experiment) -> list[str]:
    """What compression is to those who see updates."""
    if (compression := experiment.compression) is None:
        return []
    said = (
        f"Compression by {compression} is no protection; buffers (BatchNorm's statistics) travel"
        " whole."
    )
    if isinstance(experiment.plan, Graph):
        delta = compression.contraction(experiment.layout.parameters)
        assert delta is not None  # by check_compression
        said += (
            " Neighbours keep copies of each other's models, towards whose mean a node goes by"
            f" {consensus_step(delta):.3g} of the way (gamma of CHOCO)."
        )
    elif compression.memory_size(experiment.layout.parameters):
        said += " What it leaves out waits at its node for the next update."
    return [said]


def _rounds(experiment: Experiment) -> int:
    """Those of the run: as many as a privacy budget allows."""
    return experiment.guard.rounds if experiment.guard else experiment.rounds


def _numbers(count: int) -> str:
    return f"{count:,} number{'s' * (count > 1)}"


def _star(experiment: Experiment, plan: Star | Hierarchical) -> tuple[list[Message], list[str]]:
    n, rounds = experiment.data.nodes, _rounds(experiment)
    cohorts = [experiment.cohort(round) for round in range(rounds)]
    count = given = sum(map(len, cohorts))
    if experiment.arrivals:
        when = "each time that it has trained"
        count += sum(len(round.dropped) for round in experiment.arrivals[:rounds])
        given = sum(round.handed for round in experiment.arrivals[:rounds])
    elif plan.cohort is None:
        when = "every round"
    else:
        about = "about " if plan.sampling == "poisson" else ""
        due = "it is its turn" if plan.sampling == "cyclic" else "it is drawn"
        when = f"each time that {due} ({about}{plan.cohort:,} of {n:,} nodes a round)"
    if isinstance(plan, Star):
        server, down, often = receiver_of(experiment), given, when
        if experiment.arrivals:
            often = "each time that it is to train"
        if isinstance(plan, Swarm):  # a leader sends nothing to itself, and all get its model
            down, often = rounds * (n - 1), "every round"
            count -= rounds if plan.cohort is None else 0
        rows = _protected(experiment, _uploads(experiment, server, when, count))
        rows += _helped(experiment, rows, sum(len(nodes) > 0 for nodes in cohorts))
        if experiment.guard and isinstance(experiment.guard.secure, HomomorphicEncryption):
            rows += [
                replace(row, sender=server, receiver="each node", what=f"the sum of {what}")
                for row in rows
                for what in [row.what.replace("its", "each node's", 1)]
            ]
        else:
            rows += _released(
                experiment,
                _messages(experiment, server, "each node", often, down, "the new"),
            )
        clear = f"{server.capitalize()} sees every update in the clear, and knows its node."
        sees = [
            *_clear(clear, experiment),
            f"A node sees what {server} makes of a round's updates, and no other node's update.",
        ]
        if isinstance(plan, Swarm):
            sees[-1] = f"In other rounds a{sees[-1][1:]}"
            sees += _turns(n, rounds)
    else:
        groups = [np.unique(plan.group_of(n)[nodes], return_counts=True)[1] for nodes in cohorts]
        used = sum(map(len, groups))
        head, top = "its group's aggregator", "the top server"
        often = "every round in which its group has a node"
        rows = _protected(experiment, _uploads(experiment, head, when, count))
        summed = _messages(experiment, "each aggregator", top, often, used, "the group's")
        above = _messages(experiment, top, "each aggregator", often, used, "the new")
        above += _messages(experiment, "each aggregator", "its nodes", when, count, "the new")
        noise = experiment.guard.noise if experiment.guard else None
        exact = noise is not None and noise.where == "central"  # which comes from the top
        rows += summed if exact else _released(experiment, summed)
        rows += _released(experiment, above)
        sees = [
            *_clear(
                f"A group's aggregator ({plan.groups:,} of them) sees every update of its own nodes"
                " in the clear.",
                experiment,
            ),
            "The top server sees one aggregate per group, and no single node's update.",
            "A node sees what comes down from the top, and no other node's update.",
        ]
        if any(1 in sizes for sizes in groups):
            sees.append(
                "In some rounds a group has a single node: there the top server sees its update."
            )
    sees += _compression(experiment) + _own_pace(experiment)
    noised = experiment.guard is not None and experiment.guard.multiplier > 0
    if not noised and any(0 < len(np.unique(nodes)) <= 2 for nodes in cohorts):
        sees.append(
            "Some rounds have one or two nodes: what is made of one update gives it away to"
            " whoever receives it, and of two, each can take its own out to see the other's."
        )
    return rows, sees


def _own_pace(experiment: Experiment) -> list[str]:
    """How often nodes deliver that work at their own pace."""
    algorithm, arrivals, guard = experiment.algorithm, experiment.arrivals, experiment.guard
    if arrivals is None or not isinstance(algorithm, FedBuff):
        return []
    came = [np.concatenate([r.nodes, r.dropped]) for r in arrivals[: _rounds(experiment)]]
    often = np.bincount(np.concatenate(came), minlength=experiment.data.nodes)
    updates = "every update, whosever it is"
    if algorithm.buffer > 1:
        updates = f"every {algorithm.buffer:,} updates, whosever they are"
    said = (
        f"Asynchronous: the server takes a step after {updates};"
        f" {arrivals[0].concurrency:,} nodes train at the same time. An update that is more than"
        f" {algorithm.max_staleness:,} steps old is sent and dropped. By the seed's durations the"
        f" busiest node delivers {often.max():,} times in this run, the idlest {often.min():,}"
    )
    if experiment.data.table is not None:
        said += "; among real machines it depends on how fast they are"
        if guard and guard.multiplier:
            said += f", but a node stops after {guard.turns(guard.rounds):,}, which are paid for"
    return [f"{said}."]


def _turns(n: int, rounds: int) -> list[str]:
    """What it means that nodes lead in turn."""
    lead = "each of them" if rounds >= n else f"{rounds} of them or more"
    return [
        f"There is no server: the {n} nodes lead in turn, so that {lead} sees in its rounds what a"
        " server would see; where a leader fails, the next one sees the same updates, too.",
        "All nodes vote on each new model, with its digest and signatures (Tendermint:"
        f" arXiv:1807.04938): as long as no more than {(n - 1) // 3} of them crash or lie, no two"
        " honest nodes go on with different models. Nobody checks that a leader's model is the one"
        " that follows from the updates.",
    ]


def _graph(experiment: Experiment, plan: Graph) -> tuple[list[Message], list[str]]:
    n, seed, rounds = experiment.data.nodes, experiment.seed, _rounds(experiment)
    first = plan.graph(n, seed, 0)
    if plan.static:
        count = first.edges * rounds
    else:
        count = sum(plan.graph(n, seed, round).edges for round in range(rounds))
    when = "every round"
    if isinstance(experiment.algorithm, ADPSGD):
        assert experiment.arrivals is not None
        count = 2 * sum(len(round.nodes) for round in experiment.arrivals[:rounds])
        when = "each time that it or the neighbour has trained, and has drawn the other"
    degree = first.out_degree
    weight = first.metropolis() if first.symmetric else first.uniform()
    sender, receiver, rule = "each node", _NEIGHBOUR, experiment.aggregation
    rows = _protected(experiment, _uploads(experiment, receiver, when, count))
    span = f"{degree.min()}"
    if degree.min() < degree.max():
        span += f" to {degree.max()} (on average {degree.mean():.3g})"
    then = "" if plan.static else " in the first round"
    neighbours = f"A node's neighbours are {span} of the {n - 1:,} other nodes{then}"
    masked = experiment.guard is not None and experiment.guard.secure is not None
    sees = [
        *_clear(f"{neighbours}, and see its model in the clear.", experiment),
        "There is no server"
        + ("." if masked else ": only whoever has all others as neighbours sees all models."),
        *_compression(experiment),
    ]
    if not plan.static:
        reach = Neighbours.of(n, *plan.union(n, seed)).out_degree
        sees.append(
            f"The graph changes from round to round: over the run up to {reach.max():,} of the"
            f" {n - 1:,} other nodes come to see a node's model."
        )
    gap = first.spectral_gap(weight)
    if isinstance(experiment.algorithm, ADPSGD):
        sees.append(
            "Asynchronous: whoever has trained averages with one neighbour that it draws, and waits"
            " for nobody else."
        )
        return rows, sees
    sees.append(
        f"The graph's spectral gap is {gap:.3g}{then}"
        " (1: all agree after one exchange; near 0: news travels slowly)."
    )
    if isinstance(rule, SketchGuard):
        what = f"a sketch of it ({_numbers(rule.buckets)})"
        when, times = "before whatever it sends", sum(row.messages for row in rows)
        sketch = _message(experiment, sender, receiver, what, when, rule.buckets, times)
        high = sketch.round_bytes + sum(row.round_bytes for row in rows)
        sees.append(
            f"A round takes {readable(sketch.round_bytes)} where no model is accepted and"
            f" {readable(high)} where all are, for only accepted models follow their sketch; the"
            " bytes above are those where all are."
        )
        rows.append(sketch)
    return rows, sees


def _protected(experiment: Experiment, rows: list[Message]) -> list[Message]:
    """The messages in the form and with the guarantee that protections give them."""
    guard, given = experiment.guard, (form(experiment), guarantee(experiment))
    if guard and guard.secure:
        rows = [message for row in rows for message in _carried(guard, row, experiment.rounds)]
    return [replace(row, form=given[0], guarantee=given[1]) for row in rows]


def _released(experiment: Experiment, rows: list[Message]) -> list[Message]:
    """The messages that pass on what a server made of many, with what noise promises of it."""
    return [replace(row, guarantee=guarantee(experiment, released=True)) for row in rows]


def _carried(guard: Guard, row: Message, rounds: int) -> Iterator[Message]:
    """What becomes of a message that is summed with others."""
    for receiver, of, size in carried(guard, row.message_bytes // _FLOAT_BYTES):
        yield replace(
            row, receiver=receiver or row.receiver, what=f"{of} {row.what}".strip(),
            message_bytes=size, round_bytes=size * row.messages / rounds,
        )  # fmt: skip


def _helped(experiment: Experiment, rows: list[Message], sums: int) -> list[Message]:
    """What a helper adds to each sum: as much as one node."""
    guard = experiment.guard
    if guard is None or not isinstance(guard.secure, SecretSharing):
        return []
    return [
        replace(
            row, sender="the helper", what=f"its share of the sum of {row.what}",
            when="every round", messages=sums,
            round_bytes=sums * row.message_bytes / experiment.rounds,
        )
        for row in rows if row.what.startswith("its")
    ]  # fmt: skip


def _clear(sentence: str, experiment: Experiment) -> list[str]:
    """Who sees updates in the clear, and what can be found out where nothing hides in them."""
    guard = experiment.guard
    if guard and guard.secure:
        return []
    alone = guard and (guard.example or (guard.noise and guard.noise.where == "local"))
    if guard and alone and guard.multiplier:
        return [sentence]
    return [f"{sentence} No protection of single updates: from one the receiver {_ATTACKS}."]


def _defended(experiment: Experiment) -> str:
    """What the rule withstands where it receives the fewest vectors."""
    rule = experiment.aggregation
    if experiment.guard and experiment.guard.proof:
        return f"Aggregation: {rule} withstands no liar, but a proved norm bounds how far one gets."
    if isinstance(rule, Mean):
        return (
            "Aggregation: Mean() withstands no liar: a single malicious node can move the result"
            " anywhere."
        )
    said = f"Aggregation: {rule} withstands {rule.tolerates(experiment.inputs)}."
    heard, f, liars = experiment.exposure(experiment.malicious), getattr(rule, "f", None), "liars"
    if experiment.sums_groups:
        said += " It takes the sums of groups: a group with one liar counts as one, whole."
        liars = "groups with liars"
    if f is not None and heard > f:
        said += f" Here a receiver hears up to {heard} {liars}, more than f = {f}."
    return said


def _attacked(experiment: Experiment) -> list[str]:
    """Who is malicious, and how."""
    names = [experiment.data.names[node] for node in experiment.malicious]
    said = [
        f"In this experiment {len(names)} of {experiment.data.nodes:,} nodes"
        f" {'are' if len(names) > 1 else 'is'} malicious: {listed(names)}."
        " Scores are those of the honest."
    ]
    for attack in experiment.attacks:
        knows = f": {_KNOWS[attack.knowledge]}" if isinstance(attack, UpdateAttack) else ""
        said.append(f"The attack is {_brief(attack)}{knows}.")
    return said


def _pooled(data: Federation) -> tuple[list[Message], list[str]]:
    train = data.train
    size, count = train.x.nbytes + train.y.nbytes, len(train.y)
    what, when = f"their training rows ({count:,})", "once, before the first round"
    rows = [Message("all nodes", "whoever pools", what, when, size, 1, 0.0)]
    return rows, [
        f"Whoever pools sees every row of every node in the clear: {count:,} rows,"
        f" {readable(size)}. This is what a federation avoids; it is here to compare with."
    ]


def _at_home(experiment: Experiment) -> list[str]:
    """What never leaves a node, and what does beside the messages of the rounds."""
    data = experiment.data
    targets = {"classification": "labels", "regression": "target values", "sequence": "texts"}
    kept = "".join(f", {what}" for what in experiment.algorithm.keeps(experiment.layout))
    told = [
        "Before the first round, where the inputs were standardised the federated way: each node's"
        " count, sum and sum of squares of every input column left it in the clear."
    ]
    if not data.train.x.is_floating_point() or data.table is not None:
        told = []
    learns = "whoever runs the experiment also learns"
    if data.table is not None and isinstance(experiment.plan, Swarm):
        return [
            f"Never leaves a node: its rows, its {targets[data.task]}, its test scores{kept}.",
            "All nodes learn each other's numbers of training rows, and a round's leader each"
            " node's training loss.",
        ]
    if data.table is not None:
        learns = "all sites learn each other's numbers of training rows, and the coordinator"
    said = [
        f"Never leaves a node: its rows, its {targets[data.task]}{kept}.",
        *told,
        f"For the report, {learns} each node's number of rows,"
        " training loss and test scores; a deployment that must hide these has to leave them out.",
    ]
    if experiment.guard and experiment.guard.multiplier:
        said.append("The noise covers neither the report nor what was told before the first round.")
    return said
