"""Alarms come where they must, from the position on that they must, and not otherwise."""

from dataclasses import replace

import numpy as np
import pytest
from scans import numbers_of, simulated

from py4dstem_prenet.core import OriginFit
from py4dstem_prenet.core.flags import Decision
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.core.scan import SampledScan
from py4dstem_prenet.fits import Aperture
from py4dstem_prenet.live import alarms
from py4dstem_prenet.live.alarms import ellipse_changes, quick_alarms, saturated_patterns
from py4dstem_prenet.live.snapshot import Snapshot
from py4dstem_prenet.origin.beam import Beam, Located
from py4dstem_prenet.pipeline import Calibrator
from py4dstem_prenet.simulation.acquisition import BEAM_JUMP_PX, Acquisition

SCAN = (12, 20)
NOISE = NoiseModel(1.0, 0.0, 0.0, np.zeros((64, 64), bool), True, 1000.0)


def snapshot(rows=12, sigma=0.05):
    """A good scan so far: a gentle descan, measured with a known scatter."""
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(240), 20)
    position = np.stack([30 + 0.05 * row, 32 - 0.03 * column], 1) + rng.normal(0, sigma, (240, 2))
    known = row < rows
    located = Located(position, np.full((240, 2), sigma), np.full(240, 300.0), known.copy())
    sample = SampledScan(SCAN, np.arange(3), np.zeros((3, 64, 64), np.uint16))
    beam = Beam("cpu", NOISE, Aperture(3.2, 0.4, (0.0, 0.0)))
    return Snapshot(sample, located, known, np.zeros(240, bool), Calibrator(NOISE, beam, None, None, "cpu"),
                    int(known.sum()), known.copy(), np.where(known, 1000.0, 0.0))


def without_beam(state, noise=NOISE):
    return replace(state, calibrator=Calibrator(noise, None, None, None, "cpu"))


def told(state, **options):
    return {alarm.kind: alarm for alarm in quick_alarms(state, **options)}


def test_a_good_scan_raises_none_and_neither_does_what_was_not_seen_yet():
    assert told(snapshot(), strain=0.01) == told(snapshot(rows=5), strain=0.01) == {}
    assert quick_alarms(replace(snapshot(), calibrator=Calibrator(None, None, None, None, "cpu"))) == ()


def test_a_row_that_is_known_in_part_is_no_jump():
    """Descan along the columns moves the beam by 6 px in each row; the last row has its first columns only."""
    state = snapshot(rows=7)
    state.located.position[:, 1] += 0.3 * (np.arange(240) % 20)
    state.processed[6 * 20 + 9 : 140] = False
    assert told(state) == {}


def test_a_lost_beam_is_told_within_half_a_row_and_when_it_is_back():
    state = snapshot(rows=7)
    state.located.found[100:109] = False
    assert told(state) == {}  # a thick part of the specimen
    state.located.found[6 * 20 + 10 : 140] = False
    lost = told(state)["beam lost"]
    assert lost.since == (6, 10) and not lost.over
    assert lost.flag.numbers["count"] == 10 and lost.flag.numbers["losses"] == 1
    state.located.found[135:140] = True
    state.located.found[6 * 20 : 135] = False
    back = told(replace(state))["beam lost"]
    assert back.since == (6, 0) and back.over and "row 6, column 15" in back.flag.numbers["state"]
    state.located.found[40:60] = False
    assert told(replace(state))["beam lost"].flag.numbers["losses"] == 2


@pytest.mark.parametrize("learned", [True, False])
def test_behind_a_beam_stop_dark_patterns_and_saturation_are_told_and_nothing_else(learned):
    """No position shows a beam, whether one was learned from something else or not."""
    state = snapshot()
    state.located.found[:] = False
    if not learned:
        state = replace(state, calibrator=replace(state.calibrator, beam=None), processed=np.zeros(240, bool))
    assert told(state, strain=1e-4) == {}
    state.total[100:115] = 20.0
    state.saturated[8 * 20 + 6 :] = True
    alarm = told(state, strain=1e-4)
    assert set(alarm) == {"beam lost", "saturation"}
    assert alarm["beam lost"].since == (5, 0) and alarm["beam lost"].over
    assert alarm["beam lost"].flag.numbers["count"] == 15
    assert alarm["saturation"].since == (8, 6)


@pytest.mark.parametrize(("move", "name"), [
    ((3.0, -1.0), "alarm_jump"), ((0.0, 29.5), "alarm_edge"), ((26.0, 0.0), "alarm_jump")])
def test_a_beam_that_moves_is_told_from_the_row_on(move, name):
    state = snapshot()
    state.located.position[7 * 20 :] += move
    alarm = told(state)["drift"]
    assert alarm.since == (7, 0)
    assert alarm.flag.name == name
    expected = {} if name == "alarm_edge" else {"dx": move[0], "dy": move[1], "before": 6, "row": 7}
    assert dict(alarm.flag.numbers) == pytest.approx(expected, abs=0.15)


