"""Result objects for people: short texts, well-formed tables, comparisons that answer, pickles that are equal."""

import copy
import pickle
from dataclasses import fields, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from py4dstem_prenet.core import (
    BraggDisks,
    CalibrationReport,
    Ellipse,
    EllipseMap,
    OriginFit,
    OriginMap,
    PixelSize,
    ProbeImage,
    Result,
    Rotation,
)
from py4dstem_prenet.core.checks import CalibrationCheck, DenoisingCheck, EllipseCheck, FinetuneResult, OriginCheck
from py4dstem_prenet.core.flags import FLAGS, Decision, Flag
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.core.slopes import Slope
from py4dstem_prenet.core.transfers import Transfer
from py4dstem_prenet.demo import load_scan
from py4dstem_prenet.disks import RegionStrain
from py4dstem_prenet.ellipse.measure import map_ellipse
from py4dstem_prenet.pipeline import calibrate
from py4dstem_prenet.series import FileOutcome, Series

MAX_LINES, MAX_CHARACTERS = 12, 1500  # of a repr


def made(scan=(20, 20)):
    """Results as a scan of this shape gives them, by the name of their class; without measuring anything."""
    rng = np.random.default_rng(0)
    maps, sigma, valid = rng.normal(60, 1, (2, *scan)), np.full((2, *scan), 0.05), np.ones(scan, bool)
    valid[0, 0] = False
    maps[:, 0, 0] = np.nan
    missing = Flag("beam_missing", {"count": 1, "total": valid.size})
    uncertain = Flag("position_uncertain", {"sigma": 0.3, "counting": 0.02})
    jump = {"coordinate": "qx0", "step": 1.0, "sigmas": 12.0, "row": 3, "next_row": 4}
    origin = OriginMap(*maps, *sigma, valid, 5.0, Decision(True, (missing, uncertain)))
    fit = OriginFit(*maps, *0.1 * sigma, *sigma, "parabola", Decision(
        True, (Flag("residuals_white", {"scale": 1.0}), Flag("jump", jump)), {"scatter": 0.05, "scale": 1.0}))
    covariance = 1e-6 * np.eye(2)
    ellipse = Ellipse(1.02, 1 / 1.02, 0.3, np.array([0.03, 0.02]), covariance,
                      Decision(True, (Flag("ellipse_determined", {"sources": "both", "sigma": 1e-3}),)),
                      {name: (np.array([0.03, 0.02]), covariance) for name in ("direct beam", "rings")})
    nan = np.full((2, 2), np.nan)
    ellipses = EllipseMap(nan, nan, nan, nan, np.zeros((2, 2), bool), [[ellipse, ellipse], [ellipse, ellipse]], scan)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((128, 128), bool), True, 2000.0, (Flag("inverted"),))
    turned = {"sources": "shadow image", "degrees": 30.0, "sigma": 0.2}
    rotation = Rotation(30.0, True, 0.2, False, Decision(
        True, (Flag("rotation_determined", turned), Flag("rotation_half_turn_open", {"degrees": 30.0}))),
        {name: (30.0, True, 0.2) for name in ("center of mass", "shadow image")})
    disks = np.zeros(3, BraggDisks.DTYPE)
    disks["significance"] = np.inf, 8.0, 5.0
    probe = ProbeImage(np.zeros((32, 32)), (16, 16), 5.0, 0.4, 0.01, 40, 2.5, Decision(
        True, (Flag("probe_measured", {"positions": 40, "electrons": 2e6}),)))
    sized = {"evidence": "rings", "standard": "Au", "percent": 0.05, "scatter": 0.1, "rings": 2, "kind": "rings"}
    size = PixelSize(0.02, 1e-5, "Au", Decision(True, (Flag("pixel_size_determined", sized),)),
        "rings", ("111", "200"), np.array([0.42, 0.49]), np.array([1e-3, -1e-3]), np.array([1e-3, 1e-3]),
        profile=np.ones((3, 4)))
    written = (Flag("ellipse_written"), Flag("fit_not_written"))
    report = CalibrationReport(origin, fit, ellipse, noise, written, size, rotation)
    errors = {"raw": 1.0, "denoised": 0.3, "gaussian": 0.5, "svd": 0.6}
    figures = {"error": 0.3, "sigma": 0.01}
    slopes = {"rotation": Slope(0.7, 0.02, 3.0, "attenuated"), "shear": Slope(np.nan, np.nan, 0.1, "unknown")}
    check = DenoisingCheck(slopes, 3.0, 0.1, 3.2, errors, errors, errors, 1.3, 4, 256, True,
                           Decision(True, (Flag("denoising_lowers_error", figures),
                                           Flag("attenuation_undetermined", {
                                               "quantities": ["shear"], "slopes": ["shear not measurable"]}))))
    halves = {"scatter": 0.05, "ratio": 1.0, "sigma": 0.02, "positions": 256}
    agree = {"difference": 0.001, "sigmas": 0.5, "positions": 256}
    tuned = {"gain": 0.01, "gain_sigma": 0.001, "error": -0.02, "error_sigma": 0.001, "steps": 30}
    results = [origin, fit, ellipse, ellipses, size, rotation, probe, noise, report, check,
               OriginCheck(0.05, 1.0, 0.02, 256, Decision(True, (Flag("origin_sigma_checked", halves),))),
               EllipseCheck(0.001, 0.3, 256, Decision(True, (Flag("ellipse_halves_agree", agree),))),
               Transfer("gold.h5", 64 * "0", 1.0, ellipse, (0.02, "A^-1"), 1.04, (0.2, True), maps, {}, Decision(
                   True, (Flag("carried_over", {"quantities": ["ellipse", "rotation"], "source": "gold.h5"}),))),
               Series(Path("out"), (FileOutcome(Path("a.h5"), Path("out/a.h5"), "failed", {"problem": "No."}),),
                      Path("out/summary.csv"), Path("out/summary.html")),
               CalibrationCheck(("sigma",), Decision(False, (Flag("sigma_stale"),))),
               BraggDisks(disks, (1, 1), (32, 32), 4.2, 0.1),
               RegionStrain(np.full(4, 1e-3), np.full(4, 2e-4), 90, 144, 10),
               FinetuneResult(None, 0.01, 0.001, -0.02, 0.001, 30, Decision(True, (Flag("fine_tuned", tuned),)))]
    return {type(result).__name__: result for result in results}


