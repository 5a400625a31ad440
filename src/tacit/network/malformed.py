"""What msgspec raises where received bytes are not what they should be; not all of it its own."""

import msgspec

MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
