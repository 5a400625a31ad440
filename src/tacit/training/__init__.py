"""Local training of many nodes at once, or of one; and how good the results are."""
