"""Homomorphic encryption: whoever adds up ciphertexts learns nothing; only the sum is opened."""
