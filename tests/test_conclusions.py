"""The first paragraph of a report: which statements it makes from which results, and that its numbers are theirs."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scans import origin_map

from py4dstem_prenet.core import (
    FLAGS,
    CalibrationReport,
    Decision,
    Ellipse,
    Flag,
    NoiseModel,
    OriginFit,
    OriginMap,
    PixelSize,
    conclude,
    ellipse_axes,
    paragraphs,
)

ORIGIN = {"feature": "direct beam", "count": 9, "total": 9, "qx0": 31.0, "qy0": 30.0, "sigma": 0.05, "high": 0.08}
DESCAN = {"model": "plane", "span_x": 1.0, "span_y": 0.5, "sigma": 0.02}
ELLIPSE = {"ratio": 1.05, "sigma": 0.002, "degrees": 35.0, "degrees_sigma": 1.0}
SIZE = {"value": 0.02, "sigma": 1e-5, "unit": "A^-1"}
TURN = {"degrees": 12.0, "sigma": 0.2, "flipped": "not flipped"}
ALL = {"origin": ORIGIN, "descan": DESCAN, "ellipse": ELLIPSE, "pixel_size": SIZE, "rotation": TURN}
WARNING_FLAG = Flag("clipped", {"percent": 5.0, "value": 0})


def names(found, *flags, **options):
    return [flag.name for flag in conclude(found, flags, **options)]


def test_all_is_known():
    assert names(ALL) == ["summary_origin", "summary_descan", "summary_ellipse", "summary_pixel_size",
                          "summary_rotation", "next_use"]


def test_a_stored_pixel_size_is_distinguished_from_a_measured_one():
    stored = names(ALL | {"pixel_size": SIZE | {"corrected": True}})
    assert stored[3:5] == ["summary_pixel_size", "summary_pixel_size_corrected"]


def test_nothing_is_found():
    assert names({}, Flag("no_beam")) == ["summary_no_origin", "next_refusals"]


@pytest.mark.parametrize(("name", "statement"), [
    ("origin", "summary_origin_unsure"), ("descan", "summary_descan_unsure"), ("ellipse", "summary_ellipse_unsure"),
    ("pixel_size", "summary_pixel_size_unsure"), ("rotation", "summary_rotation_unsure")])
def test_what_has_no_sigma_says_so(name, statement):
    assert statement in names(ALL | {name: ALL[name] | {"sigma": math.nan}})


def test_a_single_pattern_is_not_called_a_scan():
    alone = names({"origin": ORIGIN | {"count": 1, "total": 1}, "descan": DESCAN, "ellipse": ELLIPSE})
    assert alone[:3] == ["summary_single", "summary_ellipse", "next_single"]
    assert not {"summary_descan", "summary_constant", "next_use"} & set(alone)


def test_a_refused_pixel_size_is_not_asked_for_again():
    refusal = next(kind for kind in FLAGS.values() if kind.stage == "pixel_size" and kind.severity == "refusal")
    flag = Flag(refusal.name, {})
    cautions = names({"origin": ORIGIN, "descan": DESCAN}, flag)
    assert "avoid_lengths_refused" in cautions and "avoid_lengths" not in cautions


def test_what_has_no_bragg_disks_or_no_scan_is_not_sent_to_map_strain():
    for found, step in ((ALL | {"origin": ORIGIN | {"feature": "center of the rings"}}, "next_rings"),
                        ({"origin": ORIGIN | {"count": 1, "total": 1}}, "next_single")):
        for flags in ((), (WARNING_FLAG,)):
            told = names(found | {"descan": DESCAN}, *flags)
            assert step in told and "next_use" not in told and ("next_read" in told) == bool(flags)


def test_an_ellipse_within_its_uncertainty_is_round():
    assert "summary_round" in names(ALL | {"ellipse": ELLIPSE | {"ratio": 1.004}})


def test_the_next_step_follows_the_worst_flag():
    assert "next_read" in names(ALL, WARNING_FLAG)
    assert "next_refusals" in names({"origin": ORIGIN}, Flag("two_surfaces", {"percent": 30.0}))
    assert "next_refusals" in names(ALL, Flag("beam_cut_off", {"percent": 30.0}))
    refused = names(ALL, Flag("ellipse_no_evidence"))  # patterns can be used without an ellipse
    assert "next_read" in refused and "next_refusals" not in refused
    assert "next_refusals" in names(ALL, refusals=1)
    assert names(ALL, Flag("bad_pixels", {"count": 3, "listed": 1, "positions": [[1, 2]]}))[-1] == "next_repair"


def test_cautions_follow_from_flags_and_are_few():
    correlated = Flag("residuals_correlated", {"shared": 0.1, "sigmas": 9.0})
    assert "avoid_richer_model" in names(ALL, correlated)
    assert "avoid_denoised" in names(ALL, Flag("denoising_attenuates", {"quantity": "", "slope": 0.5, "sigma": 0.1}))
    assert {"avoid_lengths", "avoid_directions"} <= set(names({"origin": ORIGIN, "descan": DESCAN}))
    hidden = ORIGIN | {"feature": "center of the rings"}
    many = names({"origin": hidden, "descan": DESCAN}, correlated,
                 Flag("attenuation_undetermined", {"quantities": [], "slopes": []}))
    cautions = [name for name in many if name.startswith("avoid")]
    assert cautions[0] == "avoid_direct_beam" and len(cautions) == 4


def test_disks_in_the_cube_are_the_next_step():
    assert "next_use" in names(ALL) and "next_map" not in names(ALL)
    with_disks = conclude(ALL | {"disks": {"name": "braggvectors"}}, ())
    assert [flag.numbers for flag in with_disks if flag.name == "next_map"] == [{"name": "braggvectors"}]
    assert not any(flag.name == "next_use" for flag in with_disks)


def test_a_beam_other_than_the_given_one_is_a_caution():
    numbers = {"qx": 80.0, "qy": 83.0, "distance": 22.0}
    cautions = [flag for flag in conclude(ALL, (Flag("center_elsewhere", numbers),)) if flag.name == "avoid_center"]
    assert [flag.numbers for flag in cautions] == [numbers] and "avoid_center" not in names(ALL)


def test_every_statement_can_be_written():
    found = conclude(ALL, (WARNING_FLAG,))
    assert all(flag.sentence for flag in found) and {flag.kind.stage for flag in found} == {"summary"}
    assert all(not kind.action for kind in FLAGS.values() if kind.stage == "summary")


def report(**options):
    sigma, one = np.full((4, 5), 0.05), np.ones((4, 5))
    origin = replace(origin_map(60 * one, 62 * one, sigma, sigma, one.astype(bool)), decision=Decision(True))
    surface = 0.3 * sigma
    fit = OriginFit(60 * one, 62 * one, 0 * one, 0 * one, surface, surface, "constant", Decision(True))
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((8, 8), bool), counting=True, dose=100.0)
    return CalibrationReport(origin, fit, options.pop("ellipse", None), noise, **options)


def test_the_report_begins_with_the_paragraph():
    vector = 0.04 * np.array([math.cos(1.0), math.sin(1.0)])
    ellipse = Ellipse(*ellipse_axes(vector), vector, 0.002**2 * np.eye(2), Decision(True))
    size = PixelSize(0.02, 1e-5, "Au", Decision(True))
    found = report(ellipse=ellipse, pixel_size=size)
    numbers = {flag.name: flag.numbers for flag in found.summary}
    assert numbers["summary_origin"]["sigma"] == pytest.approx(0.05)
    assert numbers["summary_constant"]["sigma"] == pytest.approx(0.015)  # along one axis
    assert numbers["summary_ellipse"]["ratio"] == pytest.approx(1.04)
    assert numbers["summary_pixel_size"]["value"] == 0.02
    shown = [" ".join(part.split()) for part in str(found).split("\n\n")[1:4]]
    assert shown == [" ".join(flag.sentence for flag in part) for part in paragraphs(found.summary)]
    nothing = np.full((4, 5), np.nan)
    lost = OriginMap(*[nothing] * 4, np.zeros((4, 5), bool), math.nan, Decision(False, (Flag("no_beam"),)))
    assert [flag.name for flag in CalibrationReport(lost, None, None, None).summary] == [
        "summary_no_origin", "next_refusals"]


def test_the_angle_of_an_ellipse_has_the_sigma_of_its_vector_across():
    vector, covariance = np.array([0.05, 0.0]), np.diag([0.01, 0.002]) ** 2
    ellipse = Ellipse(*ellipse_axes(vector), vector, covariance, Decision(True))
    rng = np.random.default_rng(0)
    drawn = vector + rng.normal(size=(20_000, 2)) * np.array([0.0, 0.002])
    assert ellipse.angle_sigma == pytest.approx(np.std(0.5 * np.arctan2(drawn[:, 1], drawn[:, 0])), rel=0.03)
    assert math.isnan(replace(ellipse, covariance=np.full((2, 2), np.nan)).angle_sigma)
    assert math.isnan(replace(ellipse, covariance=0.1**2 * np.eye(2)).angle_sigma)
