"""What a case of the fault matrix is, and the bench on which it is tried: a folder of files, one of outputs."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scans import simulated

from py4dstem_prenet.core.errors import PrenetError

ROOT = Path(__file__).parents[2]
SCAN = dict(scan=(6, 6), shape=(64, 64), radius=5.0, dose=4000.0)  # what faults are put into
BRIGHT = SCAN | dict(dose=100_000.0)


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes
    ----------
    group, name, made : str
        Subject, name, and how the fault is made.
    outcome : str
        "refused", "warned" or "answered".
    flags : tuple of str
        Flags that the results must carry. A refused case without flags must raise PrenetError.
    run : callable
        Makes the fault on a bench, tries it, and asserts what is true of the result. Returns the errors or flags that
        the user gets, or a note for the documentation.
    """

    group: str
    name: str
    outcome: str
    made: str
    flags: tuple[str, ...]
    run: Callable[[Bench], list]

    @property
    def id(self):
        return re.sub(r"\W+", "-", f"{self.group} {self.name}".lower()).strip("-")

    def check(self, results):
        """Assert that the results are those of the table, and that each is told on one line."""
        assert results
        if self.flags:
            assert set(self.flags) <= {flag.name for flag in results}, results
        elif self.outcome == "refused":
            assert all(isinstance(error, PrenetError) for error in results), results
        assert not any("\n" in str(result) for result in results), results

    def sentence(self, results):
        """What the user reads, for the documentation."""
        if self.flags:
            flags = {flag.name: flag for flag in results}
            return " ".join(f"`{name}`: {flags[name]}" for name in self.flags)
        return str(results[0])


def into(cases):
    """A decorator that puts a run into a list of cases: case(group, name, outcome, made, *flags)(run)."""
    def case(group, name, outcome, made, *flags):
        def add(run):
            cases.append(Case(group, name, outcome, made, flags, run))
            return run
        return add
    return case


class Bench:
    """One try. given: a folder for input files; out: a folder for output; both are checked afterward."""

    def __init__(self, folder: Path):
        self.given, self.out = folder / "given", folder / "out"
        self.given.mkdir()
        self.out.mkdir()

    def files(self):
        """{path: SHA-256} of all that lies there."""
        return {path.relative_to(self.given.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(self.given.parent.rglob("*")) if path.is_file()}

    def told(self, error):
        """A PrenetError of the same type without the folders of this machine."""
        return type(error)(str(error).replace(f"{self.given.parent}/", "").replace(f"{ROOT}/", ""))

    def refuse(self, *calls, leaves=0):
        """The PrenetError that every call raises; files are unchanged, except for `leaves` new ones."""
        before, errors = self.files(), {}
        for call in calls:
            try:
                call()
            except PrenetError as error:
                errors[str(error)] = self.told(error)
            else:
                raise AssertionError("it was not refused")
        after = self.files()
        assert before.items() <= after.items() and len(after) == len(before) + leaves, (before, after)
        assert len(errors) == 1, errors
        return list(errors.values())

    def refused_data(self, data, **options):
        """The error with which calibrating and denoising refuse data, which stay unchanged."""
        cube = cube_of(data)
        before = state(cube)
        told = self.refuse(lambda: cube.prenet.calibrate(progress=False, **options),
                           lambda: cube.prenet.denoise(progress=False),
                           lambda: cube.prenet.denoise(out=self.out / "a.h5", progress=False))
        assert state(cube) == before
        return told

    def refused_mask(self, mask):
        cube = cube_of(scan().counts)
        before = state(cube)
        told = self.refuse(lambda: cube.prenet.calibrate(mask=mask, progress=False))
        assert state(cube) == before
        return told

    def nothing_found(self, data, **options):
        """The flags of a calibration that finds no beam, and therefore writes nothing."""
        cube = cube_of(data)
        before = state(cube)
        report = cube.prenet.calibrate(progress=False, **options)
        assert not report.origin.found and state(cube) == before and not self.files()
        return list(report.flags)

    def answered(self, data, truth, pixels, sigmas=4.0, mask=None, ellipse=True, clean=None):
        """The flags of a calibration whose fitted origin is right to `pixels`, within its stated sigmas.

        truth: qx0, qy0, a, b, theta. sigmas: error over sigma, rms. ellipse: whether an ellipse that is accepted is
        compared. clean: expected values, to which the denoised ones must be closer than the measured ones.
        """
        cube = cube_of(data)
        kept = digest(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            report = cube.prenet.calibrate(mask=mask, progress=False)
        origin, fit = report.origin, report.fit
        assert origin.found, origin.reason
        off = [getattr(origin, q) - truth[q] for q in ("qx0", "qy0")]
        ratio = [d / s for d, s in zip(off, (origin.sigma_qx0, origin.sigma_qy0), strict=True)]
        assert np.sqrt(np.mean(np.square(ratio)[:, origin.valid])) < sigmas
        assert np.median(np.hypot(*off)[origin.valid]) < pixels
        assert np.median(np.hypot(fit.qx0 - truth["qx0"], fit.qy0 - truth["qy0"])) < pixels
        if fit.accepted:
            np.testing.assert_array_equal(cube.calibration.get_origin()[0], fit.qx0)
        if ellipse and report.ellipse.accepted:
            e, t = report.ellipse, truth
            found, true = (((x["a"] / x["b"] - 1) * np.exp(2j * x["theta"])) for x in (vars(e), t))
            assert abs(found - true) < 4 * np.sqrt(np.linalg.eigvalsh(e.covariance).max())
        if clean is not None:
            result = np.asarray(cube.prenet.denoise(progress=False).data)
            assert result.dtype == np.float32 and np.isfinite(result).all()
            raw = np.asarray(data, np.float64)
            assert abs(result.sum(dtype=float) / raw.sum() - 1) < 1e-3  # the electrons are kept
            assert ((result - clean) ** 2).sum() < 0.5 * ((raw - clean) ** 2).sum()
        assert digest(data) == kept and not self.files()
        return list(report.flags)


def scan(**changes):
    return simulated(**(SCAN | changes))


def bright():
    return simulated(**BRIGHT)


def truth_of(part):
    """The truth of a part of the scan, a slice."""
    return {key: value[part] if np.ndim(value) == 2 else value for key, value in scan().truth.items()}


def cube_of(data):
    from py4DSTEM import DataCube

    return DataCube(data, name="scan")


def digest(data):
    return data.dtype, data.shape, hashlib.sha256(np.ascontiguousarray(data).view(np.uint8)).hexdigest()


def state(cube):
    """All of a cube that a call might change, as something to compare."""
    parameters = {key: np.asarray(value).tobytes() for key, value in cube.calibration._params.items()
                  if not key.startswith("_")}
    data = cube.data if cube.data.dtype != object else cube.data.astype(float)
    return digest(np.asarray(data)), parameters, set(cube.treekeys), set(cube.metadata)
