"""Calibration of many files, one after another; an interrupted run continues where it stopped.

Each calibrated file contains its row of the summary in the provenance. A file whose result is in the folder is skipped.
A file that cannot be calibrated does not stop the series.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from inspect import signature
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core import PrenetError
from ..io import (
    check_output,
    first_line,
    make_folder,
    open as open_scan,
    open_calibrated,
    read_provenance,
    save,
    to_json,
    write_provenance,
)
from ..pipeline import calibrate, check_networks
from ..transfer import conditions_of, read_standard
from . import FileOutcome, Series, outcome_of, read_summary, write_summaries

ENDING = "_calibrated.h5"


def calibrate_files(paths, folder, *, like=None, data=True, scan_shape=None, device="auto", progress=True,
                    **settings) -> Series:
    """Calibrate many files into a folder, with one summary as CSV and HTML.

    A file that was calibrated into this folder before with the same settings is skipped. The same call therefore
    continues an interrupted series, and more files can be added. A file that cannot be calibrated is listed with the
    reason, and the next call tries it again.

    Parameters
    ----------
    paths : iterable of str or path-like
        The files, in the order of the series.
    folder : str or path-like
        The folder for the results, made if it does not exist: NAME_calibrated.h5 for each file, summary.csv and
        summary.html.
    like : DataCube, str or path-like, optional
        A calibrated standard, whose results are carried over to all files (`calibrate`).
    data : bool, optional
        Whether to save the patterns with the calibrations.
    scan_shape : tuple of int, optional
        (Rx, Ry) of all scans, if the files do not contain it.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar over the files.
    **settings
        Additional arguments of `calibrate`, such as center, model or transfer.

    Returns
    -------
    Series
        Outcome of each file.

    Raises
    ------
    PrenetError
        If there are no files, two results would have the same name, the folder contains different files with the names
        of the results or results with different settings, the standard cannot be used, or weights are missing.

    Examples
    --------
    >>> from pathlib import Path
    >>> series = calibrate_files(sorted(Path("session").glob("*.h5")), "calibrated", like="gold.h5")  # doctest: +SKIP
    >>> series.complete  # doctest: +SKIP
    True
    """
    if not data and settings.get("write") is False:
        raise PrenetError("Nothing would be saved; leave write= out.")
    if "write" in settings:
        raise PrenetError("A series writes its results into the folder; write= cannot be given.")
    sources, folder = [Path(path) for path in paths], Path(folder)
    outputs = _outputs(sources, folder)
    table, page = folder / "summary.csv", folder / "summary.html"
    record = _record(settings | {"scan_shape": scan_shape, "data": data}, like)
    check_networks(device)
    earlier = read_summary(table, page)
    finished = [_done_before(source, output, record) if output.exists() else None
              for source, output in zip(sources, outputs, strict=True)]
    make_folder(folder)
    outcomes = {outcome.output: outcome for outcome in earlier}  # a file that is tried again keeps its place
    for source, output, done in tqdm(list(zip(sources, outputs, finished, strict=True)), desc="series", unit=" files",
                                     disable=not progress):
        outcomes[output] = done or _outcome(source, output, record, like, data, scan_shape, device, settings)
        write_summaries(tuple(outcomes.values()), table, page)
    return Series(folder, tuple(outcomes[output] for output in outputs), table, page)


def _outputs(sources, folder):
    """Names of the results; files with the same name get the name of their folder as a prefix."""
    if not sources:
        raise PrenetError("There are no files to calibrate.")
    if folder.exists() and not folder.is_dir():
        raise PrenetError(f"{folder} is a file; the results of several files go into a folder.")
    count = Counter(source.stem for source in sources)
    names = [source.stem if count[source.stem] == 1 else f"{source.resolve().parent.name}_{source.stem}"
             for source in sources]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise PrenetError(f"Several files would be saved as {twice[0]}{ENDING}; calibrate them into two folders.")
    return [folder / f"{name}{ENDING}" for name in names]


def _record(settings, like):
    """Settings of a series as text, to determine whether a result was made with the same settings."""
    defaults = {name: parameter.default for name, parameter in signature(calibrate).parameters.items()} | {"data": None}
    plain = {name: _shown(value) for name, value in settings.items() if value is not defaults.get(name)
             and not (isinstance(value, str | bool | int | float) and value == defaults.get(name))}
    if like is not None:
        plain["like"] = read_standard(like).sha256
    return json.dumps(to_json(plain), sort_keys=True)


def _shown(value):
    if isinstance(value, np.ndarray) and value.size > 16:
        return [list(value.shape), float(np.sum(value))]
    return str(value) if isinstance(value, slice | tuple) else value


def _outcome(source, output, record, like, data, scan_shape, device, settings):
    """Calibrate one file; errors are reported in its row."""
    start = time.monotonic()
    try:
        check_output(output)
        datacube = open_scan(source, scan_shape)
        report = calibrate(datacube, device=device, progress=False, like=like, **settings)
        row = outcome_of(datacube, report, conditions_of(datacube).date)
        row |= {"seconds": round(time.monotonic() - start, 2), "file": source.name, "output": output.name,
                "state": "calibrated" if report.origin.found else "refused"}
        if report.origin.found:
            provenance = read_provenance(datacube)
            provenance["series"] = {"source": str(source.resolve()), "settings": record, "row": row}
            write_provenance(datacube, provenance)
            save(datacube, output, data=data)
        close = getattr(getattr(datacube.data, "file", None), "close", None)
        if close is not None:
            close()
        return FileOutcome(source, output, row["state"], row)
    except PrenetError as error:
        return _failed(source, output, str(error), start)
    except Exception as error:  # no error of a single file may stop the series
        return _failed(source, output, f"{type(error).__name__}: {first_line(error)}", start)


def _failed(source, output, problem, start):
    row = {"file": source.name, "state": "failed", "light": "red", "seconds": round(time.monotonic() - start, 2),
           "output": output.name, "problem": problem}
    return FileOutcome(source, output, "failed", row)


def _done_before(source, output, record):
    """Outcome of an existing result; raise PrenetError if it belongs to a different file or different settings.

    Existing results are never replaced.
    """
    kept = (read_provenance(open_calibrated(output)) or {}).get("series")
    if kept is None or kept["source"] != str(source.resolve()):
        raise PrenetError(f"{output} exists and is not the calibration of this file; choose another folder.")
    if kept["settings"] != record:
        raise PrenetError(f"{output} was made with other settings; choose another folder.")
    return FileOutcome(source, output, "done before", kept["row"] | {"state": "done before"})
