#!/usr/bin/env python3
"""Makes the archives of this directory and the tables of what must become of them.

    python3 executor/tests/archives/make.py

Python's standard library only. Running it again gives the same bytes, as long as zlib is the same; what the
tests need is that the tables fit the archives, and both come from here. README.md tells what is what.
"""

import gzip
import hashlib
import json
import pathlib
import struct
import zlib

HERE = pathlib.Path(__file__).parent
GOOD, HOSTILE = HERE / "good", HERE / "hostile"
END = bytes(1024)


# --- tar ---------------------------------------------------------------------------------------------------

def header(name, size=0, kind=b"0", link=b"", mode=0o644, magic=b"ustar\x0000", prefix=b"", size_field=None):
    """One header block. Names are bytes."""
    block = bytearray(512)

    def put(at, value):
        block[at:at + len(value)] = value

    put(0, name[:100])
    put(100, b"%07o\0" % mode)
    put(108, b"0000000\0" * 2)
    put(124, size_field or b"%011o\0" % size)
    put(136, b"00000000000\0")
    put(148, b" " * 8)
    put(156, kind)
    put(157, link[:100])
    put(257, magic)
    put(345, prefix)
    put(148, b"%06o\0 " % sum(block))
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % 512)


def file(name, data=b"data\n", **fields):
    return header(name, len(data), **fields) + padded(data)


def directory(name, **fields):
    return header(name, kind=b"5", mode=0o755, **fields)


def symlink(name, target):
    return header(name, kind=b"2", link=target, mode=0o777)


def hardlink(name, target):
    return header(name, kind=b"1", link=target)


def gnu_long(kind, text):
    data = text + b"\0"
    return header(b"././@LongLink", len(data), kind=kind, magic=b"ustar  \0") + padded(data)


def pax_record(key, value):
    length = len(key) + len(value) + 3
    while length != len(key) + len(value) + 3 + len(str(length)):
        length = len(key) + len(value) + 3 + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def pax(records, kind=b"x"):
    data = b"".join(pax_record(key, value) for key, value in records)
    return header(b"PaxHeaders/x", len(data), kind=kind) + padded(data)


# --- gzip and Zstandard ------------------------------------------------------------------------------------

def gz(data):
    return gzip.compress(data, 9, mtime=0)


def xxh64(data):
    """The hash of Zstandard's content checksum, with seed 0."""
    mask = (1 << 64) - 1
    p1, p2, p3, p4, p5 = (11400714785074694791, 14029467366897019727, 1609587929392839161,
                          9650029242287828579, 2870177450012600261)

    def rotated(value, bits):
        return ((value << bits) | (value >> (64 - bits))) & mask

    def mixed(lane, word):
        return rotated((lane + word * p2) & mask, 31) * p1 & mask

    rest = data
    if len(data) >= 32:
        lanes = [(p1 + p2) & mask, p2, 0, -p1 & mask]
        while len(rest) >= 32:
            lanes = [mixed(lane, word) for lane, word in zip(lanes, struct.unpack("<4Q", rest[:32]))]
            rest = rest[32:]
        value = sum(rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18))) & mask
        for lane in lanes:
            value = ((value ^ mixed(0, lane)) * p1 + p4) & mask
    else:
        value = p5
    value = (value + len(data)) & mask
    while len(rest) >= 8:
        value = (rotated(value ^ mixed(0, struct.unpack("<Q", rest[:8])[0]), 27) * p1 + p4) & mask
        rest = rest[8:]
    if len(rest) >= 4:
        value = (rotated(value ^ (struct.unpack("<I", rest[:4])[0] * p1 & mask), 23) * p2 + p3) & mask
        rest = rest[4:]
    for byte in rest:
        value = rotated(value ^ (byte * p5 & mask), 11) * p1 & mask
    for bits, factor in ((33, p2), (29, p3), (32, 1)):
        value = (value ^ (value >> bits)) * factor & mask
    return value


def zstd_block(kind, size, data, last):
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + data


