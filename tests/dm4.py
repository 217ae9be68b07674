"""A minimal writer of Digital Micrograph 4 files: a 4D-STEM scan beside the thumbnail that Gatan's software adds.

A file is a tree of tags; numbers that describe the tree are big-endian, 64 bits wide, and values are little-endian.
What readers look at is in ImageList: for each image its DataType (a number), Dimensions (the fastest one first), Data,
and the Calibrations of the axes; in ImageTags is what the acquisition adds.
"""

import struct

import numpy as np

GROUP, TAG = 20, 21
CODES = {"int16": 2, "uint16": 4, "uint32": 5, "float32": 6, "bool": 8, "uint8": 10}  # of values
ARRAY = 20
IMAGES = {"int16": 1, "float32": 2, "uint8": 6, "uint16": 10}  # DataType
THUMBNAIL = 23


def write_dm4(path, data, swapped=True, units=("1/nm", "1/nm", "nm", "nm"), microscope=None):
    """Write an array (Rx, Ry, Qx, Qy), or a stack (n, Qx, Qy).

    swapped: the tag "Data Order Swapped" by which newer software says that patterns lie one after another; None: no
    such tag. units: of the axes, the fastest one first. microscope: tags of its settings.
    """
    tags = {"Format": "Diffraction image"} | ({} if swapped is None else {"Data Order Swapped": np.bool_(swapped)})
    tags = {"Meta Data": tags} | ({} if microscope is None else {"Microscope Info": microscope})
    images = [_image(np.zeros((8, 8), np.uint32), THUMBNAIL, ["", ""], {}),
              _image(data, IMAGES[data.dtype.name], units[: data.ndim], tags)]
    body = _group({"ImageList": images, "Thumbnails": [{"ImageIndex": np.uint32(0)}]})
    with open(path, "wb") as file:
        file.write(struct.pack(">IQI", 4, len(body) + 8, 1) + body + bytes(8))


def _image(data, number, units, tags):
    axes = [{"Origin": np.float32(0), "Scale": np.float32(0.1), "Units": unit} for unit in units]
    brightness = {"Origin": np.float32(0), "Scale": np.float32(1), "Units": ""}
    return {"ImageData": {"Calibrations": {"Brightness": brightness, "Dimension": axes}, "Data": data,
                          "DataType": np.uint32(number), "Dimensions": [np.uint32(n) for n in data.shape[::-1]],
                          "PixelDepth": np.uint32(data.itemsize)},
            "ImageTags": tags, "Name": "scan"}


def _group(content):
    """A group of tags: a dict, or a list of tags without names."""
    tags = content.items() if isinstance(content, dict) else (("", value) for value in content)
    return struct.pack(">BBQ", 1, 0, len(content)) + b"".join(_tag(name, value) for name, value in tags)


def _tag(name, value):
    group = isinstance(value, dict | list)
    body = _group(value) if group else _value(value)
    return struct.pack(">BH", GROUP if group else TAG, len(name)) + name.encode() + struct.pack(">Q", len(body)) + body


def _value(value):
    if isinstance(value, str):
        value = np.frombuffer(value.encode("utf-16-le"), np.uint16)
    info = [CODES[value.dtype.name]] if value.ndim == 0 else [ARRAY, CODES[value.dtype.name], value.size]
    return b"%%%%" + struct.pack(f">{1 + len(info)}Q", len(info), *info) + value.tobytes()
