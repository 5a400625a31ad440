"""A whole sum under threshold encryption in this process: the nodes and receiver of a network."""

from collections.abc import Callable, Mapping, Set
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from tacit.protection.encryption.node import Node
from tacit.protection.encryption.receiver import Receiver
from tacit.protection.secagg.session import Aborted, Session

STAGES = ("advertise", "share", "commit", "upload", "decrypt", "rebuild")


def simulate(
    session: Session,
    identities: Mapping[int, Ed25519PrivateKey],
    vectors: Mapping[int, NDArray[Any]],
    dropped: Mapping[str, Set[int]] | None = None,
) -> tuple[NDArray[Any], tuple[int, ...]]:
    """One session from keys to sum.

    Args:
        session: what is agreed on; of uint32, and the complete graph.
        identities: long-term signing keys, by node.
        vectors: (length,) uint32 each, by node.
        dropped: nodes that are gone from a stage of ``STAGES`` on.

    Returns:
        (length,) the survivors' sum modulo 2^32, and the survivors, ascending.

    Raises:
        Aborted: too few were left at some stage.
        InputError: OpenFHE cannot be loaded.
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
    parts = receiver.deliver(answers("share", lambda node: node.share(keys[node.me])))
    commits = receiver.commits(
        answers("commit", lambda node: node.commit(parts[node.me], vectors[node.me]))
    )
    for me, sent in answers("upload", lambda node: node.upload(commits[node.me])).items():
        receiver.add(me, sent)
    uploads = receiver.uploads()
    request = receiver.request(answers("decrypt", lambda node: node.decrypt(uploads.items())))
    return receiver.sum(answers("rebuild", lambda node: node.rebuild(request[node.me])))