def zst(data, window_log=17, checksum=None):
    """A frame of raw blocks, as RFC 8878 has it, with a content checksum."""
    blocks = [data[at:at + 65536] for at in range(0, len(data), 65536)] or [b""]
    body = b"".join(zstd_block(0, len(block), block, at == len(blocks) - 1) for at, block in enumerate(blocks))
    if checksum is None:
        checksum = xxh64(data) & 0xFFFFFFFF
    return b"\x28\xb5\x2f\xfd" + bytes([0x04, (window_log - 10) << 3]) + body + struct.pack("<I", checksum)


def zst_bomb(block_count):
    """Blocks of 128 KiB zeros in four bytes each."""
    blocks = b"".join(zstd_block(1, 131072, b"\0", at == block_count - 1) for at in range(block_count))
    return b"\x28\xb5\x2f\xfd" + bytes([0x00, 7 << 3]) + blocks


# --- zip ---------------------------------------------------------------------------------------------------

STORED, DEFLATED, ZSTANDARD = 0, 8, 93


def deflated(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


class Member:
    """A member of a zip; what is given beside name and data overrides the truth."""

    def __init__(self, name, data=b"data\n", method=STORED, mode=0o100644, **said):
        self.name, self.data, self.method, self.mode, self.said = name, data, method, mode, said
        self.packed = {STORED: lambda d: d, DEFLATED: deflated, ZSTANDARD: zst}.get(method, lambda d: d)(data)

    def local(self):
        flags = self.said.get("flags", 0x800)
        name = self.said.get("local_name", self.name)
        numbers = (zlib.crc32(self.data), len(self.packed), len(self.data))
        descriptor = b""
        if self.said.get("descriptor"):
            flags |= 8
            descriptor = b"PK\x07\x08" + struct.pack("<III", *numbers)
            numbers = (0, 0, 0)
        head = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 45, flags, self.method, 0, 0x21, *numbers,
                           len(name), 0)
        return head + name + self.packed + descriptor

    def central(self, offset):
        said = self.said
        flags = said.get("flags", 0x800) | (8 if said.get("descriptor") else 0)
        size = said.get("size", len(self.data))
        packed = said.get("packed", len(self.packed))
        offset = said.get("offset", offset)
        extra = b""
        if said.get("zip64"):
            extra = struct.pack("<HHQQQ", 1, 24, size, packed, offset)
            size = packed = offset = 0xFFFFFFFF
        head = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", said.get("made_by", 3 << 8 | 45), 45, flags,
                           said.get("said_method", self.method), 0, 0x21, said.get("crc", zlib.crc32(self.data)),
                           packed, size, len(self.name), len(extra), 0, said.get("disk", 0), 0,
                           self.mode << 16, offset)
        return head + self.name + extra


def zipped(*members, comment=b"", count=None, disk=0, zip64=False, gap=b""):
    body, directory = b"", b""
    for member in members:
        directory += member.central(len(body))
        body += member.local() + gap
    count = len(members) if count is None else count
    end = b""
    sizes = (count, count, len(directory), len(body))
    if zip64:
        end += struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, *sizes)
        end += struct.pack("<4sIQI", b"PK\x06\x07", 0, len(body) + len(directory), 1)
        sizes = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    end += struct.pack("<4sHHHHIIH", b"PK\x05\x06", disk, disk, *sizes, len(comment)) + comment
    return body + directory + end


# --- the corpus --------------------------------------------------------------------------------------------

EXPECTED, REFUSED = {}, []


def good(name, data, files, links=None, executables=(), directories=()):
    (GOOD / name).write_bytes(data)
    EXPECTED[name] = {
        "files": [{"file": path, "md5": hashlib.md5(content).hexdigest(), "size": len(content)}
                  for path, content in sorted(files.items())],
        "links": [{"file": path, "target": target} for path, target in sorted((links or {}).items())],
        "executables": sorted(executables),
        "directories": sorted(directories),
    }


def hostile(name, data, reason, member="-"):
    (HOSTILE / name).write_bytes(data)
    REFUSED.append((name, reason, member))


