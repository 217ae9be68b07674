"""EMPAD files (`.raw`, or the `.xml` beside it): frames of 128 x 128 float32 pixels, and two rows of other numbers.

Rows and columns are as in the file, like in py4DSTEM and RosettaSciIO; the scan's slow axis is Rx. Raw files of
EMPAD-G2 hold counts of two gains that must be combined first, and are refused.
"""

import os
import xml.etree.ElementTree as ElementTree

import numpy as np

from ..core import Flag, PrenetError
from . import FileContents, PixelSizes, StatedShape, StoredArray, shapes_in_name

SIDE = 128  # pixels; side of a pattern
FRAME_BYTES = (SIDE + 2) * SIDE * 4  # bytes; size of a frame of EMPAD
G2_FRAME_BYTES = SIDE * SIDE * 4  # bytes; size of a frame of EMPAD-G2, which has no additional rows
_FRAME = np.dtype([("data", "<f4", (SIDE, SIDE)), ("footer", "<f4", (2, SIDE))])
assert _FRAME.itemsize == FRAME_BYTES


def read_empad(path) -> FileContents:
    """Find the frames of an EMPAD file.

    Parameters
    ----------
    path : pathlib.Path
        The `.raw` file, or the `.xml` that describes it.

    Returns
    -------
    FileContents
        Its frames.

    Raises
    ------
    PrenetError
        If the raw file is missing, of EMPAD-G2, or of another detector.
    """
    if path.suffix.lower() == ".xml":
        described = _Description(path)
        raw = path.with_name(described.raw_name or "?")
        if not raw.is_file():
            raise PrenetError(f"{path} describes the EMPAD file {raw.name}, which is not in the same folder; copy it "
                              "there.")
    else:
        raw, described = path, _description_of(path)
    size = os.path.getsize(raw)
    count, rest = divmod(size, FRAME_BYTES)
    _refuse_others(raw, size, described)
    flags = (Flag("frame_cut_short", {"frames": count}),) if rest else ()
    stated, sizes = (), PixelSizes()
    if described is not None:
        stated, sizes = described.stated, described.sizes
    if raw.stem != path.stem:
        stated = (*stated, *shapes_in_name(raw.stem))
    frames = np.memmap(raw, _FRAME, "r", shape=(count,))["data"]
    return FileContents("EMPAD", (StoredArray.of(frames, stated=stated, sizes=sizes, grows=True, flags=flags),))


def _refuse_others(raw, size, described):
    """Raise PrenetError for a raw file that is not of an EMPAD, which only its size shows."""
    named = [s.size for s in shapes_in_name(raw.stem)]
    is_g2 = size and size % G2_FRAME_BYTES == 0 and (size % FRAME_BYTES or size // G2_FRAME_BYTES in named)
    if is_g2 and size // FRAME_BYTES not in named:
        raise PrenetError(f"{raw} has the size of {size // G2_FRAME_BYTES} frames of 128 x 128 values without other "
                          "rows, as EMPAD-G2 writes them before their two gains are combined; convert it with the "
                          "package empad2 and save the result with numpy.save.")
    if raw.with_suffix(".rpl").is_file():
        raise PrenetError(f"{raw} is described by {raw.stem}.rpl in the same folder; open that file.")
    cut = raw.stem.startswith("scan_x") and any(known > size // FRAME_BYTES for known in named)  # an interrupted scan
    if size < FRAME_BYTES or (size % FRAME_BYTES and described is None and not cut):
        raise PrenetError(f"{raw} is not an EMPAD file: its {size} bytes are not whole frames of {FRAME_BYTES} "
                          "bytes; map the raw patterns of another detector with numpy.memmap and make a "
                          "py4DSTEM.DataCube.")


def _description_of(raw):
    """Return the xml file that names a raw file in the same folder, or None."""
    candidates = [raw.with_suffix(".xml"), *sorted(raw.parent.glob("*.xml"))[:100]]
    for path in dict.fromkeys(p for p in candidates if p.is_file()):
        try:
            described = _Description(path)
        except PrenetError:
            continue
        if described.raw_name == raw.name:
            return described
    return None


class _Description:
    """Contents of the xml file of EMPAD's software."""

    def __init__(self, path):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError, UnicodeDecodeError) as error:
            raise PrenetError(f"{path} is not complete XML ({error}).") from error
        raw = root.find(".//raw_file")
        self.raw_name = None if raw is None else raw.get("filename")
        if not self.raw_name:
            raise PrenetError(f"{path} does not describe an EMPAD file.")
        self.raw_name = self.raw_name.replace("\\", "/").rsplit("/", 1)[-1]
        self.root = root
        self.stated = self._stated()
        self.sizes = self._sizes()

    def _number(self, name):
        for element in self.root.iter(name):
            try:
                return float((element.text or "").strip())
            except ValueError:
                continue
        return None

    def _element(self, *tags):
        """The first element with one of some tags; None if there is none."""
        return next((element for element in self.root.iter() if element.tag in tags), None)

    def _stated(self):
        columns, rows = self._number("pix_x"), self._number("pix_y")
        found = shapes_in_name(self.raw_name.rsplit(".", 1)[0])
        if columns and rows:
            found = [StatedShape(int(rows), int(columns), "the .xml")]
        return tuple(found)

    def _sizes(self):
        """Compute pixel sizes like RosettaSciIO: the field of view over the longer side of the scan."""
        scan, pattern = (), ()
        pixel = self._number("calibrated_pixelsize")
        if pixel:
            pattern = ((pixel * 1e9, "1/nm"),)
        shape = self.stated[0] if len(self.stated) == 1 else None
        old = self._element("optics.get_full_scan_field_of_view", "get_full_scan_field_of_view")
        new = self._element("full_scan_field_of_view")
        try:
            if shape is None:
                return PixelSizes(scan, pattern)
            if old is not None and old.text:
                x, y = (float(part) for part in old.text.strip(" ()[]").split(","))
                scan = ((y / shape.rows, "m"), (x / shape.columns, "m"))
            elif new is not None:
                view, factor = (float(new.findtext(name)) for name in ("x", "scale_factor"))
                scan = ((view / factor / max(shape.rows, shape.columns), "m"),)
        except (TypeError, ValueError, ZeroDivisionError):
            scan = ()
        return PixelSizes(scan, pattern)
