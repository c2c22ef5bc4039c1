"""Changes a record in a stopped broker's file and mends the batch's checksum, as somebody with its disk could."""

import struct
from pathlib import Path

from aiokafka.record.util import calc_crc32c_py

# Of a record batch, version 2: base offset, length, leader epoch, magic, then the checksum of all that follows.
HEAD = struct.Struct(">qiibI")


def rewrite_value(data_dir: Path, topic: str, partition: int, old: bytes, new: bytes) -> None:
    """Replace bytes of one uncompressed record by as many others."""
    assert len(old) == len(new)
    found = 0
    for path in data_dir.rglob(f"{topic}-{partition}/*.log"):
        data = bytearray(path.read_bytes())
        at = 0
        while at + HEAD.size < len(data):
            _, length, _, magic, _ = HEAD.unpack_from(data, at)
            assert magic == 2
            end = at + 12 + length
            place = data.find(old, at, end)
            if place >= 0:
                data[place : place + len(old)] = new
                struct.pack_into(">I", data, at + 17, calc_crc32c_py(bytes(data[at + 21 : end])))
                found += 1
            at = end
        path.write_bytes(data)
    assert found == 1, f"{found} records changed"