TEXT = b"".join(b"line %d of some text\n" % number for number in range(150))
SMALL = {"a": b"", "dir/b": b"data\n", "dir/sub/c": TEXT}
SMALL_TAR = (directory(b"dir/") + file(b"a", b"") + file(b"dir/b") + file(b"dir/sub/c", TEXT) + END)
DIRS = ["dir", "dir/sub"]


def make_good():
    good("ustar.tar", SMALL_TAR, SMALL, directories=DIRS)
    good("no-directories.tar", file(b"./dir/b") + file(b"a", b"") + file(b"dir/./sub//c", TEXT) + END, SMALL,
         directories=DIRS)
    good("empty.tar", END, {})
    good("one-zero-block.tar", file(b"a") + bytes(512), {"a": b"data\n"})
    good("padded.tar", file(b"a") + bytes(10240 - 1024), {"a": b"data\n"})
    good("directory-again.tar", directory(b"./") + directory(b"d") + file(b"d/a") + directory(b"d/") + END,
         {"d/a": b"data\n"}, directories=["d"])
    long = "long/" + "n" * 200 + "/" + "m" * 200
    good("gnu-long-name.tar", gnu_long(b"L", long.encode()) + file(long.encode()[:100]) + END,
         {long: b"data\n"}, directories=["long", "long/" + "n" * 200])
    good("ustar-prefix.tar", file(b"name", prefix=b"some/prefix") + END, {"some/prefix/name": b"data\n"},
         directories=["some", "some/prefix"])
    accented = "p\u00e4x/na\u00efve \u2713 name"
    good("pax.tar",
         pax([(b"comment", b"made by hand")], b"g")
         + pax([(b"path", accented.encode()), (b"size", b"5"), (b"mtime", b"1.5"),
                (b"SCHILY.xattr.user.x", b"\x00binary\nwith = and newline\n")])
         + header(b"short", 0) + padded(b"data\n") + END,
         {accented: b"data\n"}, directories=["p\u00e4x"])
    long_target = "d/" * 60 + "target"
    good("links.tar",
         directory(b"d") + file(b"d/file") + symlink(b"to-file", b"d/file") + symlink(b"d/up", b"../d/./file")
         + symlink(b"dangling", b"d/nothing") + symlink(b"to-dir", b"d") + hardlink(b"d/hard", b"./d/file")
         + hardlink(b"hard-too", b"d/hard") + gnu_long(b"K", long_target.encode())
         + symlink(b"long", long_target.encode()) + END,
         {"d/file": b"data\n", "d/hard": b"data\n", "hard-too": b"data\n"},
         {"to-file": "d/file", "d/up": "../d/./file", "dangling": "d/nothing", "to-dir": "d",
          "long": long_target}, directories=["d"])
    good("modes.tar",
         file(b"tool", mode=0o750) + file(b"secret", mode=0o600) + file(b"sticky", mode=0o1644)
         + header(b"shared", kind=b"5", mode=0o2777) + END,
         {"tool": b"data\n", "secret": b"data\n", "sticky": b"data\n"}, executables=["tool"],
         directories=["shared"])
    good("v7.tar", header(b"dir/", magic=b"") + file(b"dir/a", kind=b"\0", magic=b"") + END,
         {"dir/a": b"data\n"}, directories=["dir"])
    good("small.tar.gz", gz(SMALL_TAR), SMALL, directories=DIRS)
    good("small.tgz", gz(SMALL_TAR), SMALL, directories=DIRS)
    good("members.tar.gz", gz(SMALL_TAR[:700]) + gz(b"") + gz(SMALL_TAR[700:]), SMALL, directories=DIRS)
    good("padded.tar.gz", gz(SMALL_TAR) + bytes(600), SMALL, directories=DIRS)
    good("small.tar.zst", zst(SMALL_TAR), SMALL, directories=DIRS)
    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<I", 5) + b"skip!"
    good("frames.tar.zst", zst(SMALL_TAR[:700]) + skippable + zst(SMALL_TAR[700:]), SMALL, directories=DIRS)
    good("text.txt.gz", gz(TEXT), {"text.txt": TEXT})
    good("bgzf.fasta.gz", gz(TEXT[:3000]) + gz(TEXT[3000:]) + gz(b""), {"bgzf.fasta": TEXT})
    good("nothing.gz", gz(b""), {"nothing": b""})
    good("text.txt.zst", zst(TEXT), {"text.txt": TEXT})
    good("nothing.zst", zst(b""), {"nothing": b""})
    good("small.zip", zipped(Member(b"a", b""), Member(b"dir/", b"", mode=0o040755), Member(b"dir/b"),
                             Member(b"dir/sub/c", TEXT, DEFLATED)), SMALL, directories=DIRS)
    good("zstd.zip", zipped(Member(b"dir/sub/c", TEXT, ZSTANDARD), Member(b"dir/b", method=ZSTANDARD),
                            Member(b"a", b"", DEFLATED)), SMALL, directories=DIRS)
    good("stream.zip", zipped(Member(b"a", b"", descriptor=True), Member(b"dir/b", descriptor=True),
                              Member(b"dir/sub/c", TEXT, DEFLATED, descriptor=True)), SMALL, directories=DIRS)
    good("zip64.zip", zipped(Member(b"a", b"", zip64=True), Member(b"dir/b", zip64=True),
                             Member(b"dir/sub/c", TEXT, DEFLATED, zip64=True), zip64=True), SMALL,
         directories=DIRS)
    good("comment.zip", zipped(Member(b"a", b""), Member(b"dir/b"), Member(b"dir/sub/c", TEXT, DEFLATED),
                               comment=b"about PK\x05\x06 ends " * 5, gap=b"between"), SMALL, directories=DIRS)
    good("unix.zip", zipped(Member(b"d/tool", mode=0o100755), Member(b"link", b"d/tool", mode=0o120777),
                            Member(b"d/dos", mode=0, made_by=20), Member(b"sticky/", b"", mode=0o041777)),
         {"d/tool": b"data\n", "d/dos": b"data\n"}, {"link": "d/tool"}, executables=["d/tool"],
         directories=["d", "sticky"])
    good("empty.zip", zipped(), {})


