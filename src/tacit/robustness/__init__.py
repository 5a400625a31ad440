"""How much attacks cost under which defence: an arena of all against all."""
