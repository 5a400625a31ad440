"""Logs of the roles: lines for people, or JSON objects for machines.

Those of ``tacit.network.audit`` say who was sent what. No line holds a key, a token or a row.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Literal

Form = Literal["text", "json"]

# What a call may tell beside its sentence: ``_log.info(..., extra={"round": 3})``.
_TOLD = ("site", "round", "digest", "bytes", "of")


class JsonLines(logging.Formatter):
    """One object a line: time (UTC, ISO 8601), level, logger, message, then what else is known.

    Args:
        known: fields of every line.
    """

    def __init__(self, **known: str) -> None:
        super().__init__()
        self.known = known

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= self.known
        line |= {name: getattr(record, name) for name in _TOLD if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def begin(form: Form, level: str, **known: str) -> None:
    """Log to standard error from now on, and there alone.

    Args:
        known: what a JSON line tells beside its own fields, as the federation and the member.
    """
    text = logging.Formatter("%(asctime)s %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(**known) if form == "json" else text)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
