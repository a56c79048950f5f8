"""Arrays and archives as an attacker, or a bad disk, would write them."""

import struct
import zipfile

import numpy as np

# Headers that NumPy's parser, or what it calls, ends at in some way of its own.
HEADERS = (
    b"{'descr': '<f8'",
    b"((((((",
    b"'''abc",
    b"[" * 5000,
    b"\xff\xfe{",
    b"1+",
    b"{[1]: 2}",
    b"{1: 2, 'a': 3}",
    b"{'descr': 3, 'fortran_order': False, 'shape': (8,)}",
    b"{'descr': ('<f8',), 'fortran_order': False, 'shape': (8,)}",
    b"{'descr': '<U9999999999', 'fortran_order': False, 'shape': (8,)}",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (8.0,)}",
    b"{'descr': '<f8', \n'x\ny': False, 'shape': (8,)}",
)


def array(header):
    """An `.npy` file of this header and 64 bytes of zeros."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


def archive(path, **members):
    """An archive of members that are arrays or bytes."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            if isinstance(data, bytes):
                file.writestr(f"{name}.npy", data)
            else:
                with file.open(f"{name}.npy", "w") as member:
                    np.save(member, data)


def _patched(offset, value):
    def damage(path):
        data = bytearray(path.read_bytes())
        at = data.index(b"PK\x01\x02")  # the table of contents
        data[at + offset : at + offset + len(value)] = value
        path.write_bytes(data)

    return damage


def _name_that_is_no_text(path):
    _patched(8, struct.pack("<H", 0x800))(path)  # says that names are UTF-8
    _patched(46, b"\xff")(path)


# What to do to an archive that was whole.
DAMAGES = {
    "version 9.9": _patched(6, b"\x63"),
    "no text": _name_that_is_no_text,
    "unknown compression": _patched(10, b"\x61\x00"),
    "no lzma": _patched(10, b"\x0e\x00"),
}
