"""Locate the beam on the workers of LiberTEM, frame by frame. Needs the extra `libertem`."""

from __future__ import annotations

import numpy as np

from ..core import BLOCK_BYTES, PrenetError, SampledScan, all_finite
from ..origin import Beam, Located

try:
    from libertem.udf import UDF
except ImportError as error:
    raise ImportError("LiberTEM is not installed; pip install 'py4dstem_prenet[libertem]'.") from error


class OriginUDF(UDF):
    """Locate the direct beam in every frame; `Learned.origin_udf` makes one, `Learned.origin` reads its result.

    LiberTEM gives frames one by one; they are collected into blocks, as large as other scans are read in.

    Result channels, one value a frame: qx0, qy0, in pixels; sigma_qx0, sigma_qy0, of electron counting alone; signal,
    electrons in the window of the disk; seen, False if no beam could be located; known, False for frames that have not
    been processed; kept, an object, the frame itself if it is to be kept.

    Parameters
    ----------
    frames : libertem.common.buffers.AuxBufferWrapper
        (3,) of each frame: a guess of its origin, and 1 if it is to be kept.
    beam : Beam
        The learned beam.
    """

    def __init__(self, frames, beam):
        super().__init__(frames=frames, beam=beam)

    @classmethod
    def of(cls, guess, kept, beam: Beam) -> OriginUDF:
        """Make the UDF for a scan.

        Parameters
        ----------
        guess : numpy.ndarray
            (Rx, Ry, 2), a guess of the origins, pixels.
        kept : numpy.ndarray
            (Rx, Ry) bool, frames to keep.
        beam : Beam
            The learned beam.

        Returns
        -------
        OriginUDF
            The UDF.
        """
        frames = np.dstack([guess, kept])
        return cls(UDF.aux_data(frames.ravel(), kind="nav", extra_shape=frames.shape[2:], dtype=frames.dtype), beam)

    def get_preferred_input_dtype(self):
        return self.USE_NATIVE_DTYPE

    def get_task_data(self):
        shape = tuple(self.meta.dataset_shape.sig)
        size = min(max(1, BLOCK_BYTES // (4 * shape[0] * shape[1])), self.meta.partition_shape[0])
        return {"block": np.empty((size, *shape), self.meta.input_dtype), "guess": [], "found": [], "kept": []}

    def get_result_buffers(self):
        kinds = dict.fromkeys(("qx0", "qy0", "sigma_qx0", "sigma_qy0", "signal"), np.float64)
        kinds |= {"seen": bool, "known": bool, "kept": object}
        return {name: self.buffer(kind="nav", dtype=dtype) for name, dtype in kinds.items()}

    def process_frame(self, frame):
        task = self.task_data
        task.kept.append(np.array(frame) if self.params.frames[2] else 0)
        task.block[len(task.guess)] = frame
        task.guess.append(np.array(self.params.frames[:2]))
        if len(task.guess) == len(task.block):
            self._locate_block()

    def _locate_block(self):
        task = self.task_data
        if task.guess:
            block = task.block[: len(task.guess)]
            block[:, self.params.beam.noise.bad_pixels] = 0  # may hold NaN
            if not all_finite(block):
                raise PrenetError("The data contain NaN or infinite values; replace them first.")
            task.found.append(self.params.beam.locate(block, np.array(task.guess)))
            task.guess.clear()

    def postprocess(self):
        self._locate_block()
        for k, frame in enumerate(self.task_data.kept):
            self.results.kept[k] = frame
        results, done = self.results, 0
        for found in self.task_data.found:  # in the order of the partition's frames, as LiberTEM hands them on
            part = slice(done, done + len(found.found))
            done = part.stop
            results.qx0[part], results.qy0[part] = found.position.T
            results.sigma_qx0[part], results.sigma_qy0[part] = found.sigma.T
            results.signal[part], results.seen[part], results.known[part] = found.signal, found.found, True


def read_result(result) -> tuple[Located, np.ndarray, SampledScan | None]:
    """Read the result of an `OriginUDF`, a partial one too.

    Parameters
    ----------
    result : dict
        The UDF's result buffers.

    Returns
    -------
    located : Located
        Position and sigma of each frame, flat over the scan.
    known : numpy.ndarray
        (Rx * Ry,) bool, frames that were processed.
    kept : SampledScan or None
        Frames that were kept; None if none has come.
    """
    channels = {name: np.ravel(result[name].data) for name in result}
    position, sigma = (np.stack([channels[f"{kind}qx0"], channels[f"{kind}qy0"]], 1) for kind in ("", "sigma_"))
    index = np.array([k for k, frame in enumerate(channels["kept"]) if isinstance(frame, np.ndarray)], int)
    kept = SampledScan(result["qx0"].data.shape, index, list(channels["kept"][index])) if len(index) else None
    return (Located(position, sigma, channels["signal"], channels["seen"].astype(bool)),
            channels["known"].astype(bool), kept)
