"""A relay: it passes on what members say to each other who reach it and not one another.

It is trusted with nothing: what passes is signed end to end, and names are those in certificates.
But it sees what is not masked or encrypted by a protection: models, and who speaks with whom.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tacit.errors import InputError, TacitError
from tacit.network import joining
from tacit.network.identity import Identity
from tacit.network.transport import Endpoint

# Seconds between looks at the list of members, and at the certificate's life.
_REFRESH, _RENEW = 5.0, 3600.0
_log = logging.getLogger("tacit.network")


def relay(
    home: Path,
    *,
    listen: Sequence[str],
    connect: Sequence[str] = (),
    insecure: bool = False,
    stop: threading.Event,
) -> None:
    """Pass on messages until the event is set.

    Args:
        home: with the relay's keys.
        listen: addresses, ``host:port``, for sites; the certificate must be good for them.
        connect: addresses of the coordinator; by default those that the relay joined by. It may be
            away: sites reach each other without it.

    Raises:
        InputError: the keys are not a relay's.
        Unreachable: an address to listen on is taken.
    """
    identity = Identity.load(home)
    if identity.role != "relay":
        raise InputError(
            f"{home}: {identity.name!r} is a {identity.role}; invite the relay with `tacit"
            " federation invite NAME --role relay --host HOST`"
        )
    way = connect or identity.connect
    with Endpoint(identity, listen=listen, connect=way, insecure=insecure) as endpoint:
        renewed = time.monotonic()
        _log.info("listening on %s", ", ".join(listen))
        while not stop.wait(_REFRESH):
            try:
                endpoint.fetch_members()
                endpoint.refresh()
                if time.monotonic() - renewed > _RENEW:
                    renewed = time.monotonic()
                    joining.renew(endpoint)
            except (TacitError, OSError) as error:
                _log.warning("%s", error)
