"""A whole secure sum in this process: the same nodes and receiver that a network drives."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from tacit.protection.secagg.masks import Mask
from tacit.protection.secagg.node import Node
from tacit.protection.secagg.receiver import Receiver
from tacit.protection.secagg.session import Aborted, Session

STAGES = ("advertise", "share", "mask", "consent", "unmask")


def simulate(
    session: Session,
    identities: Mapping[int, Ed25519PrivateKey],
    vectors: Mapping[int, NDArray[Any]],
    dropped: Mapping[str, Set[int]] | None = None,
    heard: Callable[[int, bytes], None] | None = None,
    recovered: Callable[[Sequence[Mask]], None] | None = None,
) -> tuple[NDArray[Any], tuple[int, ...]]:
    """One session from keys to sum.

    Args:
        session: what is agreed on.
        identities: long-term signing keys, by node.
        vectors: (length,) each, of the session's dtype, by node.
        dropped: nodes that are gone from a stage of ``STAGES`` on.
        heard: told what each node sends behind its masks.
        recovered: told which masks the receiver took out of the sum.

    Returns:
        (length,) the survivors' sum modulo 2^32 or 2^64, and the survivors, ascending.

    Raises:
        Aborted: too few were left at some stage.
    """
    directory = {node: identities[node].public_key() for node in session.nodes}
    nodes = {me: Node(session, me, identities[me], directory) for me in session.nodes}
    receiver = Receiver(session, directory)

    def answers(stage: str, call: Callable[[Node], bytes]) -> dict[int, bytes]:
        for gone in (dropped or {}).get(stage, ()):
            nodes.pop(gone, None)
        sent = {}
        for me, node in list(nodes.items()):
            try:
                sent[me] = call(node)
            except Aborted:
                del nodes[me]
        return sent

    keys = receiver.keys(answers("advertise", Node.advertise))
    delivery = receiver.deliver(answers("share", lambda node: node.share(keys[node.me])))
    for me, masked in answers(
        "mask", lambda node: node.mask(delivery[node.me], vectors[node.me])
    ).items():
        receiver.add(me, masked)
        if heard:
            heard(me, masked)
    survivors = receiver.survivors()
    request = receiver.request(answers("consent", lambda node: node.consent(survivors[node.me])))
    found = receiver.sum(answers("unmask", lambda node: node.unmask(request[node.me])))
    if recovered:
        recovered(receiver.recovered)
    return found
