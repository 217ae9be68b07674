"""What a type checker must know of the public interface (`make types`). It is not run."""

from typing import TYPE_CHECKING

import py4dstem_prenet
from py4dstem_prenet.accessor import PrenetAccessor
from py4dstem_prenet.core import Ellipse, OriginFit, OriginMap, Rotation
from py4dstem_prenet.pipeline import CalibrationReport

if TYPE_CHECKING:
    from typing_extensions import assert_type


def calibrated(prenet: PrenetAccessor) -> None:
    assert_type(prenet.calibrate(), CalibrationReport)
    assert_type(prenet.measure_origin(), OriginMap)
    assert_type(prenet.fit_origin(), OriginFit)
    assert_type(prenet.measure_ellipse(), Ellipse)
    assert_type(prenet.measure_rotation(), Rotation)
    prenet.save("a.h5", data=False)


def functions(data: object) -> None:
    assert_type(py4dstem_prenet.calibrate(data), CalibrationReport)
    assert_type(py4dstem_prenet.measure_origin(data), OriginMap)
