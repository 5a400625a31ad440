"""How much of an error leaves the process in which it happened."""

from typing import Literal

Disclosure = Literal["code", "phase", "redacted", "full"]
