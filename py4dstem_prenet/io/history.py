"""Authors of the entries of a calibration, and their values before this package last wrote them.

Before this package writes, the entries that it changes are kept in the `Metadata` "prenet_before" of the cube, which is
saved with it, so that `undo` restores them; those of earlier changes are in "prenet_before_2" and so on. Entries that
were changed by hand since are left as they are.
"""

from __future__ import annotations

import copy
import hashlib
import json
from contextlib import contextmanager

import numpy as np

from ..core import PrenetError
from . import BEFORE, ENTRIES, PROVENANCE, all_or_none, calibration_of, signatures, to_json

USER, PRENET, STANDARD, OTHER = "hand", "prenet", "a standard", "hand or another program"  # authors of entries

MAX_UNDONE = 4  # changes of a cube; most that are kept, each with the maps that it replaced

_TOGETHER = (  # names that are restored together, or not at all
    ("a", "b", "theta"), ("qx0", "qy0", "qx0_mean", "qy0_mean", "qx0_shift", "qy0_shift"),
    ("qx0_meas", "qy0_meas", "origin_meas_mask"), ("QR_rotation", "QR_rotation_degrees", "QR_flip"),
    ("Q_pixel_size", "Q_pixel_units"))


def author_of(datacube, entry: str) -> str | None:
    """Find the author of an entry of a calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    entry : {"origin_meas", "origin", "ellipse", "pixel_size", "rotation"}
        The entry.

    Returns
    -------
    str or None
        "prenet": measured by this package in this scan; "a standard": carried over by it from another scan; "hand":
        an argument of `calibrate`; "hand or another program": set without this package. None if the entry is not set.

    Examples
    --------
    >>> import numpy as np
    >>> from py4DSTEM import DataCube
    >>> datacube = DataCube(np.ones((2, 2, 32, 32), np.uint8))
    >>> datacube.calibration.set_ellipse((1.02, 0.98, 0.3))
    >>> author_of(datacube, "ellipse"), author_of(datacube, "origin")
    ('hand or another program', None)
    """
    values = {} if datacube.calibration is None else datacube.calibration._params
    if any(values.get(name) is None for name in ENTRIES[entry][:1]):
        return None
    signature = signatures(datacube).get(entry, {})
    return signature.get("author", PRENET) if signature.get("unchanged") else OTHER


def is_kept(datacube, entry: str) -> bool:
    """Return whether an entry is by another author than this package, and for data of this shape.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    entry : {"origin_meas", "origin", "ellipse", "pixel_size", "rotation"}
        The entry.

    Returns
    -------
    bool
        True if `calibrate` keeps it unless asked to replace it.
    """
    if author_of(datacube, entry) in (None, PRENET):
        return False
    values = [datacube.calibration._params.get(name) for name in ENTRIES[entry]]
    if entry.startswith("origin"):  # maps of another scan, and places outside the pattern, are out of date
        inside = all(np.shape(v) in ((), tuple(datacube.Rshape)) and np.isfinite(v).all() and
                     -0.5 <= np.min(v) and np.max(v) <= n - 0.5 for v, n in zip(values, datacube.Qshape, strict=True))
        return bool(inside)
    return all(np.shape(v) in ((), tuple(datacube.Rshape)) for v in values)


@contextmanager
def undoable(datacube):
    """Keep the values that the block changes in the calibration, tree and metadata of a cube, for `undo`.

    If the block is left by an exception, all of its changes are undone at once (`all_or_none`).

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Yields
    ------
    None
        The block writes into the cube.
    """
    from py4DSTEM import Probe, RealSlice

    params = dict(calibration_of(datacube)._params)
    tree, record = dict(datacube._branch._dict), datacube.metadata.get(PROVENANCE)
    with all_or_none(datacube):
        yield
        now = datacube.calibration._params
        # Only named entries; those with an underscore are paths in the tree.
        changed = [key for key in {**params, **now} if not key.startswith("_")
                   and _digest(params.get(key)) != _digest(now.get(key))]
        attached = [name for name in datacube._branch._dict
                    if datacube._branch._dict[name] is not tree.get(name) and isinstance(
                        datacube._branch._dict[name], RealSlice | Probe)]
        if not changed and not attached:
            return
        kept = {"absent": json.dumps([key for key in changed if key not in params]),
                "wrote": json.dumps({key: _digest(now.get(key)) for key in changed}),
                "attached": json.dumps(attached)}
        kept |= {f"value {key}": copy.deepcopy(params[key]) for key in changed if params.get(key) is not None}
        for name in attached:
            earlier = tree.get(name)
            if isinstance(earlier, RealSlice | Probe):
                kept[f"map {name}"] = np.array(earlier.data)
            if isinstance(earlier, RealSlice):
                kept[f"labels {name}"] = json.dumps(list(map(str, earlier.slicelabels)))
            elif isinstance(earlier, Probe):
                kept[f"optics {name}"] = json.dumps(to_json([earlier.alpha, earlier.origin]))
        if record is not None:
            kept["provenance"] = record["json"]
        earlier = [datacube.metadata[name]._params for name in _kept_changes(datacube)]
        _keep_changes(datacube, [kept, *earlier][:MAX_UNDONE])


