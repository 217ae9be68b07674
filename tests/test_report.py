"""The page: verdicts that follow the data, escaped text, nothing loaded, and a browser that has no complaint."""

import json
import shutil
import subprocess
import types
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from py4DSTEM import DataCube
from scans import simulated
from typer.testing import CliRunner

from py4dstem_prenet import accessor, cli
from py4dstem_prenet.core import Decision, Flag, OriginMap, has_flag
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.descan.fit import fit_origin
from py4dstem_prenet.descan.surface import fit_surface
from py4dstem_prenet.io import provenance
from py4dstem_prenet.report import make_verdict, verdicts
from py4dstem_prenet.report.figures import show_map
from py4dstem_prenet.report.page import Panels, page_html, page_style
from py4dstem_prenet.review import ellipse_flags, origin_flags, report, review, review_fit

accessor.register()
SCAN = (14, 18)
ROWS, COLUMNS = np.meshgrid(*(np.linspace(-1, 1, n) for n in SCAN), indexing="ij")
DESCAN = 60 + 2 * ROWS + COLUMNS, 64 - COLUMNS + ROWS * COLUMNS


def origin_map(extra=0.0, noise=0.05, stated=0.05, seed=0):
    """A parabolic descan, measured with noise of a stated sigma, and something more in both coordinates."""
    rng = np.random.default_rng(seed)
    qx0, qy0 = (d + rng.normal(0, noise, SCAN) + extra for d in DESCAN)
    sigma = np.full(SCAN, stated)
    return OriginMap(qx0, qy0, sigma, sigma, np.ones(SCAN, bool), 6.0, Decision(True))


def judged(origin, fitted="ours", **settings):
    fit = fit_origin(origin)
    fitted = (fit.qx0, fit.qy0) if isinstance(fitted, str) else fitted
    found = review_fit(origin, fitted, settings.pop("sigma_known", True), 128, **settings)
    return found, make_verdict("descan", found.flags).light, {flag.name: flag.numbers for flag in found.flags}


def particles():
    return np.exp(-((ROWS - 0.2) ** 2 + (COLUMNS + 0.3) ** 2) / 0.05)


