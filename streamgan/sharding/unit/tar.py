"""The tar archives of a set: POSIX.1-1988 headers (ustar), each one 512 bytes, nothing but regular files.

The bytes are those of `webdataset.TarWriter`, whose `tarfile` takes ten times as long for a small member and
fills some fields in one release of Python that it leaves empty in another.
"""

BLOCK = 512
RECORD_BYTES = 20 * BLOCK  # an archive is padded to a multiple of this
MAX_NAME, MAX_SIZE = 100, 8**11 - 1
_OWNER = b"streamgan"
# mode 0444, uid and gid 0 | size, mtime 0, checksum, regular file | magic | owner, group | nothing
_MODE = b"0000444\0" + b"0000000\0" * 2
_MTIME = b"0" * 11 + b"\0"
_REST = b"0" + bytes(100) + b"ustar\x0000" + _OWNER.ljust(32, b"\0") * 2 + bytes(8 + 8 + 155 + 12)
_SUM = sum(_MODE + b"\0" + _MTIME + b" " * 8 + _REST)  # of all but name and size; the checksum as spaces


def header(name: str, size: int) -> bytes:
    """The block before the data of a member."""
    encoded = name.encode()
    assert len(encoded) <= MAX_NAME, f"{name} needs a longer header"
    assert size <= MAX_SIZE, f"{size} bytes need another header"
    digits = b"%011o" % size
    checksum = b"%06o\0 " % (_SUM + sum(encoded) + sum(digits))
    return encoded.ljust(MAX_NAME, b"\0") + _MODE + digits + b"\0" + _MTIME + checksum + _REST


def padding(size: int) -> bytes:
    """What follows the data of a member, up to the next block."""
    return bytes(-size % BLOCK)


def end(size: int) -> bytes:
    """What follows the last member of an archive of `size` bytes so far: two empty blocks, then padding."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD_BYTES)