def undo(datacube) -> tuple[str, ...]:
    """Restore the calibration of a cube as it was before the last change by this package.

    Maps of sigma, the probe and the provenance are restored as well. Entries that were changed after that, by hand or
    by another program, are not touched. Further calls undo earlier changes; the last four are kept.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube, or one that was saved and read again.

    Returns
    -------
    tuple of str
        Names of the entries of the calibration that were restored.

    Raises
    ------
    PrenetError
        If nothing was written, or all that is kept was undone already.

    Examples
    --------
    >>> import numpy as np
    >>> from py4DSTEM import DataCube
    >>> from py4dstem_prenet.io import undo, undoable
    >>> datacube = DataCube(np.ones((2, 2, 32, 32), np.uint8))
    >>> with undoable(datacube):
    ...     datacube.calibration.set_ellipse((1.02, 0.98, 0.3))
    >>> sorted(undo(datacube)), datacube.calibration.get_ellipse()
    (['a', 'b', 'theta'], None)
    """
    from py4DSTEM import Metadata, Probe, RealSlice

    names = _kept_changes(datacube)
    if not names and (datacube.metadata.get(PROVENANCE) is not None or signatures(datacube)):
        raise PrenetError(f"There is nothing to undo: the last {MAX_UNDONE} changes are kept, and they were undone "
                          "already. If this cube was cropped, binned or denoised, call undo() of the cube that was "
                          "calibrated.")
    if not names:
        raise PrenetError("There is nothing to undo: this package has written nothing into this cube, or that was "
                          "undone already.")
    kept, *earlier = [datacube.metadata[name]._params for name in names]
    absent = set(json.loads(kept["absent"]))
    params, restored = datacube.calibration._params, []
    with all_or_none(datacube):
        wrote = json.loads(kept["wrote"])
        changed = {key for key, digest in wrote.items() if _digest(params.get(key)) != digest}
        changed |= {key for names in _TOGETHER if changed & set(names) for key in names}
        for key in wrote:
            if key in changed:  # since then
                continue
            restored.append(key)
            if key in absent:
                params.pop(key, None)
            else:
                params[key] = copy.deepcopy(kept.get(f"value {key}"))
        for name in json.loads(kept["attached"]):
            datacube._branch._dict.pop(name, None)
            if f"optics {name}" in kept:
                probe = Probe(np.array(kept[f"map {name}"]), name=name)
                probe.alpha, probe.origin = json.loads(kept[f"optics {name}"])
                datacube.attach(probe)
            elif f"map {name}" in kept:
                datacube.attach(RealSlice(np.array(kept[f"map {name}"]), name=name,
                                          slicelabels=json.loads(kept[f"labels {name}"])))
        datacube._metadata.pop(PROVENANCE, None)
        if "provenance" in kept:
            datacube.metadata = Metadata(PROVENANCE, {"json": kept["provenance"]})
        _keep_changes(datacube, earlier)
        datacube.calibration.calibrate()  # updates the axes of the cube
    return tuple(restored)


def _kept_changes(datacube):
    """Names of the metadata that hold the kept changes, the latest first."""
    names = (BEFORE, *(f"{BEFORE}_{number}" for number in range(2, MAX_UNDONE + 1)))
    return [name for name in names if name in datacube.metadata]


def _keep_changes(datacube, changes):
    """Replace the kept changes of a cube."""
    from py4DSTEM import Metadata

    for name in _kept_changes(datacube):
        del datacube._metadata[name]
    for number, change in enumerate(changes, 1):
        datacube.metadata = Metadata(BEFORE if number == 1 else f"{BEFORE}_{number}", dict(change))


def _digest(value):
    """Hash a value of a calibration; numbers, tuples, lists and arrays of the same values have the same hash."""
    if value is None or isinstance(value, str | dict):
        text = json.dumps(value, sort_keys=True, default=str)
    else:
        values = np.asarray(value, dtype=np.float64)
        text = f"{values.shape} {values.tobytes().hex()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