class TestIsThisFitGoodEnough:
    def test_noise_is_green(self):
        found, light, flags = judged(origin_map())
        assert light == "green" and "origin_error" in flags
        assert found.test.scatter == pytest.approx(0.05, rel=0.15) and found.noise == 0.05
        best = [t for t in found.trials if t.chosen]
        assert [t.model for t in best] == ["parabola"] and best[0].distance < 1e-9
        assert next(t for t in found.trials if t.model == "constant").scatter > 0.3
        assert found.uncertainty < 0.025  # floors of 0.01 px and of 0.15 sigma, common to all positions, along two axes

    @pytest.mark.slow
    def test_strong_residuals_of_the_specimen_are_amber_with_their_cause(self):
        image = particles()
        deflection = 1.2 * np.gradient(image, axis=1)
        found, light, flags = judged(origin_map(extra=deflection), images=image[None])
        assert light == "amber" and found.test.correlated and "specimen_explains" in flags
        assert found.specimen > 0.5 and found.test.shared == pytest.approx(np.std(deflection), rel=0.4)

    @pytest.mark.slow
    def test_images_that_have_nothing_to_do_with_it_explain_nothing(self):
        images = np.random.default_rng(3).normal(size=(2, *SCAN))
        found, _, flags = judged(origin_map(extra=4 * np.gradient(particles(), axis=1)), images=images)
        assert found.specimen < 0.1 and "specimen_explains" not in flags

    @pytest.mark.slow
    def test_understated_noise_is_amber_and_averages_out(self):
        found, light, _ = judged(origin_map(noise=0.15))
        assert light == "amber" and not found.test.correlated
        assert 2.6 < found.test.scatter / 0.05 < 3.4

    @pytest.mark.slow
    def test_a_jump_is_named_with_its_row(self):
        jumping = origin_map(extra=np.where(ROWS > 0, 0.8, 0.0))
        _, light, flags = judged(jumping)
        assert light == "amber" and any("jump" in name for name in flags)
        surfaces = [fit_surface(q, 0.05, jumping.valid).values for q in (jumping.qx0, jumping.qy0)]
        _, light, flags = judged(jumping, fitted=surfaces)
        assert light != "green" and {"origin_moved", "origin_far_off"} & set(flags)

    @pytest.mark.parametrize(("off", "light"), [(0.02, "green"), (0.12, "amber"), (0.5, "red")])
    def test_a_fit_by_another_hand_is_held_against_the_best_one(self, off, light):
        _, shown, flags = judged(origin_map(), fitted=(DESCAN[0] + off, DESCAN[1]))
        moved = flags.get("origin_moved") or flags.get("origin_far_off")
        assert shown == light and (moved is None) == (light == "green")
        assert moved is None or (moved["model"] == "parabola" and moved["moved"] == pytest.approx(off, rel=0.1))

    @pytest.mark.slow
    def test_a_plane_through_a_parabola(self):
        bent = origin_map(extra=3 * ROWS**2)
        plane = fit_origin(bent, "plane")
        assert judged(bent, fitted=(plane.qx0, plane.qy0))[1] == "red"

    def test_a_few_positions_are_no_proof(self):
        one = origin_map()
        nine = np.arange(one.valid.size).reshape(SCAN) < 9
        still = replace(one, qx0=one.qx0 - DESCAN[0], qy0=one.qy0 - DESCAN[1], valid=nine)
        assert judged(still)[1] == "amber"
        assert judged(replace(one, valid=nine))[1] == "red"  # of a descan that they cannot determine

    def test_nothing_accepted_is_red(self):
        _, light, flags = judged(origin_map(), fitted=None)
        assert light == "red" and "fit_not_accepted" in flags

    @pytest.mark.slow
    def test_without_sigmas_neighbors_tell(self):
        assert judged(origin_map(), sigma_known=False)[1] == "green"
        smooth = origin_map(extra=4 * np.gradient(particles(), axis=1))
        assert judged(smooth, sigma_known=False)[1] == "amber"

    @pytest.mark.slow
    def test_a_few_wrong_positions_are_counted(self):
        wrong = np.zeros(SCAN)
        wrong.flat[::40] = 25
        test = judged(origin_map(extra=wrong))[0].test
        assert test.outliers == pytest.approx(1 / 40, abs=0.01) and test.scatter == pytest.approx(0.05, rel=0.2)
        few = ROWS < 2
        few.flat[0] = False
        for valid, light in ((ROWS < 0.2, "amber"), (few, "green")):
            flags = origin_flags(replace(origin_map(), valid=valid), True)
            assert make_verdict("origin", flags).light == light

    def test_a_region_that_was_calibrated_misses_nothing(self):
        inside = ROWS < 0.2
        region = replace(origin_map(), valid=inside, decision=Decision(True, (), {"searched": int(inside.sum())}))
        assert has_flag(origin_flags(region, True), "beam_found")

    @pytest.mark.parametrize("feature", ["rings", "center of inversion", "diffuse scattering"])
    def test_a_hidden_beam_is_not_called_found(self, feature):
        flags = origin_flags(replace(origin_map(), feature=feature), True)
        assert not has_flag(flags, "beam_found") and make_verdict("origin", flags).light == "amber"


def ellipse(ratio, sigma=0.002, accepted=True):
    vector = (ratio - 1) * np.array([np.cos(0.6), np.sin(0.6)])
    return types.SimpleNamespace(vector=vector, sigma=sigma, accepted=accepted, flags=(), sources={},
                                 covariance=sigma**2 * np.eye(2), decision=Decision(accepted))


