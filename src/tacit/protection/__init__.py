"""What guards an update: clipping, noise and their accounting, secure sums, encryption, proofs."""
