"""The signed, append-only record of a run: what an outsider can check without trusting anyone."""
