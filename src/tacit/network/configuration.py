"""How zenoh is set up: encrypted links, and who may say what over them.

Every key is ``tacit/<federation>/<to>/<topic>/<from>``: who is asked, for what, by whom. A member
is alive while its token ``tacit/<federation>/<name>/alive`` is. Names are those in certificates,
and access control (default: deny) holds each end to its own: it may answer as itself, ask as
itself, and say that itself is alive. Nothing is ever published. A client needs it, too: zenoh
accepts a server with a certificate of any public authority for that host, beside the federation's.
"""

import ipaddress
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tacit.errors import InputError, require
from tacit.network.identity import CA, TLS, Identity
from tacit.network.messages import MOST

CHUNK = 512 * 1024  # bytes of a blob that travel in one reply
JOINING = "joining"  # common name of the certificates that can do nothing but ask to join
JOIN = "join"
LEASE = 2000  # milliseconds without a sign of life after which a link is given up
KEEP_ALIVE = 250  # milliseconds between signs of life


def key(federation: str, to: str, *rest: str) -> str:
    return "/".join(("tacit", federation, to, *rest))


_DNS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252}):[0-9]{1,5}")
_LAST_PORT = 65535


def require_address(field: str, given: str) -> None:
    allowed = "host:port, as in hospital.example:7447, 10.0.0.5:7447 or [fd00::5]:7447"
    fits = _ADDRESS.fullmatch(given) is not None and int(given.rpartition(":")[2]) <= _LAST_PORT
    require(fits, field, given, allowed)


def require_host(field: str, given: str) -> None:
    fits = _DNS.fullmatch(given) is not None
    if not fits:
        with suppress(ValueError):
            fits = ipaddress.IPv6Address(given) is not None
    require(fits, field, given, "a DNS name or an IP address")


def host(address: str) -> str:
    """Of ``host:port``; without the brackets of an IPv6 address."""
    return address.rpartition(":")[0].strip("[]")


def configuration(
    identity: Identity,
    listen: Sequence[str],
    connect: Sequence[str],
    *,
    wait: float,
    insecure: bool = False,
) -> str:
    """JSON for zenoh, of one member's session.

    Args:
        listen, connect: addresses, ``host:port``.
        wait: seconds that a client tries to reach one of the addresses before it gives up.
        insecure: no encryption and no access control; on loopback addresses only.
    """
    for address in (*listen, *connect):
        require_address("address", address)
    if insecure:
        for address in (*listen, *connect):
            if host(address) not in ("127.0.0.1", "::1", "localhost"):
                raise InputError(f"insecure: {address!r} is not a loopback address")
    protocol = "tcp" if insecure else "tls"
    if not insecure:
        # zenoh takes the brackets of an IPv6 address for a part of the certificate's host.
        connect = [address.replace("[", "").replace("]", "") for address in connect]
    mode = _mode(identity, listen)
    settings: dict[str, Any] = _base(protocol) | {
        "mode": mode,
        # Neighbours whom gossip finds; a router waits out this delay for nothing.
        "scouting": {"multicast": {"enabled": False}, "delay": 0 if mode == "router" else 500},
        "listen": {"endpoints": [f"{protocol}/{address}" for address in listen]},
        "connect": {
            "endpoints": [f"{protocol}/{address}" for address in connect],
            "timeout_ms": {"router": -1, "peer": -1, "client": int(wait * 1000)},
            "exit_on_failure": {"router": False, "peer": False, "client": True},
            "retry": {"period_init_ms": 200, "period_max_ms": 2000, "period_increase_factor": 2},
        },
    }
    if not insecure:
        settings["transport"]["link"]["tls"] = _tls(identity)
        settings["access_control"] = access(identity)
    return json.dumps(settings)


def _mode(identity: Identity, listen: Sequence[str]) -> str:
    if not listen:
        return "client"
    # Not a relay: routers among each other compute trees, and zenoh 1.10 panics where one goes.
    return "router" if identity.role == "coordinator" else "peer"