@pytest.mark.parametrize(("stored", "seen", "light"), [
    ((1.05, 1.0, 0.3), ellipse(1.05), "green"), ((1.0, 1.05, 0.3 + np.pi / 2), ellipse(1.05), "green"),
    ((1.05, 1.0, 0.3 + np.pi / 2), ellipse(1.05), "red"), ((1.05, 1.0, 0.3), ellipse(1.0), "red"),
    ((1.05, 1.0, 0.3), ellipse(1.05, accepted=False), "amber"), ((1.05, 1.0, 0.3), None, "amber"),
    (None, ellipse(1.0, accepted=False), "amber"),
])
def test_an_ellipse_is_held_against_the_scan(stored, seen, light):
    flags, details = ellipse_flags(stored, seen, "another program")
    assert make_verdict("ellipse", flags, details).light == light
    if light == "green":
        assert flags[0].numbers["degrees"] == pytest.approx(17.2, abs=0.05)


@pytest.mark.parametrize(("ratio", "name"), [(1.045, "ellipse_agrees"), (1.0, "ellipse_unconfirmed")])
def test_an_ellipse_that_is_too_uncertain_to_be_used_can_agree(ratio, name):
    seen = ellipse(ratio, sigma=0.01, accepted=False)
    seen.sources["direct beam"] = None
    assert [flag.name for flag in ellipse_flags((1.05, 1.0, 0.3), seen, "hand")[0]] == [name]


def test_the_worst_light_is_that_of_the_page():
    green, amber, red = (verdicts.Verdict("origin", "", light, "") for light in ("green", "amber", "red"))
    assert verdicts.overall([green, amber]).light == "amber" and verdicts.overall([green]).light == "green"
    assert verdicts.overall([amber, red, green]).light == "red"
    for flag, light in (("fit_stale", "red"), ("sigma_stale", "amber"), ("calibration_current", "green")):
        assert make_verdict("calibration", [Flag(flag)]).light == light


# --- the page -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cube():
    """A simulated scan, calibrated with its truth by another hand: no sigmas, no record."""
    scan = simulated()
    cube = DataCube(scan.counts.copy(), name='<b>"A & B"</b>')
    cube.calibration.set_origin_meas((scan.truth["qx0"].copy(), scan.truth["qy0"].copy()))
    cube.calibration.set_origin((scan.truth["qx0"].copy(), scan.truth["qy0"].copy()))
    cube.calibration.set_probe_semiangle(float(scan.truth["radius"]))
    provenance.write_provenance(cube, provenance.make_provenance(
        cube, settings={"note": "<script>alert(1)</script>"}))
    return cube


@pytest.fixture(scope="module")
def seen(cube):
    return review(cube, device="cpu", progress=False)


@pytest.fixture(scope="module")
def text(seen):
    return page_html(seen)


