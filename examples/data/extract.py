#!/usr/bin/env python3
"""Rebuilds the text files of this folder from Debian's package r-cran-janeaustenr (standard library only).

    apt-get download r-cran-janeaustenr && dpkg -x r-cran-janeaustenr_*.deb unpacked
    python3 examples/data/extract.py unpacked/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb

An .rdb file is a row of (u32 big-endian size, zlib stream); each stream is one serialised R vector of lines.
"""
import pathlib
import re
import struct
import sys
import zlib

BOOKS = {
    "PRIDE AND PREJUDICE": "pride_and_prejudice.txt",
    "SENSE AND SENSIBILITY": "sense_and_sensibility.txt",
    "PERSUASION": "persuasion.txt",
}


def objects(rdb):
    while rdb:
        stream = zlib.decompressobj()
        yield stream.decompress(rdb[4:])
        rdb = stream.unused_data


def lines(serialised):
    """The strings of one R vector in XDR serialisation, version 2 or 3."""
    if serialised[:2] != b"X\n":
        raise SystemExit("not an XDR-serialised R object")
    version = struct.unpack_from(">i", serialised, 2)[0]
    at = 14
    if version == 3:  # the name of the native encoding follows
        at += 4 + struct.unpack_from(">i", serialised, at)[0]
    _, count = struct.unpack_from(">ii", serialised, at)
    at += 8
    for _ in range(count):
        size = struct.unpack_from(">i", serialised, at + 4)[0]
        at += 8
        yield serialised[at : at + max(size, 0)].decode("utf-8")
        at += max(size, 0)


def paragraphs(text):
    """Paragraphs as one line each, without the marks for italics and breaks and without editors' remarks."""
    for block in re.split(r"\n\s*\n", text):
        block = re.sub(r"\s+", " ", block.replace("_", "").replace("*", "")).strip()
        if block and not block.startswith("[At this point"):
            yield block


folder = pathlib.Path(__file__).parent
for item in objects(pathlib.Path(sys.argv[1]).read_bytes()):
    book = list(lines(item))
    name = BOOKS.get(book[0].strip().upper())
    if name:
        text = "\n\n".join(paragraphs("\n".join(book))) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
        print(name, len(text.encode()), "bytes,", text.count("\n\n") + 1, "paragraphs")