def make_hostile_tar():
    one = file(b"first")
    named = {
        "absolute.tar": (b"/etc/escape", "absolute-path"),
        "parent.tar": (b"../escape", "parent-directory"),
        "parent-inside.tar": (b"a/../../escape", "parent-directory"),
        "dot.tar": (b"./.", "empty-name"),
        "no-name.tar": (b"", "empty-name"),
        "file-named-as-directory.tar": (b"a/", "empty-name"),
    }
    for name, (member, reason) in named.items():
        hostile(name, one + file(member) + END, reason, member.decode())
    hostile("not-utf8.tar", one + file(b"caf\xe9") + END, "not-utf8", "caf\ufffd")
    hostile("control.tar", one + file(b"a\nb") + END, "control-character", "a\\nb")
    hostile("escape-sequence.tar", one + file(b"a\x1b[2J") + END, "control-character", "a\\u{1b}[2J")
    hostile("zero-byte.tar", pax([(b"path", b"a\0b")]) + one + END, "zero-byte", "a\\0b")
    hostile("long-name.tar", gnu_long(b"L", b"n" * 256) + one + END, "name-too-long", "n" * 200 + "...")
    hostile("long-path.tar.gz", gz(gnu_long(b"L", b"nnnnnnn/" * 512 + b"x") + one + END), "path-too-long",
            "nnnnnnn/" * 25 + "...")
    hostile("deep.tar", gnu_long(b"L", b"d/" * 128 + b"x") + one + END, "too-deep", "d/" * 100 + "...")
    hostile("deep-directory.tar", gnu_long(b"L", b"d/" * 129) + directory(b"d") + END, "too-deep",
            "d/" * 100 + "...")
    hostile("pax-parent.tar", pax([(b"path", b"../escape")]) + one + END, "parent-directory", "../escape")
    hostile("directory-parent.tar", directory(b"../escape/") + END, "parent-directory", "../escape/")

    hostile("twice.tar", file(b"a") + file(b"./a") + END, "collision", "a")
    hostile("file-then-directory.tar", file(b"a") + directory(b"a/") + END, "collision", "a")
    hostile("directory-then-file.tar", directory(b"a/") + file(b"a") + END, "collision", "a")
    hostile("link-then-file.tar", symlink(b"a", b"b") + file(b"a") + END, "collision", "a")
    hostile("link-then-directory.tar", directory(b"b") + symlink(b"a", b"b") + directory(b"a") + END,
            "collision", "a")
    hostile("link-twice.tar", symlink(b"a", b"b") + symlink(b"a", b"c") + END, "collision", "a")
    hostile("below-file.tar", file(b"a") + file(b"a/b") + END, "below-file", "a/b")
    hostile("through-link.tar", directory(b"d") + symlink(b"l", b"d") + file(b"l/x") + END, "through-link", "l/x")
    hostile("through-link-deep.tar", symlink(b"d/l", b"..") + file(b"d/l/e/x") + END, "through-link", "d/l/e/x")
    hostile("through-dangling-link.tar", symlink(b"l", b"none") + file(b"l/x") + END, "through-link", "l/x")

    hostile("link-absolute.tar", symlink(b"l", b"/etc/passwd") + END, "link-absolute", "l")
    hostile("link-parent.tar", symlink(b"d/l", b"../../escape") + END, "link-leaves", "d/l")
    # By its text this stays inside: it takes the first link to leave.
    hostile("link-by-link.tar", symlink(b"a/b/c", b"../..") + symlink(b"out", b"a/b/c/../outside") + END,
            "link-leaves", "out")
    hostile("link-loop.tar", symlink(b"l", b"m") + symlink(b"m", b"l") + END, "link-unresolvable", "l")
    hostile("link-through-file.tar", file(b"f") + symlink(b"l", b"f/x") + END, "link-unresolvable", "l")
    hostile("link-to-nothing.tar", symlink(b"l", b"") + END, "empty-name", "l")
    hostile("link-control.tar", symlink(b"l", b"a\rb") + END, "control-character", "l")
    hostile("pax-link.tar", pax([(b"linkpath", b"../../etc")]) + symlink(b"l", b"fine") + END, "link-leaves", "l")
    hostile("hard-link-parent.tar", hardlink(b"h", b"../outside") + END, "parent-directory", "h")
    hostile("hard-link-absolute.tar", hardlink(b"h", b"/etc/passwd") + END, "absolute-path", "h")
    hostile("hard-link-to-nothing.tar", hardlink(b"h", b"later") + file(b"later") + END, "hard-link-target", "h")
    hostile("hard-link-to-itself.tar", hardlink(b"h", b"h") + END, "hard-link-target", "h")
    hostile("hard-link-to-link.tar", file(b"f") + symlink(b"l", b"f") + hardlink(b"h", b"l") + END,
            "hard-link-target", "h")
    hostile("hard-link-through-link.tar",
            file(b"d/f") + symlink(b"l", b"d") + hardlink(b"h", b"l/f") + END, "hard-link-target", "h")
    hostile("hard-link-to-directory.tar", directory(b"d") + hardlink(b"h", b"d") + END, "hard-link-target", "h")
    hostile("hard-link-over-file.tar", file(b"f") + file(b"h") + hardlink(b"h", b"f") + END, "collision", "h")

    hostile("character-device.tar", header(b"null", kind=b"3") + END, "device", "null")
    hostile("block-device.tar", header(b"sda", kind=b"4") + END, "device", "sda")
    hostile("fifo.tar", header(b"pipe", kind=b"6") + END, "fifo", "pipe")
    hostile("setuid.tar", file(b"su", mode=0o4755) + END, "set-id", "su")
    hostile("setgid.tar", file(b"sg", mode=0o2755) + END, "set-id", "sg")
    hostile("sparse-gnu.tar", header(b"holes", kind=b"S", magic=b"ustar  \0") + END, "sparse", "holes")
    hostile("sparse-pax.tar",
            pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.name", b"../x")]) + file(b"holes") + END,
            "sparse", "holes")
    hostile("volume.tar", header(b"label", kind=b"V", magic=b"ustar  \0") + END, "unknown-type", "label")

    hostile("global-path.tar", pax([(b"path", b"../all")], b"g") + one + END, "global-path", "PaxHeaders/x")
    hostile("pax-malformed.tar", header(b"PaxHeaders/x", 9, kind=b"x") + padded(b"99 path=a") + one + END,
            "damaged", "PaxHeaders/x")
    hostile("pax-size.tar", pax([(b"size", b"-5")]) + one + END, "damaged", "PaxHeaders/x")
    hostile("pax-alone.tar", pax([(b"path", b"a")]) + END, "damaged")
    hostile("pax-huge.tar", header(b"PaxHeaders/x", kind=b"x", size_field=b"77777777777\0") + END,
            "extension-too-long", "PaxHeaders/x")
    hostile("long-name-huge.tar", header(b"././@LongLink", kind=b"L", size_field=b"\x80" + b"\0" * 3 + b"\x7f" * 8)
            + END, "extension-too-long", "././@LongLink")
    hostile("size-huge.tar", header(b"big", size_field=b"\x80" + b"\0" * 3 + b"\x7f" * 8) + padded(b"x") + END,
            "truncated", "big")
    hostile("size-not-octal.tar", header(b"odd", size_field=b"9z9z9z9z9z9\0") + END, "damaged", "odd")
    broken = bytearray(one + END)
    broken[0] ^= 1
    hostile("header-checksum.tar", bytes(broken), "damaged")
    hostile("no-tar.tar", TEXT, "damaged")

    hostile("nothing.tar", b"", "truncated")
    hostile("cut-in-header.tar", one + file(b"second")[:300], "truncated")
    hostile("cut-in-member.tar", one + file(b"second", TEXT)[:1000], "truncated", "second")
    hostile("cut-in-padding.tar", one + file(b"second")[:600], "truncated", "second")
    hostile("cut-in-long-name.tar", gnu_long(b"L", b"n" * 700)[:900], "truncated", "././@LongLink")
    hostile("no-end.tar", one, "truncated")
    hostile("trailing.tar", one + END + b"more", "trailing-bytes")
    hostile("second-archive.tar", one + END + file(b"hidden") + END, "trailing-bytes")

    many = b"".join(file(b"f%d" % number, b"") for number in range(101))
    hostile("many.tar.gz", gz(many + END), "too-many-entries", "f100")
    hostile("many-directories.tar.gz", gz(directory(b"d") * 101 + END), "too-many-entries", "d")
    hostile("many-parents.tar", gnu_long(b"L", b"d/" * 60 + b"x") + one + gnu_long(b"L", b"e/" * 60 + b"x") + one
            + END, "too-many-entries", "e/" * 60 + "x")
    zeros = bytes(2 << 20)
    hostile("bomb.tar.gz", gz(one + file(b"zeros", zeros) + END), "too-large", "zeros")
    hostile("bomb-padding.tar.gz", gz(one + zeros), "too-large")
    hostile("bomb.tar.zst", zst(one + header(b"zeros", 16 << 20)) + zst_bomb(128), "too-large", "zeros")

    packed = gz(SMALL_TAR)
    hostile("trailing.tar.gz", packed + b"more", "trailing-bytes")
    hostile("trailing-after-zeros.tar.gz", packed + bytes(10) + b"more", "trailing-bytes")
    hostile("cut.tar.gz", packed[:len(packed) // 2], "truncated", "dir/sub/c")
    hostile("cut-in-trailer.tar.gz", packed[:-3], "truncated")
    hostile("crc.tar.gz", packed[:-8] + b"\0\0\0\0" + packed[-4:], "checksum")
    hostile("no-gzip.tar.gz", SMALL_TAR, "damaged")
    hostile("hidden.tar.gz", packed + gz(file(b"hidden") + END), "trailing-bytes")
    packed = zst(SMALL_TAR)
    hostile("trailing.tar.zst", packed + b"more", "trailing-bytes")
    hostile("cut.tar.zst", packed[:len(packed) // 2], "truncated", "dir/sub/c")
    hostile("cut-in-checksum.tar.zst", packed[:-2], "truncated")
    hostile("checksum.tar.zst", zst(SMALL_TAR, checksum=1), "checksum")
    hostile("window.tar.zst", zst(SMALL_TAR, window_log=28), "window-too-large")
    hostile("parent.tar.zst", zst(file(b"../escape") + END), "parent-directory", "../escape")
    hostile("nothing.tar.zst", b"", "truncated")


def make_hostile_single():
    hostile(".gz", gz(TEXT), "empty-name")
    hostile("...gz", gz(TEXT), "parent-directory")
    hostile("nothing.gz", b"", "truncated")
    hostile("no-gzip.gz", TEXT, "damaged")
    hostile("cut.gz", gz(TEXT)[:-9], "truncated")
    hostile("trailing.gz", gz(TEXT) + b"more", "trailing-bytes")
    hostile("crc.gz", gz(TEXT)[:-8] + bytes(8), "checksum")
    hostile("bomb.gz", gz(bytes(2 << 20)), "too-large", "bomb")
    hostile(".zst", zst(TEXT), "empty-name")
    hostile("nothing.zst", b"", "truncated")
    hostile("no-zstd.zst", TEXT, "damaged")
    hostile("cut.zst", zst(TEXT)[:-9], "truncated")
    hostile("checksum.zst", zst(TEXT, checksum=0), "checksum")
    hostile("window.zst", zst(TEXT, window_log=30), "window-too-large")
    hostile("bomb.zst", zst_bomb(64), "too-large", "bomb")


def make_hostile_zip():
    one = Member(b"first")
    named = {
        "absolute.zip": (b"/etc/escape", "absolute-path", "/etc/escape"),
        "parent.zip": (b"a/../../escape", "parent-directory", "a/../../escape"),
        "backslash.zip": (b"..\\escape", "backslash", "..\\\\escape"),
        "not-utf8.zip": (b"caf\x82", "not-utf8", "caf\ufffd"),
        "control.zip": (b"a\tb", "control-character", "a\\tb"),
        "no-name.zip": (b"", "empty-name", ""),
        "directory-parent.zip": (b"../escape/", "parent-directory", "../escape/"),
    }
    for name, (member, reason, shown) in named.items():
        hostile(name, zipped(one, Member(member)), reason, shown)
    hostile("twice.zip", zipped(Member(b"a"), Member(b"a")), "collision", "a")
    hostile("below-file.zip", zipped(Member(b"a"), Member(b"a/b")), "below-file", "a/b")
    hostile("setuid.zip", zipped(Member(b"su", mode=0o104755)), "set-id", "su")
    hostile("device.zip", zipped(Member(b"null", mode=0o020666)), "device", "null")
    hostile("fifo.zip", zipped(Member(b"pipe", mode=0o010666)), "fifo", "pipe")
    hostile("socket.zip", zipped(Member(b"sock", mode=0o140666)), "socket", "sock")
    hostile("type.zip", zipped(Member(b"odd", mode=0o150666)), "damaged", "odd")
    hostile("link-absolute.zip", zipped(Member(b"l", b"/etc/passwd", mode=0o120777)), "link-absolute", "l")
    hostile("link-parent.zip", zipped(Member(b"l", b"../outside", mode=0o120777)), "link-leaves", "l")
    hostile("link-long.zip", zipped(Member(b"l", b"a/" * 3000, DEFLATED, mode=0o120777)), "path-too-long", "l")
    hostile("through-link.zip", zipped(Member(b"l", b"d", mode=0o120777), Member(b"l/x")), "through-link", "l/x")

    hostile("encrypted.zip", zipped(one, Member(b"secret", flags=1)), "encrypted", "secret")
    hostile("method.zip", zipped(one, Member(b"bzip2", method=12)), "method", "bzip2")
    hostile("disks.zip", zipped(one, disk=1), "multi-disk")
    hostile("other-disk.zip", zipped(one, Member(b"far", disk=2)), "multi-disk", "far")
    hostile("same-bytes.zip", zipped(one, Member(b"first", offset=0)), "overlap", "first")
    # The inner member's header and bytes are the outer one's bytes, which begin after 30 + 5.
    hostile("overlap.zip", zipped(Member(b"outer", Member(b"inner").local()), Member(b"inner", offset=35)),
            "overlap", "inner")
    hostile("into-directory.zip", zipped(Member(b"a", packed=500, size=500)), "overlap", "a")
    hostile("other-name.zip", zipped(one, Member(b"shown", local_name=b"other")), "header-mismatch", "shown")
    hostile("other-method.zip", zipped(one, Member(b"shown", said_method=DEFLATED)), "header-mismatch", "shown")
    hostile("no-local-header.zip", zipped(one, Member(b"second", offset=7)), "overlap", "second")
    hostile("offset.zip", zipped(Member(b"only", offset=3)), "header-mismatch", "only")
    hostile("crc.zip", zipped(one, Member(b"wrong", crc=1)), "checksum", "wrong")
    hostile("crc-deflated.zip", zipped(one, Member(b"wrong", TEXT, DEFLATED, crc=1)), "checksum", "wrong")
    hostile("size-less.zip", zipped(one, Member(b"wrong", TEXT, DEFLATED, size=100)), "size-mismatch", "wrong")
    hostile("size-more.zip", zipped(one, Member(b"wrong", TEXT, DEFLATED, size=1 << 31)), "size-mismatch", "wrong")
    hostile("packed-less.zip", zipped(one, Member(b"wrong", TEXT, DEFLATED, packed=100)), "truncated", "wrong")
    hostile("packed-more.zip", zipped(one, Member(b"wrong", TEXT, DEFLATED, packed=len(deflated(TEXT)) + 3),
                                      gap=b"gap"), "size-mismatch", "wrong")
    hostile("deflate.zip", zipped(Member(b"odd", b"\xff" * 50, STORED)).replace(
        struct.pack("<HHHH", 45, 0x800, STORED, 0), struct.pack("<HHHH", 45, 0x800, DEFLATED, 0)), "damaged", "odd")
    hostile("bomb.zip", zipped(one, Member(b"zeros", bytes(2 << 20), DEFLATED)), "too-large", "zeros")
    hostile("bomb-link.zip", zipped(Member(b"l", bytes(2 << 20), DEFLATED, mode=0o120777)), "path-too-long", "l")
    hostile("many.zip", zipped(*(Member(b"f%d" % number, b"") for number in range(101))), "too-many-entries")
    hostile("count-less.zip", zipped(one, Member(b"hidden"), count=1), "damaged")
    hostile("count-more.zip", zipped(one, count=2), "damaged")
    whole = zipped(one, Member(b"dir/sub/c", TEXT, DEFLATED))
    hostile("cut.zip", whole[:-1], "no-directory")
    hostile("trailing.zip", whole + b"more", "no-directory")
    hostile("cut-at-front.zip", whole[10:], "damaged")
    hostile("no-zip.zip", TEXT, "no-directory")
    hostile("nothing.zip", b"", "no-directory")
    hostile("zip64-missing.zip", zipped(Member(b"a", size=0xFFFFFFFF)), "damaged", "a")


def main():
    for directory_ in (GOOD, HOSTILE):
        directory_.mkdir(exist_ok=True)
        for old in directory_.iterdir():
            old.unlink()
    make_good()
    make_hostile_tar()
    make_hostile_single()
    make_hostile_zip()
    (HERE / "good.json").write_text(json.dumps(EXPECTED, indent=1, sort_keys=True, ensure_ascii=True) + "\n")
    rows = ["file\treason\tmember"] + ["\t".join(row) for row in sorted(REFUSED)]
    (HERE / "hostile.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
