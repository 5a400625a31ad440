"""BFV under a joint key, with OpenFHE: the one file that knows the library.

Brakerski, CRYPTO 2012; Fan and Vercauteren, IACR ePrint 2012/144. The joint key is the sum of the
nodes' keys: Asharov, Jain, Lopez-Alt, Tromer, Vaikuntanathan, Wichs, EUROCRYPT 2012; Mouchet et
al., PETS 2021. Here and outside, polynomials are arrays of residues: (towers, N) uint64, one row a
prime, at the points of the number theoretic transform, so that ciphertexts and keys add number by
number. No byte that came from elsewhere reaches OpenFHE's parser: residues are put into an object
that it wrote itself.

The plaintext modulus is 2^32 - 1, which a coefficient of OpenFHE's BFV just holds: its values are
-(2^31 - 1) to 2^31 - 1, and so are those that the sums of a 32-bit ``codec.Codec`` can have.
"""

import math
import re
from hashlib import shake_256
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError

Residues = NDArray[np.uint64]
PLAIN = 2**32 - 1


def library() -> ModuleType:
    """OpenFHE.

    Raises:
        InputError: it cannot be loaded here.
    """
    try:
        import openfhe
    except (ImportError, OSError):
        raise InputError(
            "protection: threshold encryption needs openfhe, which does not load here; its wheels"
            " hold code for Python 3.12 on x86-64 Linux with glibc 2.38 or newer (Ubuntu 24.04,"
            " Debian 13) although pip installs them elsewhere, too: use such a Python and"
            " pip install 'tacit[bfv]', or tacit.SecureAggregation, which needs no such library"
        ) from None
    return openfhe


