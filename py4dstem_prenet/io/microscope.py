"""Settings of the microscope that files state: voltage, camera length, day of the acquisition.

`open` keeps them in the `Metadata` "microscope" of the cube, in the units of the file; `transfer.conditions` compares
them.
"""

from __future__ import annotations

_OF_HYPERSPY = {  # name in the metadata of the cube: places in HyperSpy's metadata
    "beam_energy": (("Acquisition_instrument", "TEM", "beam_energy"), ("Acquisition_instrument", "SEM", "beam_energy")),
    "camera_length": (("Acquisition_instrument", "TEM", "camera_length"),),
    "date": (("General", "date"),),
}
_OF_DM = {  # and ends of the names of Gatan's tags
    "voltage": "Microscope Info.Voltage", "camera_length": "Microscope Info.STEM Camera Length",
    "date": "DataBar.Acquisition Date"}


def settings_of_hyperspy(metadata) -> dict:
    """Find settings in HyperSpy's metadata.

    Parameters
    ----------
    metadata : dict, h5py.Group or zarr.Group
        The metadata of a signal.

    Returns
    -------
    dict
        "beam_energy" (keV), "camera_length" (mm) and "date", as far as they are stated.

    Examples
    --------
    >>> settings_of_hyperspy({"Acquisition_instrument": {"TEM": {"beam_energy": 200.0}}})
    {'beam_energy': 200.0}
    """
    found: dict = {}
    for name, places in _OF_HYPERSPY.items():
        for *groups, key in places:
            node = metadata
            for group in groups:
                node = node[group] if node is not None and group in node else None
            values = getattr(node, "attrs", node)
            if values is not None and key in values and name not in found:
                value = _plain(values[key])
                found |= {} if value is None else {name: value}
    return found


def settings_of_dm(tags) -> dict:
    """Find settings in the tags of a Digital Micrograph file.

    Parameters
    ----------
    tags : dict
        Values by the full names of the tags.

    Returns
    -------
    dict
        "voltage" (V), "camera_length" (mm) and "date", as far as they are stated.

    Examples
    --------
    >>> settings_of_dm({".ImageList.2.ImageTags.Microscope Info.Voltage": 300000.0})
    {'voltage': 300000.0}
    """
    found = {}
    for name, end in _OF_DM.items():
        values = [_plain(value) for tag, value in tags.items() if str(tag).endswith(end)]
        values = [value for value in values if value is not None]
        if values:
            found[name] = values[-1]  # of the data; the first image is the thumbnail
    return found


def _plain(value):
    """Return a positive number or a text unchanged, None for anything else."""
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.strip() or None
    return float(value) if isinstance(value, int | float) and value > 0 else None
