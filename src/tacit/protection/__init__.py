"""Privacy that is enforced: noise, clipping, secure sums, proofs and their accounts."""
