"""A small scan in files, and what opening them gives or refuses."""

import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

import py4dstem_prenet
from py4dstem_prenet import cli
from py4dstem_prenet.core.errors import PrenetError

RNG = np.random.default_rng(0)

SCAN = RNG.poisson(3, (3, 4, 48, 40)).astype("u2")

STACK = SCAN.reshape(-1, 48, 40)


def told(path, **options):
    """The cube, and the sentences that opening it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cube = py4dstem_prenet.open(path, **options)
    return cube, [str(w.message) for w in caught if w.category is UserWarning]


def is_scan(path, known=SCAN, **options):
    cube = told(path, **options)[0]
    np.testing.assert_array_equal(np.asarray(cube.data[...]), known)
    return cube


def refused(path, **options):
    with pytest.raises(PrenetError) as caught:
        py4dstem_prenet.open(path, **options)
    return str(caught.value)


def signal(data):
    axes = [dict(name=name, size=size, navigate=i < 2, scale=(2.5, 0.05)[i // 2], offset=0.0,
                 units=("nm", "1/nm")[i // 2], index_in_array=i, _type="UniformDataAxis")
            for i, (name, size) in enumerate(zip(("y", "x", "ky", "kx"), data.shape, strict=True))]
    return dict(data=data, axes=axes, metadata={"General": {"title": "scan"}, "Signal": {"signal_type": ""}},
                original_metadata={}, learning_results={}, package_info={"package": "", "package_version": ""},
                attributes={"_lazy": False, "ragged": False}, tmp_parameters={}, models={})


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])