RESULTS = made()


def subclasses(kind):
    return {kind, *(deeper for one in kind.__subclasses__() for deeper in subclasses(one))}


def test_every_result_of_the_package_is_looked_at_here():
    names = {kind.__name__ for kind in subclasses(Result) if kind.__module__.startswith("py4dstem_prenet")}
    assert names - {"Result", "Decided"} == set(RESULTS)


def assert_short_and_well_formed(result):
    text = repr(result)
    assert text.splitlines()[0] == type(result).__name__
    assert len(text.splitlines()) <= MAX_LINES and len(text) < MAX_CHARACTERS, text
    table = ElementTree.fromstring(result._repr_html_())
    assert table.tag == "table" and table.find("caption").text == type(result).__name__
    assert [(row.find("th").text or "", row.find("td").text or "") for row in table.iter("tr")] == [
        (label, value) for label, value in result.rows()]


@pytest.mark.parametrize("name", RESULTS)
def test_texts_are_short_and_tables_well_formed(name):
    assert_short_and_well_formed(RESULTS[name])


@pytest.mark.parametrize("name", RESULTS)
def test_many_flags_do_not_make_it_long(name):
    """More warnings than a bad scan gets; `print` shows all of them."""
    warnings = tuple(Flag(flag) for flag, kind in FLAGS.items() if kind.severity == "warning" and "{" not in
                     kind.sentence + kind.action)[:6]
    result = RESULTS[name]
    for part in ("decision", "flags", "noise"):
        if part in {f.name for f in fields(result)}:
            value = {"decision": Decision(False, warnings), "flags": warnings,
                     "noise": replace(RESULTS["NoiseModel"], flags=warnings)}[part]
            result = replace(result, **{part: value})
    assert_short_and_well_formed(result)
    printed = " ".join(str(result).split())
    flags = getattr(result, "flags", ())
    assert all(flag.sentence in printed for flag in flags)
    assert bool(flags) == (name not in ("BraggDisks", "EllipseMap", "RegionStrain", "Series"))


def test_markup_in_a_text_is_escaped():
    flags = (Flag("input_refused", {"message": "a < b & <b>c</b>."}),)
    result = replace(RESULTS["OriginMap"], decision=Decision(False, flags))
    assert_short_and_well_formed(result)


@pytest.mark.parametrize("name", RESULTS)
def test_comparing_answers_and_pickling_keeps_equality(name):
    result, twin = RESULTS[name], made()[name]
    assert result == twin and not result != twin
    assert pickle.loads(pickle.dumps(result)) == result and copy.deepcopy(result) == result
    assert result != "something else" and result != object()
    assert hash(result) == hash(result)
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            changed = np.where(np.isnan(value), 1.0, value) + 1
        elif isinstance(value, np.ndarray) and value.dtype.names:
            changed = value[1:]
        elif isinstance(value, np.ndarray):
            changed = ~value
        else:
            changed = "something else"
        assert replace(result, **{field.name: changed}) != result, field.name


@pytest.mark.parametrize("name", ["OriginMap", "OriginFit"])
def test_maps_of_another_shape_differ(name):
    assert RESULTS[name] != made((3, 4))[name]


@pytest.fixture(scope="module")
def demo():
    cube = load_scan()[0].prenet.crop_R((10, 18, 0, 8))
    return cube, calibrate(cube, device="cpu", progress=False)


@pytest.mark.slow
def test_of_the_demo_scan(demo):
    cube, report = demo
    assert report.origin.qx0.shape == (8, 8)
    regions = map_ellipse(cube, report.fit.qx0, report.fit.qy0, report.origin.radius, report.noise, 2, device="cpu",
                          progress=False)
    for result in (report, report.origin, report.fit, report.ellipse, report.noise, regions):
        assert_short_and_well_formed(result)
        assert pickle.loads(pickle.dumps(result)) == result
    assert report != report.origin and replace(report, ellipse=None) != report
    assert replace(report, ellipse=None).rows() != report.rows()