def test_slow_drift_out_of_the_window_is_told():
    state = snapshot()
    state.located.position[:, 0] += 2.4 * (np.arange(240) // 20) - 2
    state = replace(state, sample=SampledScan(SCAN, np.arange(3), np.zeros((3, 256, 256), np.uint16)))
    alarm = told(state)["drift"]
    assert alarm.since == (10, 0) and alarm.flag.name == "alarm_drift"
    assert alarm.flag.numbers["dx"] > alarm.flag.numbers["reach"] > 20


def test_too_low_a_dose_says_what_it_would_take():
    """sigma .05 px at 16 px is .31 % of strain; four times better takes sixteen times the dose."""
    assert "dose too low" not in told(snapshot(), strain=0.0032)
    alarm = told(snapshot(), strain=0.05 / 16 / 4)["dose too low"]
    assert {key: alarm.flag.numbers[key] for key in ("times", "dose", "strain", "distance")} == pytest.approx(
        {"times": 16, "dose": 1000, "strain": 100 * 0.05 / 16, "distance": 16})


def test_saturation_is_told_from_its_first_pattern_on():
    state = snapshot()
    state.saturated[30] = True  # one bright pattern is none
    assert told(state) == {}
    state.saturated[8 * 20 + 6 :] = True
    assert told(state)["saturation"].since == (8, 6)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_crowded_patterns_are_those_that_were_cut(dtype):
    rng = np.random.default_rng(3)
    disk = np.hypot(*np.meshgrid(np.arange(64) - 32, np.arange(64) - 30)) < 9
    for level in (3, 40, 4000):
        whole = rng.poisson(np.where(disk, level, 0.02), (40, 64, 64))
        cut = np.minimum(whole, int(0.7 * level) + 1)
        assert not saturated_patterns(whole.astype(dtype), NOISE).any()
        assert saturated_patterns(cut.astype(dtype), NOISE).mean() > 0.9
    assert not saturated_patterns(np.zeros((2, 64, 64), dtype), NOISE).any()
    assert not saturated_patterns(rng.poisson(0.1, (9, 64, 64)).astype(dtype), NOISE).any()


@pytest.mark.slow
def test_an_ellipse_that_changes_in_mid_scan_is_told(monkeypatch):
    monkeypatch.setattr(alarms, "MIN_HALF_PATTERNS", 30)
    options = dict(scan=(8, 8), shape=(96, 96), dose=50_000.0, seed=4, theta=0.6, amplitude=0.5)
    round_, bent = (simulated(**options, ratio=ratio) for ratio in (1.0, 1.06))
    truth = [np.concatenate([round_.truth[q], round_.truth[q]]) for q in ("qx0", "qy0")]

    def changes(second):
        counts = np.concatenate([round_.counts, second.counts])
        sample = SampledScan((16, 8), np.arange(128), counts.reshape(-1, 96, 96))
        noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((96, 96), bool), True, 50_000.0)
        located = Located(np.stack([q.ravel() for q in truth], 1), np.full((128, 2), 0.05), np.full(128, 1e4),
                          np.ones(128, bool))
        state = Snapshot(sample, located, np.ones(128, bool), np.zeros(128, bool),
                         Calibrator(noise, Beam("cpu", noise, Aperture(4.8, 0.4, (0.0, 0.0))), None, None, "cpu"), 128,
                         np.ones(128, bool), np.full(128, 50_000.0))
        flat = np.zeros((16, 8))
        return ellipse_changes(state, OriginFit(*truth, flat, flat, flat, flat, "", Decision(True)), 4.8, "cpu")

    assert changes(round_) is None
    alarm = changes(bent)
    assert alarm is not None and alarm.since == (8, 0)
    numbers = numbers_of((alarm.flag,), "alarm_ellipse_changes")
    assert numbers["ratio_after"] == pytest.approx(1.06, abs=0.01) and numbers["ratio_before"] < 1.01


@pytest.mark.slow
def test_simulated_faults_are_what_they_are_called():
    """The acquisition's patterns, too, show what the alarms are about, exactly where the truth says."""
    good = Acquisition((10, 12), (64, 64), dose=3000.0, seed=2)
    at = good.expose(0, 120).astype(float)
    pixel = np.arange(64) - 31.5
    assert np.array_equal(good.expose(7, 9), at[7:9])
    lost, jumped, cut = (Acquisition((10, 12), (64, 64), dose=3000.0, seed=2, fault=f) for f in
                         ("beam-loss", "jump", "saturation"))
    assert lost.faulty_from == 60 and np.array_equal(lost.expose(50, 60), at[50:60]) and not lost.expose(60, 62).any()
    assert np.allclose(jumped.origin[60:] - good.origin[60:], BEAM_JUMP_PX)
    centers = [np.stack([(p * pixel[:, None]).sum((1, 2)), (p * pixel).sum((1, 2))]) / p.sum((1, 2)) for p in
               (at[60:], jumped.expose(60, 120).astype(float))]
    shift = np.median(centers[1] - centers[0], 1)
    assert np.allclose(shift, BEAM_JUMP_PX, atol=0.8)  # some electrons leave the detector
    assert saturated_patterns(cut.expose(60, 120), NOISE).mean() > 0.6
    assert saturated_patterns(cut.expose(0, 60), NOISE).mean() < 0.1
