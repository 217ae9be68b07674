"""Pixel sizes that a file states, in the units of py4DSTEM: "A" or "nm" in the scan, "A^-1" or "mrad" in patterns."""

import math
import re
from dataclasses import dataclass

from ..core import Flag

MAX_RELATIVE_DIFFERENCE = 1e-3  # relative; largest difference of the sizes of two axes that are taken as equal
_LENGTHS = {"A": (1, "A"), "pm": (0.01, "A"), "nm": (1, "nm"), "um": (1e3, "nm"), "mm": (1e6, "nm"), "cm": (1e7, "nm"),
            "m": (1e9, "nm")}  # factor and unit of py4DSTEM
_RECIPROCAL = {"A": 1.0, "pm": 100.0, "nm": 0.1, "um": 1e-4, "m": 1e-10}  # 1/Å
_ANGLES = {"mrad": 1.0, "rad": 1e3, "urad": 1e-3, "deg": 1e3 * math.pi / 180}  # mrad


@dataclass(frozen=True)
class PixelSizes:
    """Pixel sizes of each axis, as stated by a file.

    Attributes
    ----------
    scan, pattern : tuple of (float, str)
        Size and unit of each axis, slow axis first; empty if the file states none.
    camera_length : float or None
        Meters, if the file states it.
    """

    scan: tuple = ()
    pattern: tuple = ()
    camera_length: float | None = None

    def in_units_of_py4dstem(self):
        """Convert the sizes.

        Returns
        -------
        sizes : dict
            {"R" or "Q": (size, unit)} of what is known.
        flags : list of Flag
            Flags on sizes that were left out or cannot be converted.

        Examples
        --------
        >>> PixelSizes((), ((0.5, "1/nm"), (0.5, "1/nm"))).in_units_of_py4dstem()[0]
        {'Q': (0.05, 'A^-1')}
        """
        sizes, flags = {}, []
        for space, axes in (("R", self.scan), ("Q", self.pattern)):
            axes = [(abs(float(size)), plain_unit(unit)) for size, unit in axes if _is_size(size)]
            if not axes or axes[0][1] == "":
                continue
            size, unit = axes[0]
            converted = self._scan_unit(size, unit) if space == "R" else self._pattern_unit(size, unit)
            if converted is None:
                flags.append(Flag("pixel_size_unknown", {"space": space, "size": size, "unit": unit}))
                continue
            sizes[space] = converted
            if space == "Q" and converted[1] not in ("A^-1", "mrad"):
                flags.append(Flag("pixel_size_on_camera", {"size": size, "unit": unit}))
            other_size = axes[-1][0]
            if axes[-1][1] == unit and abs(other_size - size) > MAX_RELATIVE_DIFFERENCE * size:
                flags.append(Flag("pixel_sizes_differ", {"space": space, "first": size, "second": other_size,
                                                         "unit": unit}))
        return sizes, flags

    def _scan_unit(self, size, unit):
        factor, name = _LENGTHS.get(unit, (None, None))
        return None if factor is None else (size * factor, name)

    def _pattern_unit(self, size, unit):
        if unit.startswith("1/") and unit[2:] in _RECIPROCAL:
            return size * _RECIPROCAL[unit[2:]], "A^-1"
        if unit in _ANGLES:
            return size * _ANGLES[unit], "mrad"
        if unit in ("um", "mm", "cm", "m"):  # a length at the camera; nm and less are of the specimen
            if self.camera_length:
                return 1e3 * math.atan(size * _LENGTHS[unit][0] * 1e-9 / self.camera_length), "mrad"
            return size, unit
        return None


def plain_unit(unit) -> str:
    """Spell a unit in one way.

    Parameters
    ----------
    unit : str, bytes or None
        As a file spells it.

    Returns
    -------
    str
        Such as "nm", "1/nm", "mrad"; empty for pixels and for no unit.

    Examples
    --------
    >>> [plain_unit(u) for u in ("[n_m]", "nm^-1", "1 / nm", "Å⁻¹", "px", "µm")]
    ['nm', '1/nm', '1/nm', '1/A', '', 'um']
    """
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit or "")
    text = re.sub(r"[\s_\[\]]", "", text).replace("⁻¹", "^-1").replace("μ", "u").replace("µ", "u")
    text = re.sub("å|ångström|angstroms?|ang$", "A", text.replace("Å", "A").replace("Å", "A"), flags=re.IGNORECASE)
    inverse = re.fullmatch(r"(?:1/)(.+)|(.+?)\^?\(?-1\)?", text)
    if inverse:
        text = "1/" + (inverse[1] or inverse[2])
    words = {"a": "A", "1/a": "1/A", "micron": "um", "nanometer": "nm", "meter": "m", "degrees": "deg", "degree": "deg",
             "°": "deg", "px": "", "pixel": "", "pixels": "", "none": "", "<undefined>": "", "undefined": "", "1": ""}
    return words.get(text.lower(), text)


def _is_size(size):
    try:
        return math.isfinite(float(size)) and float(size) != 0
    except (TypeError, ValueError):
        return False


def write_pixel_sizes(calibration, pixel_sizes):
    """Write pixel sizes into a calibration.

    Parameters
    ----------
    calibration : py4DSTEM.Calibration
        The calibration of a cube.
    pixel_sizes : PixelSizes
        As the file states them.

    Returns
    -------
    list of Flag
        Flags on sizes that were left out or cannot be converted.
    """
    sizes, flags = pixel_sizes.in_units_of_py4dstem()
    for space, (size, unit) in sizes.items():
        # py4DSTEM's setter refuses lengths on the camera, which are told by a flag.
        calibration._params[f"{space}_pixel_size"] = float(size)
        calibration._params[f"{space}_pixel_units"] = unit
    calibration.calibrate()  # updates the axes of the cube
    return flags
