"""Calibration where LiberTEM reads the data: its data sets, its clusters, and detectors' streams (LiberTEM-live).

    ctx = libertem.api.Context()
    report = calibrate_dataset(ctx, ctx.load("auto", path), out="calibration.h5")

does for a LiberTEM data set what `calibrate` does for a DataCube, on LiberTEM's workers. A stream comes by only
once, so what there is to be learned is learned from an earlier scan over the same field of view, of fewer positions
perhaps:

    learned = learn(ctx, survey)
    for partial in ctx.run_udf_iter(acquisition, learned.origin_udf(acquisition.shape.nav)):
        origin = learned.origin(partial.buffers[0])    # as known so far
    report = learned.calibrate(partial.buffers[0], out="calibration.h5")

LiberTEM's (y, x) axes of navigation and signal are (Rx, Ry) and (Qx, Qy) here. Needs the extra `libertem`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from py4DSTEM import DataCube
from scipy.ndimage import map_coordinates

from .compute import pick_device
from .core import OriginMap, PrenetError, Sample, reading
from .detector import estimate_noise
from .ellipse import judge
from .fits import KEPT_BYTES, Plan, Pooled, plan, pooled_positions
from .io import check_output, emd_files
from .networks import load
from .origin import Beam, Located, check_mask, find_beam, fit_origin, from_rings, origin_of
from .pipeline import CalibrationReport, check_networks, judge_scan, write

try:
    from libertem.udf import UDF
except ImportError as error:
    raise ImportError("LiberTEM is not installed; pip install 'py4dstem_prenet[libertem]'.") from error


def calibrate_dataset(ctx, dataset, out=None, mask=None, device="auto", progress=False) -> CalibrationReport:
    """Calibrate a LiberTEM data set: the report that `calibrate` would give for the same data.

    LiberTEM's workers read all frames once for the origin, and those that are pooled (some thousand of a large
    scan) again for the ellipse; about a thousand frames come to this process, from which the beam is learned.

    Args:
        ctx: a `libertem.api.Context`, not an asynchronous one.
        dataset: a data set with two axes of navigation and two of signal.
        out: a new EMD file for the calibration, as `save(data=False)` writes it; `load_calibration` reads it. It is not
            written where no beam was found.
        mask: (Qx, Qy) bool, True where a detector pixel is good.
        device: "auto", "cpu", "cuda" or "mps", on each worker.
        progress: show LiberTEM's progress bars.

    Raises:
        PrenetError: data that cannot be calibrated, a file that exists, no weights, a device that is not there.
    """
    data = DatasetArray(ctx, dataset)
    check_networks(device)
    if out is not None:
        check_output(out)
    noise = _noise(data, mask)
    beam, guess, reason = find_beam(data, noise, device)
    if beam is None:
        origin = from_rings(data, noise, reason)
    else:
        noise = beam.noise
        guess = guess.reshape(*data.shape[:2], 2)
        udf = Learned(beam, guess)._udf(guess, np.zeros(data.shape[:2], bool))
        origin = origin_of(data, noise, _located(ctx.run_udf(dataset, udf, progress=progress))[0], beam)
    fit = ellipse = None
    if origin.found:
        fit = fit_origin(origin)
        pooling = Pooling(plan(data.shape, fit.qx0, fit.qy0, noise, origin.valid), data.shape[:2])
        pooled = pooling.pooled(ctx.run_udf(dataset, pooling.udf(), roi=pooling.roi(), progress=progress))
        ellipse = judge(load("ellipse", pick_device(device)), pooled, origin.radius, noise)
    return _written(data, origin, fit, ellipse, noise, device, out)


def learn(ctx, dataset, mask=None, device="auto") -> Learned:
    """Learn detector and beam from about a thousand frames of a data set. Arguments as for `calibrate_dataset`.

    Raises PrenetError where no direct beam can be seen.
    """
    data = DatasetArray(ctx, dataset)
    check_networks(device)
    beam, guess, reason = find_beam(data, _noise(data, mask), device)
    if beam is None:
        raise PrenetError(f"There is no direct beam to learn from. {reason}")
    return Learned(beam, guess.reshape(*data.shape[:2], 2))


@dataclass(frozen=True)
class Learned:
    """What one scan says of those to come: the beam, with the detector's noise, and a guess of the descan.

    guess: (Rx, Ry, 2), origins (qx0, qy0) in pixels at the positions of the scan that it was learned from.
    """

    beam: Beam
    guess: np.ndarray

    def guess_at(self, scan):
        """(Rx, Ry, 2): the guess for a scan of another number of positions over the same field of view."""
        where = np.meshgrid(*[((np.arange(n) + 0.5) * m / n - 0.5).clip(0, m - 1)
                              for n, m in zip(scan, self.guess.shape[:2], strict=True)], indexing="ij")
        return np.stack([map_coordinates(self.guess[..., k], where, order=1) for k in (0, 1)], -1)

    def origin_udf(self, scan=None) -> OriginUDF:
        """The UDF for a data set of `scan` = (Rx, Ry) positions over the same field of view; None = as many.

        It keeps an even sample of the frames, 512 MB at most, for the ellipse.
        """
        guess = self.guess_at(scan or self.guess.shape[:2])
        count = guess.shape[0] * guess.shape[1]
        keep = pooled_positions(np.ones(count, bool), guess.shape[:2], self.beam.noise.dose)
        most = max(1, KEPT_BYTES // (4 * self.beam.noise.bad_pixels.size))
        if len(keep) > most:
            keep = keep[np.linspace(0, len(keep) - 1, most).astype(int)]
        return self._udf(guess, np.isin(np.arange(count), keep))

    def _udf(self, guess, keep):
        return OriginUDF(where=_of_frames(np.dstack([guess, keep.reshape(guess.shape[:2])])), beam=self.beam)

    def origin(self, result) -> OriginMap:
        """The `OriginMap` of the UDF's result, a partial one too: positions that have not come are not valid."""
        return self._origin(result)[0]

    def calibrate(self, result, out=None) -> CalibrationReport:
        """The report on the UDF's result. out: as for `calibrate_dataset`."""
        if out is not None:
            check_output(out)
        device = self.beam.device
        origin, sample = self._origin(result)
        fit, ellipse = judge_scan(sample, sample, origin, self.beam.noise, device, progress=False)
        return _written(sample, origin, fit, ellipse, self.beam.noise, device, out)

    def _origin(self, result):
        """The `OriginMap`, and what was kept."""
        found, known = _located(result)
        kept = np.ravel(result["kept"].data)
        at = np.array([k for k, frame in enumerate(kept) if isinstance(frame, np.ndarray)], int)
        scan = result["qx0"].data.shape
        if len(at):
            sample = Sample(scan, at, list(kept[at]))
        else:
            sample = np.broadcast_to(np.uint8(0), (*scan, *self.beam.noise.bad_pixels.shape))
        return origin_of(sample, self.beam.noise, found, self.beam, known), sample


