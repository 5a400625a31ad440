"""What a federation can prove of a run, to itself and to others."""
