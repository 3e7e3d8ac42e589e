"""The CRC seed of a segment whose header is lost, from one of its frames.  Pure: no I/O.

Every frame's CRC starts from a seed that is derived from the salt in the header.  A CRC can be run
backwards: the CRC of `data` that started from `seed` is the CRC of `data` that started from 0,
xor `seed` times x^(8 * length) modulo the polynomial, so one frame gives exactly one seed that
makes its CRC hold.  The seed is believed when the frame's header check, which is a different fold
of the state, holds under it as well, and the sequence is the one that the file's name asks for.
"""

from __future__ import annotations

from struct import Struct

from crc32c import crc32c

from logqueue.storage.frame import FRAME, FRAME_BYTES, TYPES, BadFrame, decode

_U64 = Struct("<Q")
_POLYNOMIAL = 0x82F63B78  # CRC-32C, bit-reversed: bit 31 is the coefficient of x^0
_ONE = 1 << 31
_ORDER = (1 << 31) - 1  # x^_ORDER = 1: the polynomial is (x + 1) times a primitive one


def _times(a: int, b: int) -> int:
    """a * b modulo the polynomial."""
    product, bit = 0, _ONE
    while bit:
        if a & bit:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
        bit >>= 1
    return product


def _power(exponent: int) -> int:
    """x to the `exponent` modulo the polynomial."""
    result, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _times(result, square)
        square = _times(square, square)
        exponent >>= 1
    return result


def start_of(crc: int, data: bytes) -> int:
    """The state from which a CRC-32C over `data` comes out as `crc`."""
    return _times(crc ^ crc32c(data), _power(-8 * len(data) % _ORDER))


def seed_of(frame: bytes, offset: int, sequence: int, limit: int) -> int | None:
    """The seed under which `frame` is valid at `offset`; None when there is none.

    `frame` begins with the frame and may go on behind it; `sequence` is the one it must have.
    """
    if len(frame) < FRAME_BYTES:
        return None
    crc, length, found, _, _, type_, _, _ = FRAME.unpack_from(frame)
    if found != sequence or type_ not in TYPES or FRAME_BYTES + length > len(frame):
        return None
    seed = start_of(crc, _U64.pack(offset) + frame[4 : FRAME_BYTES + length])
    try:
        decode(frame, 0, offset, seed, limit)
    except BadFrame:
        return None
    return seed
