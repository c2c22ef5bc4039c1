"""Changes a stopped broker's files of one partition: as somebody with its disk could, or as a power cut does."""

import struct
from pathlib import Path

from aiokafka.record.util import calc_crc32c_py

# Of a record batch, version 2: base offset, length, leader epoch, magic, then the checksum of all that follows.
HEAD = struct.Struct(">qiibI")
#: Behind the checksum and two bytes of attributes: the last record's offset within the batch.
LAST_DELTA = struct.Struct(">i")


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


def cut_end(data_dir: Path, topic: str, partition: int, offset: int) -> None:
    """Take a partition's end from a stopped broker: the batch that `offset` lies in, and all that is behind it.

    What the broker derived from the records goes too, and is made anew from those that are left when it starts.
    """
    (folder,) = [path for path in data_dir.rglob(f"{topic}-{partition}") if path.is_dir()]
    cut = False
    for path in sorted(folder.glob("*.log")):
        if cut:
            path.unlink()
            continue
        data = path.read_bytes()
        at = 0
        while at + LAST_DELTA.size + 23 < len(data):
            base, length, *_ = HEAD.unpack_from(data, at)
            (last,) = LAST_DELTA.unpack_from(data, at + 23)
            if base + last >= offset:
                cut = True
                with path.open("r+b") as file:
                    file.truncate(at)
                break
            at += 12 + length
    assert cut, f"{folder} doesn't hold offset {offset}"
    for path in folder.iterdir():
        if path.suffix in (".index", ".timeindex", ".txnindex", ".snapshot"):
            path.unlink()
    # These two say that it was stopped cleanly, and how far each partition is flushed.
    for name in (".kafka_cleanshutdown", "recovery-point-offset-checkpoint"):
        (folder.parent / name).unlink(missing_ok=True)


def spoil_last_batch(data_dir: Path, topic: str, partition: int) -> None:
    """Make the last batch of a stopped broker's partition say that it is compressed, which it isn't.

    The broker hands it out as it is, and no client can read it.
    """
    (path,) = [path for path in data_dir.rglob(f"{topic}-{partition}/*.log") if path.stat().st_size]
    data = bytearray(path.read_bytes())
    at = begin = 0
    while at + HEAD.size < len(data):
        _, length, *_ = HEAD.unpack_from(data, at)
        begin, at = at, at + 12 + length
    data[begin + 22] |= 1  # The lower byte of the attributes: gzip.
    struct.pack_into(">I", data, begin + 17, calc_crc32c_py(bytes(data[begin + 21 : at])))
    path.write_bytes(data)
