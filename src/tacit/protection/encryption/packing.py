"""A node's integers as the slots of its ciphertexts, with a checksum."""

import numpy as np
from numpy.typing import NDArray

from tacit.protection.encryption.bfv import PLAIN
from tacit.protection.secagg.session import Aborted


def pack(vector: NDArray[np.uint32], degree: int) -> NDArray[np.int64]:
    """(k, degree) slots: the (length,) vector as signed numbers, the checksum, zeros.

    With the checksum all slots sum to 0 modulo the plaintext modulus, and so do those of a sum. A
    missing or damaged partial decryption makes other numbers of them, at which OpenFHE raises no
    error. It is no guard against a node that lies, which can make its checksum fit.

    Raises:
        Aborted: a number -2^31, which no codec makes and a slot does not hold.
    """
    signed = vector.view(np.int32).astype(np.int64)
    if (signed == -(2**31)).any():
        raise Aborted("my vector has a number that no codec makes")
    result = np.zeros(-(-(len(signed) + 1) // degree) * degree, np.int64)
    result[: len(signed)] = signed
    check = -int(signed.sum()) % PLAIN
    result[len(signed)] = check - PLAIN if check > PLAIN // 2 else check
    return result.reshape(-1, degree)


def unpack(slots: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
    """(length,) numbers modulo 2^32 of the (k, degree) slots of a sum.

    Raises:
        Aborted: the checksum does not fit; by chance it does with probability 2^-32.
    """
    if int(slots.sum()) % PLAIN:
        raise Aborted("the decrypted sum fails its checksum: a partial decryption is wrong")
    return slots.reshape(-1)[:length].astype(np.int32).view(np.uint32)
