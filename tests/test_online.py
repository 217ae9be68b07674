"""A scan calibrated while it runs: any order, bounded memory, and in the end what `calibrate` says, bit for bit."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import py4DSTEM
import pytest
from scans import CCD, distance, numbers_of, simulated
from test_hidden import rings

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.flags import Flag
from py4dstem_prenet.live import online, snapshot
from py4dstem_prenet.live.alarms import quick_alarms
from py4dstem_prenet.live.online import OnlineCalibrator
from py4dstem_prenet.live.snapshot import judge_snapshot
from py4dstem_prenet.pipeline import calibrate

OPTIONS = dict(scan=(12, 16), shape=(64, 64), dose=5000.0, seed=3, ratio=1.03, theta=0.5)


def scan(**options):
    return simulated(**OPTIONS | options)


def feed(calibrator, counts, order, size=40):
    patterns = counts.reshape(-1, *counts.shape[2:])
    for part in np.split(order, range(size, len(order), size)):
        calibrator.feed(patterns[part], part)
    calibrator.wait()
    return calibrator


def fresh(counts, **options):
    return OnlineCalibrator(counts.shape[:2], counts.shape[2:], device="cpu", **options)


@pytest.fixture(scope="module")
def halfway():
    counts = scan().counts
    return feed(fresh(counts), counts, np.arange(96))


@pytest.mark.slow
def test_half_a_scan_is_known_and_the_other_half_is_not(halfway):
    origin, fit, truth = halfway.origin, halfway.fit, scan().truth
    assert origin.found and origin.valid[:6].mean() > 0.97 and not origin.valid[6:].any()
    assert halfway.located == halfway.seen == 96
    part = calibrate(py4DSTEM.DataCube(np.array(scan().counts[:6])), device="cpu", progress=False)
    apart = np.hypot(fit.qx0[:6] - part.fit.qx0, fit.qy0[:6] - part.fit.qy0)
    assert apart.mean() < 0.02 and distance(fit, truth)[:6].mean() < 0.05 and np.isnan(fit.qx0[6:]).all()
    assert np.allclose(fit.sigma_qx0[:6], part.fit.sigma_qx0, rtol=0.3)
    assert np.hypot(*(halfway.ellipse.vector - part.ellipse.vector)) < 0.005
    error = np.stack([origin.qx0 - truth["qx0"], origin.qy0 - truth["qy0"]])[:, origin.valid]
    sigma = np.stack([origin.sigma_qx0, origin.sigma_qy0])[:, origin.valid]
    assert 0.5 < np.sqrt(np.median((error / sigma) ** 2)) / 0.6745 < 1.6
    assert halfway.report.written == (Flag("scan_running", {"count": 96, "total": 192}),)
    assert "nan" not in str(halfway.report)


@pytest.mark.slow
def test_the_end_is_calibrate_to_the_last_bit(halfway):
    counts = scan().counts
    here, there = (py4DSTEM.DataCube(np.array(counts)) for _ in range(2))
    finished, offline = halfway.finish(here), calibrate(there, device="cpu", progress=False)
    assert finished == offline
    for a, b in zip(here.calibration.get_origin(), there.calibration.get_origin(), strict=True):
        assert np.array_equal(a, b)
    assert here.calibration.get_ellipse() == there.calibration.get_ellipse()


@pytest.mark.slow
def test_any_order_will_do():
    """Patterns at random positions, one camera, positions as rows and columns: as true as row by row."""
    counts = scan(**CCD | dict(scan=(12, 16), shape=(64, 64), dose=20_000.0)).counts
    truth = scan(**CCD | dict(scan=(12, 16), shape=(64, 64), dose=20_000.0)).truth
    order = np.random.default_rng(5).permutation(192)[:128]
    calibrator = fresh(counts)
    patterns = counts.reshape(192, 64, 64)
    for part in np.split(order, 2):
        calibrator.feed(patterns[part], np.stack(np.divmod(part, 16), 1))
        calibrator.wait()
    origin = calibrator.origin
    assert origin.valid.sum() > 0.9 * len(order) and np.isin(np.flatnonzero(origin.valid), order).all()
    assert np.nanmean(distance(calibrator.fit, truth)) < 0.1


def test_memory_is_flat_and_what_is_kept_does_not_depend_on_the_order(monkeypatch):
    monkeypatch.setattr(online, "MAX_SAMPLE_BYTES", 64 * 8192)
    counts = scan().counts
    kept = []
    for order in (np.arange(192), np.arange(192)[::-1], np.random.default_rng(0).permutation(192)):
        calibrator = fresh(counts)
        monkeypatch.setattr(calibrator, "_advance", lambda: None)  # nothing is learned: only what is kept is asked
        monkeypatch.setattr(calibrator, "_wait_for_beam", lambda *_: None)
        patterns = counts.reshape(-1, 64, 64)
        for part in np.split(order, 8):
            calibrator.feed(patterns[part], part)
        sample = calibrator._sample()
        assert len(sample.patterns) == 64
        assert all(np.array_equal(p, patterns[k]) for k, p in zip(sample.positions, sample.patterns, strict=True))
        kept.append(sample.positions)
    assert np.array_equal(kept[0], kept[1]) and np.array_equal(kept[0], kept[2])
    share = np.bincount(kept[0] // 16 // 3 * 4 + kept[0] % 16 // 4, minlength=16)  # in 4 x 4 parts of the scan
    assert 2 <= share.min() and share.max() <= 6


@pytest.mark.slow
def test_a_beam_that_moves_away_is_followed_and_one_that_goes_is_missed():
    counts = np.array(scan().counts)
    counts[6:9] = np.roll(counts[6:9], 7, axis=2)
    counts[9:] = np.random.default_rng(0).poisson(1e-4, counts[9:].shape)
    calibrator = feed(fresh(counts), counts, np.arange(192), 16)
    snapshot = calibrator.snapshot()
    truth = np.array(scan().truth["qx0"])
    truth[6:9] += 7
    found = snapshot.map(snapshot.located.position)[0]
    assert np.median(np.abs(found - truth)[6:9]) < 0.2
    assert snapshot.valid[:9].mean() > 0.95 and not snapshot.valid[9:].any()


@pytest.mark.slow
def test_patterns_that_come_one_by_one_are_caught_up_with_together():
    """Of a position that was fed twice while it waited, the later pattern counts."""
    counts = scan().counts
    calibrator = fresh(counts)
    patterns = counts.reshape(-1, 64, 64)
    calibrator.feed(patterns[80:81], np.array([5]))
    for k in range(80):
        calibrator.feed(patterns[k : k + 1], np.array([k]))
    calibrator._learning.result()
    calibrator.poll()
    assert 0 < calibrator.located < 80  # the latest, some at a time
    calibrator.poll()
    assert calibrator.located == calibrator.seen == 80 and not calibrator._waiting
    apart = calibrator._located.position[5] - np.array([scan().truth[q].flat[5] for q in ("qx0", "qy0")])
    assert np.abs(apart).max() < 0.5 and calibrator._located.found[5]


@pytest.mark.slow
def test_before_the_beam_is_on_the_report_says_so():
    counts = np.array(scan().counts)
    counts[:4] = 0
    calibrator = fresh(counts)
    assert not calibrator.report.origin.found and calibrator.report.origin.decision.has("nothing_learned")
    feed(calibrator, counts, np.arange(64))
    assert not calibrator.report.origin.found and calibrator.report.origin.decision.has("input_refused")
    feed(calibrator, counts, np.arange(64, 192))
    assert calibrator.origin.valid[5:].mean() > 0.9 and not calibrator.origin.valid[:4].any()


@pytest.mark.slow
def test_a_snapshot_stays_what_it_was(halfway):
    counts = scan().counts
    snapshot = halfway.snapshot()
    first = judge_snapshot(snapshot)
    halfway.feed(counts.reshape(-1, 64, 64)[96:112], np.arange(96, 112))
    assert np.array_equal(judge_snapshot(snapshot).origin.qx0, first.origin.qx0, equal_nan=True)


@pytest.mark.parametrize(("patterns", "positions"), [
    (np.ones((2, 64, 60)), [0, 1]),
    (np.ones((2, 64, 64)), [0]),
    (np.ones((1, 64, 64)), [192]),
    (np.ones((1, 64, 64)), [[0, 16]]),
    (np.ones((1, 64, 64)), [0.5]),
    (np.full((1, 64, 64), np.nan), [0]),
    (np.ones((1, 64, 64), complex), [0]),
], ids=["shape", "too few positions", "outside", "column outside", "no whole number", "NaN", "complex"])
def test_what_cannot_be_fed_is_refused(patterns, positions):
    calibrator = fresh(scan().counts)
    with pytest.raises(PrenetError) as refused:
        calibrator.feed(patterns, positions)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
    assert calibrator.seen == 0


@pytest.mark.slow
def test_a_cube_of_another_scan_is_refused(halfway):
    with pytest.raises(PrenetError):
        halfway.finish(py4DSTEM.DataCube(np.ones((4, 4, 64, 64))))
    with pytest.raises(PrenetError):
        OnlineCalibrator((4,), (64, 64))


@pytest.mark.slow
def test_behind_a_beam_stop_the_center_of_the_rings_is_followed():
    """And a beam that is blanked in mid-scan is told; it was once said to be lost from the first position on."""
    counts, truth, good = rings()
    counts = counts.copy()
    counts[6:] = 0
    calibrator = OnlineCalibrator((8, 8), (128, 128), mask=good, device="cpu")
    calibrator.feed(counts.reshape(-1, 128, 128), np.arange(64))
    calibrator.wait()
    (alarm,) = quick_alarms(calibrator.snapshot())
    assert alarm.kind == "beam lost" and alarm.since == (6, 0)
    origin = calibrator.origin
    assert origin.feature == "rings" and np.array_equal(origin.valid.all(1), np.arange(8) < 6)
    assert np.hypot(origin.qx0 - truth[0], origin.qy0 - truth[1])[:6].max() < 0.5
    assert calibrator.ellipse.accepted and np.hypot(*calibrator.ellipse.vector) < 0.01
    calibrator.close()


@pytest.mark.slow
def test_a_learning_that_fails_is_tried_again(monkeypatch):
    scan = simulated(scan=(8, 8), shape=(64, 64), dose=3000.0)
    failures = []

    def learn(*args):
        if len(failures) < 2:
            failures.append(PrenetError("no memory"))
            raise failures[-1]
        return snapshot.learn_so_far(*args)

    monkeypatch.setattr(online, "learn_so_far", learn)
    monkeypatch.setattr(online, "FIRST_LEARNING_PATTERNS", 8)
    calibrator = OnlineCalibrator((8, 8), (64, 64), device="cpu")
    for row in range(8):
        calibrator.feed(scan.counts[row], np.arange(8) + 8 * row)
        calibrator.wait()
        if row == 0:
            assert calibrator.located == 0
            assert numbers_of(calibrator.report.origin, "input_refused") == {"message": "no memory"}
    assert len(failures) == 2 and calibrator.located == 64
    calibrator.close()


def test_the_benchmark_reads_what_a_watcher_shows(monkeypatch):
    """`benchmarks/online.py` notes each row whose patterns are all located."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from online import Log

    made = scan()
    calibrator = feed(OnlineCalibrator(made.counts.shape[:2], made.counts.shape[2:]), made.counts, np.arange(100))
    log = Log(16, 12)
    status = SimpleNamespace(alarms=())
    log.look(SimpleNamespace(calibrator=calibrator, snapshot=calibrator.snapshot(), status=status), 100)
    calibrator.close()
    assert np.flatnonzero(np.isfinite(log.known)).tolist() == list(range(100 // 16))