class DatasetArray:
    """A LiberTEM data set as an array (Rx, Ry, Qx, Qy) that this package reads; LiberTEM runs a UDF for each block.

    Good for samples, and for what has no UDF of its own: `DataCube(DatasetArray(ctx, dataset)).prenet.denoise(out)`.
    Raises PrenetError where the axes are not two and two, and as `batches.check`.
    """

    def __init__(self, ctx, dataset):
        dims = dataset.shape.nav.dims, dataset.shape.sig.dims
        if dims != (2, 2):
            raise PrenetError(f"The data set has {dims[0]} axes of navigation and {dims[1]} of signal, not two and "
                              "two; load it with nav_shape=(rows, columns).")
        self.shape = tuple(int(n) for n in dataset.shape)
        self.ndim = 4
        self.dtype = np.dtype(dataset.dtype)
        self._ctx, self._dataset = ctx, dataset
        reading.check(self)

    def read_at(self, rows, columns):
        """(n, Qx, Qy), the patterns at these scan positions, (n,) each, in their order."""
        scan = self.shape[:2]
        wanted, order = np.unique(np.ravel_multi_index((rows, columns), scan), return_inverse=True)
        roi = np.zeros(scan, bool)
        roi.flat[wanted] = True
        picked = self._ctx.run_udf(self._dataset, _Pick(), roi=roi)["patterns"].raw_data
        return picked[order]

    def __getitem__(self, key):
        """Patterns, or parts of them; key: slices or whole numbers, of the scan's axes first."""
        key = key if isinstance(key, tuple) else (key,)
        rows, columns = (np.arange(n)[part] for n, part in zip(self.shape, (*key, ...)[:2], strict=False))
        at = np.meshgrid(rows, columns, indexing="ij")
        patterns = self.read_at(*(a.ravel() for a in at)) if at[0].size else np.zeros((0, *self.shape[2:]), self.dtype)
        patterns = patterns.reshape(*rows.shape, *columns.shape, *self.shape[2:])
        return patterns[(*[slice(None)] * (rows.ndim + columns.ndim), *key[2:])]