def _base(protocol: str) -> dict[str, Any]:
    return {
        "transport": {
            "shared_memory": {"enabled": False},
            "link": {
                "protocols": [protocol],
                "tx": {
                    "lease": LEASE,
                    "keep_alive": LEASE // KEEP_ALIVE,
                    "queue": {
                        "size": {"data": 16},
                        # Below the lease: else one hung member takes healthy ones down.
                        "congestion_control": {"block": {"wait_before_close": LEASE * 900}},
                    },
                },
                "rx": {"buffer_size": 1 << 20, "max_message_size": 2 * (CHUNK + MOST)},
            },
        },
        "low_pass_filter": [
            {
                "messages": ["put", "delete", "query"],
                "flows": ["ingress"],
                "key_exprs": ["**"],
                "size_limit": MOST,
            }
        ],
    }


def _tls(identity: Identity) -> dict[str, Any]:
    mine, authority = str(identity.folder / TLS), str(identity.folder / CA)
    return {
        "root_ca_certificate": authority,
        "enable_mtls": True,
        "listen_private_key": mine,
        "listen_certificate": mine,
        "connect_private_key": mine,
        "connect_certificate": mine,
        "verify_name_on_connect": True,
        "close_link_on_expiration": True,
    }


def access(identity: Identity) -> dict[str, Any]:
    """Access control of a session: which certificate may send and receive what.

    The coordinator and relays pass everyone's messages on; what is in these is signed.
    """
    federation = identity.federation
    hubs = [
        name for name in identity.members.those("coordinator", "relay") if name != identity.name
    ]
    sites = [name for name in identity.members.those("site") if name != identity.name]
    everything = [key(federation, "**")]
    tokens = [key(federation, "*", "alive")]
    watching = ["declare_liveliness_subscriber", "liveliness_query"]
    both = ["ingress", "egress"]
    rules = [
        _rule("hub", [*_REQUESTS, *_TOKENS], both, everything),
        _rule("watch", watching, both, tokens),
        _rule("see", ["liveliness_token"], ["egress"], tokens),
        _rule("find", ["declare_queryable"], ["egress"], everything),
        _rule("join", ["query"], ["ingress"], [key(federation, "*", JOIN, JOINING)]),
        _rule("joined", ["reply"], ["egress"], [key(federation, "*", JOIN, JOINING)]),
        _rule("hall", ["declare_queryable"], ["egress"], [key(federation, "*", JOIN, "*")]),
    ]
    subjects = [{"id": "joining", "cert_common_names": [JOINING]}]
    policies = [{"rules": ["join", "joined", "hall"], "subjects": ["joining"]}]
    if hubs:
        subjects.append({"id": "hubs", "cert_common_names": hubs})
        policies.append({"rules": ["hub"], "subjects": ["hubs"]})
    if sites:
        subjects.append({"id": "sites", "cert_common_names": sites})
        policies.append({"rules": ["watch", "see", "find"], "subjects": ["sites"]})
    for name in sites:
        to_it, by_it = [key(federation, name, "*", "*")], [key(federation, "*", "*", name)]
        own = {
            "answers": _rule(f"{name} answers", ["declare_queryable", "reply"], ["ingress"], to_it),
            "asks": _rule(f"{name} asks", ["query"], ["ingress"], by_it),
            "is asked": _rule(f"{name} is asked", ["query"], ["egress"], to_it),
            "is answered": _rule(f"{name} is answered", ["reply"], ["egress"], by_it),
            "lives": _rule(
                f"{name} lives", ["liveliness_token"], ["ingress"], [key(federation, name, "alive")]
            ),
        }
        rules += own.values()
        subjects.append({"id": f"site {name}", "cert_common_names": [name]})
        policies.append({"rules": [f"{name} {does}" for does in own], "subjects": [f"site {name}"]})
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": rules,
        "subjects": subjects,
        "policies": policies,
    }


_REQUESTS = ["query", "reply", "declare_queryable"]
_TOKENS = ["liveliness_token", "liveliness_query", "declare_liveliness_subscriber"]


def _rule(name: str, messages: list[str], flows: list[str], keys: list[str]) -> dict[str, Any]:
    return {
        "id": name,
        "messages": messages,
        "flows": flows,
        "permission": "allow",
        "key_exprs": keys,
    }
