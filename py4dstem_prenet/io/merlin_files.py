"""Merlin files (`.mib`) of Quantum Detectors, in all counting modes.

Every frame has a header of its own that states its shape, type and chips, so a file is read without its `.hdr`; that
states the shape of the scan if the scan engine told it. Neither RosettaSciIO nor py4DSTEM reads all headers that Merlin
has written: one needs those of 2019 and later, the other full frames. The pixels have the order of the file, as in
py4DSTEM; RosettaSciIO's reader turns patterns upside down.
"""

import os

import numpy as np

from ..core import Flag, PrenetError
from . import FileContents, StatedShape, StoredArray, period_of_gaps

CHIP = 256  # pixels; side of a Medipix chip
_TYPES = {"U08": ">u1", "U16": ">u2", "U32": ">u4", "U64": ">u8"}
_RAW_GROUP_BYTES = 8  # bytes; size of the words of a raw file, in which the order of bytes is reversed
_RAW_TYPES = {1: np.uint8, 6: np.uint8, 12: np.uint16, 24: np.uint32}


class _Header:
    """Contents of the header of a frame."""

    def __init__(self, text, path):
        fields = [field.strip() for field in text.split(",")]
        try:
            self.length, self.chips = int(fields[2]), int(fields[3])
            columns, rows, self.type, self.layout = int(fields[4]), int(fields[5]), fields[6], fields[7]
            valid = self.length > 0 and columns > 0 and rows > 0 and (self.type in _TYPES or self.type == "R64")
        except (ValueError, IndexError):
            valid = False
        if not valid:
            raise PrenetError(f"{path} does not begin with the header of a Merlin frame; it is damaged, or not a "
                              "Merlin file.")
        self.stored = (rows, columns)
        self.raw = self.type == "R64"
        self.depth = _raw_depth(text) if self.raw else None

    @property
    def frame(self):
        """Type of the pixels of a frame as they are stored."""
        if not self.raw:
            return np.dtype((_TYPES[self.type], self.stored))
        bits = {24: 32}.get(self.depth, {6: 8, 12: 16}.get(self.depth, self.depth))
        return np.dtype(("u1", (self.stored[0] * self.stored[1] * bits // 8,)))


def _raw_depth(text):
    """Read the bits of a raw frame: the last number of the extended header, or the 19th field of older headers."""
    fields = [field.strip("\0 ") for field in text.split(",")]
    after = [k for k, field in enumerate(fields) if field.startswith("MQ1")][1:]
    for at in (after[0] + 3 if after else -1, 18):
        if 0 < at < len(fields) and fields[at].isdecimal() and int(fields[at]) in _RAW_TYPES:
            return int(fields[at])
    return None


def _time(fields):
    """Read the time of a frame, nanoseconds; None if it cannot be read."""
    for field in (*(f for f in fields[11:] if f.endswith("Z") and "T" in f), fields[9] if len(fields) > 9 else ""):
        try:
            return int(np.datetime64(field.rstrip("Z").replace(" ", "T"), "ns").astype(np.int64))
        except ValueError:
            continue
    return None


def read_merlin(path) -> FileContents:
    """Find the frames of a Merlin file.

    Parameters
    ----------
    path : pathlib.Path
        The `.mib` file; a `.hdr` of the same name is read if there is one.

    Returns
    -------
    FileContents
        Its frames.

    Raises
    ------
    PrenetError
        If the file holds no whole frame, frames of several shapes, or an arrangement of chips that is not known.
    """
    with path.open("rb") as file:
        begin = file.read(4096)
    header = _Header(begin[:384].decode("latin-1"), path)
    header = _Header(begin[: header.length].decode("latin-1"), path)
    if header.raw:
        _check_raw(header, path)
    record = np.dtype([("header", "S", header.length), ("data", header.frame)])
    count, rest = divmod(os.path.getsize(path), record.itemsize)
    if not count:
        raise PrenetError(f"{path} ends within its first frame.")
    frames = np.memmap(path, record, "r", shape=(count,))
    _check_last(frames, header, path)
    flags = (Flag("frame_cut_short", {"frames": count}),) if rest else ()
    stated = _stated(path, record.itemsize, header.length, count)
    bits = f"{header.depth}-bit raw" if header.raw else header.type
    kind = f"Merlin, {header.layout}, {bits}"
    if not header.raw:
        return FileContents(kind, (StoredArray.of(frames["data"], stated=stated, grows=True, flags=flags),))
    shape = _raw_shape(header)
    array = StoredArray((count, *shape), np.dtype(_RAW_TYPES[header.depth]), lambda: _decoded(frames["data"], header),
                        stated=stated, grows=True, flags=flags, compression="raw words of 64 bits")
    return FileContents(kind, (array,))


def _check_last(frames, header, path):
    """Raise PrenetError if the last frame does not begin where it should: frames differ in size."""
    last = _Header(frames["header"][-1].decode("latin-1"), path)
    if (last.stored, last.type, last.length) != (header.stored, header.type, header.length):
        raise PrenetError(f"{path} holds frames of several shapes or types, so it is not a scan.")


def _stated(path, step, length, count):
    """Find shapes of the scan in the `.hdr`, and from the pauses at the ends of rows."""
    found = []
    values = _hdr(path)
    if {"ScanX", "ScanY"} <= set(values):
        found.append(StatedShape(values["ScanY"], values["ScanX"], "the .hdr"))
    frames_stated, per_trigger = values.get("Frames in Acquisition"), values.get("Frames per Trigger")
    if not found and frames_stated and per_trigger and 1 < per_trigger < frames_stated and not (
            frames_stated % per_trigger):
        found.append(StatedShape(frames_stated // per_trigger, per_trigger, "the .hdr"))
    if not found:
        times = []
        with path.open("rb") as file:  # a memory map would keep pages of all frames in memory
            for k in range(min(count, 4096)):  # enough to find the ends of scan rows
                file.seek(k * step)
                times.append(_time([f.strip("\0 ") for f in file.read(length).decode("latin-1").split(",")]))
        # Nanoseconds, the resolution of the times in headers.
        columns = None if None in times else period_of_gaps(np.array(times), 20)
        if columns and count % columns == 0:
            found.append(StatedShape(count // columns, columns, "the time between frames", certain=False))
    return tuple(found)


def _hdr(path):
    """Read the whole numbers in the .hdr beside a file, by the name before its parentheses."""
    beside = next((p for p in (path.with_suffix(end) for end in (".hdr", ".HDR")) if p.is_file()), None)
    if beside is None:
        return {}
    found = {}
    for line in beside.read_text(encoding="latin-1").splitlines():
        key, _, value = line.partition("\t")
        if value.strip().isdecimal() and int(value) > 0:
            found[key.split("(")[0].strip(" :")] = int(value)
    return found


# --- raw frames ---------------------------------------------------------------------------------------------
def _check_raw(header, path):
    """Raise PrenetError for raw frames whose arrangement is not known."""
    chips = header.chips
    known = header.depth in _RAW_TYPES and (chips == 1 or (chips == 4 and header.layout.startswith("2x2")
                                                           and header.depth != 24))
    whole = header.stored[1] % CHIP == 0 and header.stored[0] * header.stored[1] % (CHIP * chips) == 0
    if not known or not whole:
        raise PrenetError(f"{path} holds raw frames of {chips} Merlin chips ({header.layout}, {header.depth} bits), "
                          "whose arrangement is not known here; save them as processed frames in Merlin's software, or "
                          "convert them with LiberTEM.")


def _raw_shape(header):
    rows, columns = header.stored
    if header.chips == 1:
        return rows, columns
    return 2 * rows, 2 * CHIP


def _decoded(stored, header):
    """Return frames of raw words as pixels, which are decoded when they are computed."""
    import dask.array

    shape, dtype = _raw_shape(header), np.dtype(_RAW_TYPES[header.depth])
    step = max(1, 2**24 // (shape[0] * shape[1] * dtype.itemsize))
    words = dask.array.from_array(stored, chunks=(step, *stored.shape[1:]))
    return words.map_blocks(_decode, header.depth, header.stored, header.chips, dtype=dtype,
                            chunks=(words.chunks[0], (shape[0],), (shape[1],)), new_axis=2,
                            meta=np.empty((0, 0, 0), dtype))


def _decode(words, depth, stored, chips):
    """Decode pixels of raw frames: bytes are in reverse within words of 64 bits, and chips lie side by side.

    Sources: the comments on raw formats in LiberTEM's `io/dataset/mib.py`.
    """
    rows, columns = stored
    count = len(words)
    if depth == 1:
        bits = np.unpackbits(words.reshape(count, -1, _RAW_GROUP_BYTES)[..., ::-1], axis=-1, bitorder="little")
        pixels = bits.reshape(count, rows, columns)
    elif depth == 6:
        pixels = words.reshape(count, -1, _RAW_GROUP_BYTES)[..., ::-1].reshape(count, rows, columns)
    else:
        values = np.ascontiguousarray(words).view(">u2").reshape(count, -1, _RAW_GROUP_BYTES // 2)[..., ::-1]
        if depth == 12:
            pixels = values.reshape(count, rows, columns).astype(np.uint16)
        else:  # two counters of 12 bits, the upper one first
            upper, lower = values.reshape(count, 2, rows, columns).astype(np.uint32).swapaxes(0, 1)
            pixels = (upper << 12) + lower
    if chips == 1:
        return np.ascontiguousarray(pixels)
    side = pixels.reshape(count, rows, chips, CHIP)  # chips 4, 3, 2, 1; the lower two are turned by 180 degrees
    top = np.concatenate([side[:, :, 3], side[:, :, 2]], axis=-1)
    bottom = np.concatenate([side[:, ::-1, 1, ::-1], side[:, ::-1, 0, ::-1]], axis=-1)
    return np.concatenate([top, bottom], axis=1)