class _Pick(UDF):
    """Frames as they are. (LiberTEM's own PickUDF holds all of them once for every partition.)"""

    def get_preferred_input_dtype(self):
        return self.USE_NATIVE_DTYPE

    def get_result_buffers(self):
        shape = tuple(self.meta.dataset_shape.sig)
        return {"patterns": self.buffer(kind="nav", extra_shape=shape, dtype=self.meta.input_dtype)}

    def process_frame(self, frame):
        self.results.patterns[:] = frame


class _Blocks(UDF):
    """Collects the frames of a partition and works on blocks of them, as large as `batches.patterns` makes them.

    LiberTEM gives whole frames one by one, or a whole partition, which may be most of a worker's memory.
    """

    def get_preferred_input_dtype(self):
        return self.USE_NATIVE_DTYPE

    def get_task_data(self):
        shape = tuple(self.meta.dataset_shape.sig)
        size = min(max(1, reading.BLOCK_BYTES // (4 * prod(shape))), self.meta.partition_shape[0])
        return {"block": np.empty((size, *shape), self.meta.input_dtype), "rows": []}

    def collect(self, frame, row):
        """Take a frame, and what is known of its position; work on the block when it is full."""
        self.task_data.block[len(self.task_data.rows)] = frame
        self.task_data.rows.append(np.array(row))
        if len(self.task_data.rows) == len(self.task_data.block):
            self.flush_block()

    def flush_block(self):
        rows = self.task_data.rows
        if rows:
            block = self.task_data.block[: len(rows)]
            if block.dtype.kind == "f" and not np.isfinite([block.min(), block.max()]).all():
                raise PrenetError("The data contain NaN or infinite values; replace them first.")
            self.work(block, np.array(rows))
            rows.clear()

    def postprocess(self):
        self.flush_block()


class OriginUDF(_Blocks):
    """Locates the direct beam in every frame; `Learned.origin_udf` makes one, `Learned.origin` reads its result.

    Channels, one value a frame: qx0, qy0, in pixels; sigma_qx0, sigma_qy0, of electron counting alone, infinite where
    nothing says; signal, electrons in the window of the disk; seen, False where what is there has no place; known,
    False for frames that have not come; kept, an object, the frame itself where it was asked for.
    """

    def __init__(self, where, beam):  # where: of each frame, a guess of its origin, and 1 if it is to be kept
        super().__init__(where=where, beam=beam)

    def get_task_data(self):
        return {**super().get_task_data(), "found": [], "kept": []}

    def get_result_buffers(self):
        kinds = dict.fromkeys(("qx0", "qy0", "sigma_qx0", "sigma_qy0", "signal"), np.float64)
        kinds |= {"seen": bool, "known": bool, "kept": object}
        return {name: self.buffer(kind="nav", dtype=dtype) for name, dtype in kinds.items()}

    def process_frame(self, frame):
        self.task_data.kept.append(np.array(frame) if self.params.where[2] else 0)
        self.collect(frame, self.params.where[:2])

    def work(self, block, rows):
        self.task_data.found.append(self.params.beam.locate(block, rows))

    def postprocess(self):
        super().postprocess()
        for k, frame in enumerate(self.task_data.kept):
            self.results.kept[k] = frame
        done = 0
        for found in self.task_data.found:  # in the order of the partition's frames, as LiberTEM hands them on
            part = slice(done, done := done + len(found.seen))
            results = self.results
            results.qx0[part], results.qy0[part] = found.position.T
            results.sigma_qx0[part], results.sigma_qy0[part] = found.sigma.T
            results.signal[part], results.seen[part], results.known[part] = found.signal, found.seen, True


@dataclass(frozen=True)
class Pooling:
    """Recentered frames summed on LiberTEM's workers. plan: of `pooling.plan`. scan: (Rx, Ry)."""

    plan: Plan
    scan: tuple[int, int]

    def roi(self):
        """(Rx, Ry) bool: the positions that are pooled; the UDF leaves the others out if they come."""
        roi = np.zeros(self.scan, bool)
        roi.flat[self.plan.chosen] = True
        return roi

    def udf(self) -> PoolUDF:
        part = np.where(self.roi().ravel(), self.plan.part, -1)
        where = np.column_stack([self.plan.origin, part]).reshape(*self.scan, 3)
        return PoolUDF(where=_of_frames(where), add=self.plan.add, parts=self.plan.parts, frame=self.plan.frame.shape)

    def pooled(self, result) -> Pooled:
        """What `pooling.pool` gives, from the UDF's result."""
        sums, weights = result["sums"].data, result["weights"].data
        return self.plan.total([dict(enumerate(zip(sums, weights, strict=True)))])


class PoolUDF(_Blocks):
    """Sums recentered frames; `Pooling` makes one, and reads its result.

    Channels: sums, in electrons, and weights, how many frames cover a pixel, (parts, Hx, Hy) float32 each.
    """

    def __init__(self, where, add, parts, frame):  # where: of each frame its origin, and its part or -1
        super().__init__(where=where, add=add, parts=parts, frame=frame)

    def get_result_buffers(self):
        shape = (self.params.parts, *self.params.frame)
        return {name: self.buffer(kind="single", extra_shape=shape, dtype=np.float32) for name in ("sums", "weights")}

    def process_frame(self, frame):
        if self.params.where[2] >= 0:
            self.collect(frame, self.params.where)

    def work(self, block, rows):
        pieces = self.params.add(np.arange(len(block)), block, rows[:, :2], rows[:, 2].astype(int))
        for part, (total, weight) in pieces.items():
            self.results.sums[part] += total
            self.results.weights[part] += weight

    def merge(self, dest, src):
        dest.sums[:] += src.sums
        dest.weights[:] += src.weights


def _located(result):
    """What was located, flat over the scan, and (Rx * Ry,) bool, where anything was looked at."""
    at = {name: np.ravel(result[name].data) for name in result}
    position, sigma = (np.stack([at[f"{which}qx0"], at[f"{which}qy0"]], 1) for which in ("", "sigma_"))
    return Located(position, sigma, at["signal"], at["seen"].astype(bool)), at["known"].astype(bool)


def _of_frames(values):
    """A parameter of a UDF with a row for each frame, from (Rx, Ry, n)."""
    return UDF.aux_data(values.ravel(), kind="nav", extra_shape=values.shape[2:], dtype=values.dtype)


def _written(data, origin, fit, ellipse, noise, device, out):
    cube = DataCube(np.broadcast_to(np.zeros((), data.dtype), data.shape))  # a shape, to hold the calibration
    report = write(cube, origin, fit, ellipse, noise, device)
    if out is not None and origin.found:
        emd_files.save(cube, out, data=False)
    return report


def _noise(data, mask):
    check_mask(data, mask)
    return estimate_noise(data, mask=mask)