class Strict(HTMLParser):
    """Every element closed in order, no two ids the same, every reference inside the page met."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.wanted, self.loads, self.words, self.tags = [], [], set(), [], [], set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.take(tag, attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.take(tag, attributes)

    def take(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), (tag, attributes)
        self.tags.add(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                if value.startswith("#"):
                    self.wanted.add(value[1:])
                else:
                    self.loads.append((tag, value))
            assert not name.startswith("on"), (tag, name)
            self.wanted |= {part.split(")")[0] for part in (value or "").split("url(#")[1:]}

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.open[-3:])

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.slow
def test_page_is_whole_html_that_loads_nothing(text, seen):
    parsed = Strict(text)
    assert text.startswith("<!DOCTYPE html>") and not parsed.open
    assert len(set(parsed.ids)) == len(parsed.ids) and parsed.wanted <= set(parsed.ids)
    assert parsed.loads and all(value.startswith("data:") for _, value in parsed.loads)
    assert "@import" not in text and "<script" not in text and "url(http" not in text
    assert text.count("<figure>") == text.count("</svg>") >= 19
    assert 'name="viewport"' in text and "prefers-color-scheme:dark" in text
    words = " ".join(parsed.words)
    assert '<b>"A & B"</b>' in words and "<script>alert(1)</script>" in words  # as text
    questions = [verdicts.overall(seen.verdicts).question, *(verdict.question for verdict in seen.verdicts)]
    places = [words.index(question) for question in questions]
    assert places == sorted(places) and places[-1] < words.index("qx0 measured, px")


@pytest.mark.slow
def test_labels_of_color_bars_lie_inside_their_figure():
    """A browser cuts what lies outside."""
    with page_style():
        panels = Panels("maps")
        axes = panels.axes("wide labels", "small numbers").ravel()
        for ax, scale in zip(axes, (126.0, 1e-3), strict=True):
            show_map(scale * (1 + 0.01 * np.random.default_rng(0).normal(size=(40, 40))), ax)
        panels.rows()
        for ax in axes:
            extent, whole = ax.get_tightbbox(), ax.figure.bbox
            assert min(extent.x0 - whole.x0, whole.x1 - extent.x1) > 2 and extent.y0 > whole.y0


def test_page_says_what_was_seen(text, seen, cube):
    words = " ".join(Strict(text).words)
    assert seen.fit.test.scatter < 1e-3 and not seen.sigma_known
    flags = {flag.name for verdict in seen.verdicts for flag in verdict.flags}
    assert {"sigma_unknown", "ellipse_not_set"} <= flags
    assert all(sentence in words for verdict in seen.verdicts for sentence in verdict.why)
    assert seen.raw.shape == seen.clean.shape == (6, 6, 128, 128) and seen.virtual.shape == (2, 2, 6, 6)
    scan = simulated()
    inside = np.hypot(np.arange(128)[:, None] - scan.truth["qx0"][2, 3], np.arange(128) - scan.truth["qy0"][2, 3])
    assert seen.virtual[0, 0, 2, 3] == pytest.approx(scan.counts[2, 3][inside < scan.truth["radius"]].sum())
    error = [((kind - scan.clean) ** 2).mean() for kind in (seen.raw, seen.clean)]
    assert error[1] < error[0]


@pytest.mark.slow
def test_page_of_a_scan_that_this_package_calibrated_and_somebody_cropped(seen):
    record = provenance.to_json(seen.record | {"weights": {"center": "ab12"}, "settings": {"mask": True},
                                      "since": ["crop_Q(4, 60, 0, 64)", "bin_R(2)"]})
    page = page_html(replace(seen, stored=(1.02, 1 / 1.02, 0.5), stored_by="prenet", record=record))
    words = " ".join(Strict(page).words)
    for value in ("1.0404", "28.6°", "crop_Q(4, 60, 0, 64)", "bin_R(2)", "ab12", "mask"):
        assert value in words
    unfitted = " ".join(Strict(page_html(replace(seen, fitted=None, record=None))).words)
    assert len(unfitted) < len(words) and "ab12" not in unfitted


@pytest.mark.slow
def test_looking_changes_nothing(cube, seen):
    assert not cube.treekeys and (cube.data == simulated().counts).all() and cube.calibration.get_ellipse() is None


@pytest.mark.slow
def test_fast_leaves_out_denoising_and_halves(cube, seen):
    quick = review(cube, progress=False, fast=True)
    assert (quick.denoising, quick.halves, quick.ellipse_halves, quick.clean) == (None, None, None, None)
    assert {v.topic for v in seen.verdicts} - {v.topic for v in quick.verdicts} == {"denoising"}
    whole, part = (Strict(page_html(result)) for result in (seen, quick))
    assert set(part.ids) < set(whole.ids)


@pytest.mark.slow
def test_a_file_appears_once(cube, seen, tmp_path, monkeypatch):
    monkeypatch.setattr("py4dstem_prenet.review.outputs.review", lambda *_: seen)
    report(cube, tmp_path / "scan.html")
    kept = (tmp_path / "scan.html").read_text()
    with pytest.raises(PrenetError):
        cube.prenet.report(tmp_path / "scan.html")
    with pytest.raises(PrenetError):
        report(cube, tmp_path / "scan.pdf")
    assert [p.name for p in tmp_path.iterdir()] == ["scan.html"] and (tmp_path / "scan.html").read_text() == kept


@pytest.mark.slow
def test_from_the_command_line(seen, tmp_path, monkeypatch):
    monkeypatch.setattr("py4dstem_prenet.review.outputs.review", lambda *_: seen)
    monkeypatch.chdir(tmp_path)
    np.save("scan.npy", simulated().counts[:2, :2])
    run = CliRunner().invoke(cli.app, ["report", "scan.npy", "--output", "scan.html"])
    assert run.exit_code == 0
    kept = (tmp_path / "scan.html").read_text(encoding="utf-8")
    run = CliRunner().invoke(cli.app, ["report", "scan.npy", "--output", "scan.html"])
    assert run.exit_code == 1 and (tmp_path / "scan.html").read_text(encoding="utf-8") == kept
    run = CliRunner().invoke(cli.app, ["report", "scan.npy", "-o", "again.html", "--json"])
    told = json.loads(run.stdout)
    assert told["saved"] == "again.html" and told["light"] == verdicts.overall(seen.verdicts).light
    assert [v["question"] for v in told["verdicts"]] == [v.question for v in seen.verdicts]


def test_without_origin_and_with_a_stale_one(tmp_path):
    scan = simulated()
    cube = DataCube(scan.counts.copy())
    with pytest.raises(PrenetError):
        report(cube, tmp_path / "scan.html", progress=False)
    assert not list(tmp_path.iterdir())
    cube.calibration.set_origin_meas((scan.truth["qx0"].copy(), scan.truth["qy0"].copy()))
    cube.data = cube.data[:4]
    found = review(cube, progress=False)
    assert verdicts.overall(found.verdicts).light == "red"
    assert "figure" not in Strict(page_html(found)).tags


@pytest.mark.slow
def test_a_single_pattern_has_no_maps_of_the_scan():
    scan = simulated()
    cube = DataCube(scan.counts[:1, :1].copy())
    cube.calibration.set_origin_meas(tuple(scan.truth[name][:1, :1].copy() for name in ("qx0", "qy0")))
    cube.calibration.set_origin(tuple(scan.truth[name][:1, :1].copy() for name in ("qx0", "qy0")))
    found = review(cube, progress=False, fast=True)
    assert "descan" not in {verdict.topic for verdict in found.verdicts}
    assert "residual scatter" not in page_html(found)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PROBE = """<!DOCTYPE html><meta charset="utf-8"><title>probe</title><iframe src="scan.html" style="width:{width}px;
height:9000px;border:0"></iframe><p id="found"></p><script>
onload = () => {{ const page = document.querySelector("iframe").contentDocument, box = page.documentElement;
const wide = [...page.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().width);
document.getElementById("found").textContent = ["seen", box.clientWidth, box.scrollWidth, wide.length,
Math.round(Math.min(...wide)), page.querySelector(".overall").innerText.length > 10].join(" "); }}</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.slow
def test_a_browser_shows_it_without_complaint_or_overflow(text, tmp_path, width):
    (tmp_path / "scan.html").write_text(text, encoding="utf-8")
    (tmp_path / "probe.html").write_text(PROBE.format(width=width), encoding="utf-8")
    run = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files",
         "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900",
         "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in run.stderr, run.stderr
    told = run.stdout.split('id="found">')[1].split("<")[0].split()
    assert told[0] == "seen" and told[5] == "true"
    client, scrolled, panels, narrowest = map(int, told[1:5])
    assert client == width and scrolled <= width  # no sideways scrolling of the page
    assert panels == text.count("<figure>") and narrowest >= 200
