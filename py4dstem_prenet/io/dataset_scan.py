"""LiberTEM data sets as scans. Needs the extra `libertem`."""

from __future__ import annotations

import numpy as np

from ..core import PrenetError, Scan, as_scan

try:
    from libertem.udf import UDF
except ImportError as error:
    raise ImportError("LiberTEM is not installed; pip install 'py4dstem_prenet[libertem]'.") from error


class DatasetScan(Scan):
    """A LiberTEM data set as a scan; LiberTEM runs a UDF for each block.

    `DataCube(DatasetScan(ctx, dataset)).prenet.denoise(out)` also works on it.

    Parameters
    ----------
    ctx : libertem.api.Context
        A synchronous context.
    dataset : libertem.io.dataset.base.DataSet
        A data set with two axes of navigation and two of signal.

    Raises
    ------
    PrenetError
        The axes are not two and two, or as `as_scan`.
    """

    ndim = 4  # as of an array, for DataCube

    def __init__(self, ctx, dataset):
        dims = dataset.shape.nav.dims, dataset.shape.sig.dims
        if dims != (2, 2):
            raise PrenetError(f"The data set has {dims[0]} axes of navigation and {dims[1]} of signal, not two and "
                              "two; load it with nav_shape=(rows, columns).")
        shape = tuple(int(n) for n in dataset.shape)
        self.scan_shape, self.pattern_shape, self.dtype = shape[:2], shape[2:], np.dtype(dataset.dtype)
        as_scan(np.broadcast_to(np.zeros((), self.dtype), shape))  # refuses what cannot be calibrated
        self._ctx, self._dataset = ctx, dataset

    def read_points(self, rows, columns, key):
        """Read patterns at single positions; see `Scan`.

        Parameters
        ----------
        rows, columns : ndarray of int, shape (n,)
            Scan positions.
        key : object
            Not used.

        Returns
        -------
        ndarray, shape (n, Qx, Qy)
            The patterns.
        """
        requested, order = np.unique(rows * self.scan_shape[1] + columns, return_inverse=True)
        roi = np.zeros(self.scan_shape, bool)
        roi.flat[requested] = True
        return self._ctx.run_udf(self._dataset, _Pick(), roi=roi)["patterns"].raw_data[order]


class _Pick(UDF):
    """UDF that returns frames unchanged; LiberTEM's own PickUDF holds all of them once for every partition."""

    def get_preferred_input_dtype(self):
        return self.USE_NATIVE_DTYPE

    def get_result_buffers(self):
        shape = tuple(self.meta.dataset_shape.sig)
        return {"patterns": self.buffer(kind="nav", extra_shape=shape, dtype=self.meta.input_dtype)}

    def process_frame(self, frame):
        self.results.patterns[:] = frame