class Scheme:
    """Parameters for 128-bit security, and exact sums of so many ciphertexts under so many keys.

    The mode is NOISE_FLOODING_MULTIPARTY: to a partial decryption OpenFHE adds uniform noise of all
    primes but one (180 bits), which hides the noise of the ciphertext, and with it the node's key.

    Attributes:
        moduli: (towers, 1) the primes.
        shape: (towers, N).
    """

    def __init__(self, nodes: int) -> None:
        fhe = library()
        self.format, self.write = fhe.BINARY, lambda thing: fhe.Serialize(thing, fhe.BINARY)
        parameters = fhe.CCParamsBFVRNS()
        parameters.SetPlaintextModulus(PLAIN)
        parameters.SetMultiplicativeDepth(0)
        parameters.SetEvalAddCount(nodes)
        parameters.SetThresholdNumOfParties(nodes)
        parameters.SetMultipartyMode(fhe.NOISE_FLOODING_MULTIPARTY)
        parameters.SetSecurityLevel(fhe.HEStd_128_classic)
        self._context = fhe.GenCryptoContext(parameters)
        for feature in (fhe.PKE, fhe.LEVELEDSHE, fhe.MULTIPARTY):
            self._context.Enable(feature)
        # What is parsed is given this context; the tables of its own would be made to be dropped.
        fhe.DisablePrecomputeCRTTablesAfterDeserializaton()
        keys = self._context.KeyGen()
        primes = re.findall(r'"m": {\s*"v": (\d+)', fhe.Serialize(keys.secretKey, fhe.JSON))
        self.moduli = np.array(primes, np.uint64)[:, np.newaxis]
        self.shape = (len(primes), self._context.GetRingDimension())
        zero = self._context.MakeCoefPackedPlaintext(np.zeros(1, np.int64))
        sample = self._context.Encrypt(keys.publicKey, zero)
        part = self._context.MultipartyDecryptMain([sample], keys.secretKey)[0]
        self._secret = _Form(self, keys.secretKey, 1, fhe.DeserializePrivateKeyString)
        self._public = _Form(self, keys.publicKey, 2, fhe.DeserializePublicKeyString)
        self._cipher = _Form(self, sample, 2, fhe.DeserializeCiphertextString)
        self._part = _Form(self, part, 1, fhe.DeserializeCiphertextString)

    def add(self, total: Residues, residues: Residues) -> None:
        """total <- total + residues (..., towers, N), mod the primes."""
        total += residues
        np.subtract(total, self.moduli, out=total, where=total >= self.moduli)

    def read(self, data: bytes | memoryview, *shape: int) -> Residues | None:
        """(*shape, towers, N); None for another length, or a residue not below its prime."""
        shape = (*shape, *self.shape)
        if len(data) != 8 * math.prod(shape):
            return None
        residues = np.frombuffer(data, "<u8").reshape(shape)
        return residues if (residues < self.moduli).all() else None

    def blocks(self, length: int) -> int:
        """Ciphertexts of a vector of this length and its checksum."""
        return -(-(length + 1) // self.shape[1])

    def ciphertext_bytes(self, length: int) -> int:
        """Of the residues that a vector of this length is encrypted to."""
        return self.blocks(length) * 2 * 8 * math.prod(self.shape)

    def common(self, context: bytes) -> Residues:
        """(towers, N) the public polynomial a: uniform, from a hash, so that nobody chose it."""
        residues = np.empty(self.shape, np.uint64)
        for row, modulus, number in zip(residues, self.moduli[:, 0], range(256), strict=False):
            stream = shake_256(context + b"common polynomial" + bytes([number]))
            # 60-bit words, of which all but one in 2^40 are below their prime.
            words = np.frombuffer(stream.digest(8 * (len(row) + 8)), "<u8") >> np.uint64(4)
            row[:] = words[words < modulus][: len(row)]
        return residues

    def generate(self, common: Residues) -> tuple[Residues, Residues]:
        """A node's secret s, ternary, and b = e - a s; (towers, N) each, from OpenFHE's source."""
        base = self._public.build(np.stack([np.zeros_like(common), common]))
        keys = self._context.MultipartyKeyGen(base, False, True)
        return self._secret.residues(keys.secretKey)[0], self._public.residues(keys.publicKey)[0]

    def encrypt(self, joint: Residues, common: Residues, values: NDArray[np.int64]) -> Residues:
        """(k, 2, towers, N) of (k, N) values from -(2^31 - 1) to 2^31 - 1."""
        key = self._public.build(np.stack([joint, common]))
        result = np.empty((len(values), 2, *self.shape), np.uint64)
        for row, block in zip(result, values, strict=True):
            plain = self._context.MakeCoefPackedPlaintext(block)
            row[:] = self._cipher.residues(self._context.Encrypt(key, plain))
        return result

    def partial(self, secret: Residues, total: Residues) -> Residues:
        """(k, towers, N) of (k, 2, towers, N): c1 s plus noise that hides s."""
        key = self._secret.build(secret[np.newaxis])
        result = np.empty((len(total), *self.shape), np.uint64)
        for row, block in zip(result, total, strict=True):
            opened = self._context.MultipartyDecryptMain([self._cipher.build(block)], key)
            row[:] = self._part.residues(opened[0])[0]
        return result

    def fuse(self, opened: Residues) -> NDArray[np.int64]:
        """(k, N) values of (k, towers, N): c0 plus the partial decryptions under every key."""
        result = np.empty((len(opened), self.shape[1]), np.int64)
        for row, block in zip(result, opened, strict=True):
            part = self._part.build(block[np.newaxis])
            row[:] = self._context.MultipartyDecryptFusion([part]).GetCoefPackedValueArray()
        return result


class _Form:
    """What OpenFHE writes of one kind of object, with its residues left open.

    Args:
        sample: an object of the kind, with so many polynomials.
        read: parses what OpenFHE wrote of it.
    """

    def __init__(self, scheme: "Scheme", sample: Any, polynomials: int, read: Any) -> None:
        self._scheme, self._polynomials, self._read = scheme, polynomials, read
        self._blob = scheme.write(sample)
        self._open = self._rows(self._blob)

    def residues(self, thing: Any) -> Residues:
        """(polynomials, towers, N) of an object of this kind."""
        blob = self._scheme.write(thing)
        rows = [np.frombuffer(blob[row], "<u8") for row in self._rows(blob)]
        return np.stack(rows).reshape(-1, *self._scheme.shape)

    def build(self, residues: Residues) -> Any:
        """The object with these (polynomials, towers, N) residues, each below its prime."""
        blob = bytearray(self._blob)
        flat = residues.reshape(-1, self._scheme.shape[1])
        for row, values in zip(self._open, flat, strict=True):
            blob[row] = values.astype("<u8").tobytes()
        return self._read(bytes(blob), self._scheme.format)

    def _rows(self, blob: bytes) -> list[slice]:
        """Where residues are: each row is written as N, the residues, and their prime, by 8 bytes.

        What else is written around them differs between objects of one kind.
        """
        degree, rows, at = self._scheme.shape[1], [], 0
        for prime in self._scheme.moduli[:, 0].tolist() * self._polynomials:
            end = 0
            while blob[end : end + 8] != prime.to_bytes(8, "little"):
                at = blob.index(degree.to_bytes(8, "little"), at) + 8
                end = at + 8 * degree
            rows.append(slice(at, end))
            at = end
        return rows
