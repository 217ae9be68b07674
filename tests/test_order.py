"""Scans whose frames lie in another order than the file says, or whose beam jumps: the fit follows, or is refused."""

import numpy as np
import pytest
from scans import others_slow

from py4dstem_prenet.core import Decision, Flag, OriginFit, OriginMap
from py4dstem_prenet.core.flags import has_flag
from py4dstem_prenet.descan import fit_descan, fit_origin
from py4dstem_prenet.descan.order_frames import _cheapest_path

SIGMA = 0.05  # pixels


def descan(rows, columns, slow=2.0, fast=8.0, bend=0.5):
    """(2, rows, columns) px: a descan of so many pixels down and along the rows, slightly bent."""
    u, v = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    return 48 + np.stack([slow / 2 * u + bend * u * v, fast / 2 * v + bend * v * v])


def snake(n, rng):
    q = descan(n, n)
    q[:, 1::2] = q[:, 1::2, ::-1]
    return q


def faint_snake(n, rng):
    q = descan(n, n, 0.3, 0.7, 0.0)
    q[:, 1::2] = q[:, 1::2, ::-1]
    return q


def late(n, rng):
    q = descan(n + 1, n)
    return q.reshape(2, -1)[:, n - 2 : n - 2 + n * n].reshape(2, n, n)


def early(n, rng):
    return descan(n + 1, n).reshape(2, -1)[:, 3 : 3 + n * n].reshape(2, n, n)


def dropped(n, rng):
    q = descan(n + 1, n).reshape(2, -1)
    at = n * n // 2 + 3
    return np.concatenate([q[:, :at], q[:, at + 2 :]], 1)[:, : n * n].reshape(2, n, n)


def long_rows(n, rng):
    return descan(n, n + 1).reshape(2, -1)[:, : n * n].reshape(2, n, n)


def row_jumps(n, rng):
    return 48 + rng.uniform(-5, 5, (2, n, 1)) + np.zeros((2, n, n))


def centered(n, rng):
    q = descan(n, n, 30.0, 22.0, 0.0)
    return q - np.rint(q) + 48


def flyback(n, rng):
    q = descan(n, n)
    q[:, :, -1] = (q[:, :, -2] + q[:, :, 0]) / 2
    return q


def snake_along_columns(n, rng):
    return np.swapaxes(snake(n, rng), 1, 2)


def column_jumps(n, rng):
    return np.swapaxes(row_jumps(n, rng), 1, 2)


def row_pairs_jump(n, rng):
    return 48 + np.repeat(rng.uniform(-5, 5, (2, n // 2 + 1, 1)), 2, 1)[:, :n] + np.zeros((2, n, n))


def dropped_thrice(n, rng):
    q = descan(n + 1, n).reshape(2, -1)
    return np.delete(q, [n * n // 4, n * n // 2 + 3, 3 * n * n // 4], 1)[:, : n * n].reshape(2, n, n)


def doubled_twice(n, rng):
    q = descan(n, n).reshape(2, -1)
    at = np.sort(np.r_[: n * n, n * n // 3, 2 * n * n // 3])[: n * n]
    return q[:, at].reshape(2, n, n)


KINDS = {snake_along_columns: "columns_reversed", column_jumps: "column_steps",
         row_pairs_jump: "row_steps", dropped_thrice: "frames_missing", doubled_twice: "frames_missing",
         flyback: "lines_elsewhere", snake: "rows_reversed", faint_snake: "rows_reversed", late: "frames_shifted",
         early: "frames_shifted",
         dropped: "frames_missing", long_rows: "row_length_wrong", row_jumps: "row_steps", centered: "centered_before"}
QUICK = snake, late, row_jumps  # the others come in the full run
# (kind, n): of n x n positions; the fewer there are, the less they tell. The larger scan is of one kind of each sort.
SCANS = [(kind, 9) for kind in KINDS] + [(kind, 16) for kind in (*QUICK, dropped_thrice, centered)]


def fitted(q, rng):
    measured = q + rng.normal(0, SIGMA, q.shape)
    x, y, flags = fit_descan(measured, np.full(q.shape, SIGMA), np.ones(q.shape[1:], bool))
    return x, y, flags


def test_lines_elsewhere_are_named_by_their_numbers():
    flags = fitted(flyback(9, None), np.random.default_rng(9))[2]
    numbers = next(flag.numbers for flag in flags if flag.name == "lines_elsewhere")
    assert numbers["rows"] == [] and numbers["columns"] == [8]


def test_displaced_lines_do_not_count_in_the_span_of_the_descan():
    smooth = descan(9, 9)
    q = smooth.copy()
    q[:, :, 8] += 7.0
    nothing = np.full((9, 9), np.nan)
    for flags, columns in (((Flag("lines_elsewhere", {"rows": [], "columns": [8]}),), 8), ((), 9)):
        fit = OriginFit(*q, nothing, nothing, nothing, nothing, "plane", Decision(True, flags))
        assert fit.span == pytest.approx(np.ptp(q[:, :, :columns], axis=(1, 2)))


@pytest.mark.parametrize(("kind", "n"), [
    pytest.param(kind, n, id=f"{kind.__name__}-{n}", marks=() if kind in QUICK and n == 9 else pytest.mark.slow)
    for kind, n in SCANS])
def test_the_fit_follows_the_order_of_the_frames(kind, n):
    rng = np.random.default_rng(n)
    q = kind(n, rng)
    x, y, flags = fitted(q, rng)
    assert has_flag(flags, KINDS[kind]) and x.accepted and y.accepted
    assert np.quantile(np.hypot(x.values - q[0], y.values - q[1]), 0.97) < 2 * SIGMA


@pytest.mark.parametrize("n", others_slow([9, 30]))
def test_a_beam_that_jumps_between_frames_is_followed_and_refused(n):
    rng = np.random.default_rng(n)
    q = 48 + np.repeat(rng.uniform(-5, 5, (2, -(-n * n // 3))), 3, 1)[:, : n * n].reshape(2, n, n)
    x, y, _ = fitted(q, rng)
    assert not (x.accepted or y.accepted) and x.decision.has("beam_jumps")
    scatter = np.median(np.abs([x.residual, y.residual]))
    assert scatter < 2 * SIGMA  # the sigma of the measured origin is not that of the jumps


def test_jumps_from_frame_to_frame_are_not_averaged():
    rng = np.random.default_rng(0)
    q = 48 + rng.uniform(-5, 5, (2, 12, 12))
    flag = Flag("position_uncertain", {"sigma": 2.9, "counting": SIGMA})
    sigma = np.full((12, 12), 2.9)
    origin = OriginMap(*(q + rng.normal(0, SIGMA, q.shape)), sigma, sigma, np.ones((12, 12), bool), 6.0,
                       Decision(True, (flag,)))
    fit = fit_origin(origin)
    assert not fit.accepted and fit.decision.has("positions_scatter")


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 32])
@pytest.mark.parametrize("outliers", [0.0, 0.2])
def test_a_plain_scan_with_wrong_disks_is_taken_as_it_is(n, outliers):
    """Single wrong disks, and a grain that shows another disk."""
    rng = np.random.default_rng(n)
    q = descan(n, n)
    wrong = q.copy()
    wrong[:, rng.random((n, n)) < outliers] += 14
    wrong[:, : n // 4, : n // 3] -= 11
    x, y, flags = fitted(wrong, rng)
    assert x.accepted and y.accepted and not has_flag(flags, *KINDS.values())
    assert np.hypot(x.values - q[0], y.values - q[1]).max() < 4 * SIGMA


@pytest.mark.slow
def test_a_model_that_is_too_simple_is_blamed_and_not_the_specimen():
    rng = np.random.default_rng(0)
    q = descan(12, 12)
    sigma = np.full((12, 12), SIGMA)
    origin = OriginMap(*(q + rng.normal(0, SIGMA, q.shape)), sigma, sigma, np.ones((12, 12), bool), 6.0, Decision(True))
    fit = fit_origin(origin, model="constant")
    assert fit.decision.has("model_too_simple") and not fit.decision.has("residuals_correlated")
    assert not fit_origin(origin, model="parabola").decision.has("model_too_simple")


def test_rows_of_a_short_scan_that_jump_are_followed():
    rng = np.random.default_rng(1)
    q = descan(5, 40) + rng.uniform(-3, 3, (2, 5, 1))
    x, y, flags = fitted(q, rng)
    assert has_flag(flags, "row_steps") and x.accepted and y.accepted
    assert np.hypot(x.values - q[0], y.values - q[1]).max() < 2 * SIGMA


@pytest.mark.slow
def test_rows_reversed_along_columns_are_found_among_wrong_disks():
    """The wrong disks remain off the surface, whatever the order is."""
    rng = np.random.default_rng(2)
    q = snake_along_columns(24, rng) / 4 + 36
    wrong = q + np.where(rng.random((24, 24)) < 0.04, 9.0, 0.0)
    x, y, flags = fitted(wrong, rng)
    assert has_flag(flags, "columns_reversed")
    assert np.quantile(np.hypot(x.values - q[0], y.values - q[1]), 0.97) < 2 * SIGMA


@pytest.mark.parametrize("dropped_frames", [0, 1])
def test_a_column_that_is_off_in_the_mean_keeps_what_was_measured(dropped_frames):
    """A lost frame moves the last column to the next row's start: no position is 5 sigma off, their mean is 9."""
    rng = np.random.default_rng(3)
    rows, columns, sigma = 8, 11, 0.2
    truth = descan(rows + 1, columns, 0.3, 0.9, 0.0).reshape(2, -1)
    at = 20
    truth = np.concatenate([truth[:, :at], truth[:, at + dropped_frames:]], 1)[:, : rows * columns]
    truth = truth.reshape(2, rows, columns)
    maps = truth + rng.normal(0, sigma, truth.shape)
    valid = np.ones((rows, columns), bool)
    *fits, flags = fit_descan(maps, np.full(maps.shape, sigma), valid)
    found = {flag.name for flag in flags}
    assert ("lines_elsewhere" in found or "frames_missing" in found) == bool(dropped_frames)
    error = np.hypot(*(np.stack([fit.values for fit in fits]) - truth))
    assert (error > 4 * sigma).mean() < 0.02


@pytest.mark.parametrize("seed", others_slow(range(4)))
def test_rows_that_jump_are_followed_also_where_some_show_no_beam(seed):
    """A spline follows rows that jump in part; the steps are judged about a parabola, and rows without a beam do not
    count."""
    rng = np.random.default_rng(100 + seed)
    rows, columns, sigma = 11, 10, 0.1
    truth = descan(rows, columns, 1.0, 1.5) + rng.uniform(-4, 4, (2, rows, 1))
    valid = np.ones((rows, columns), bool)
    valid[:2] = False
    *fits, flags = fit_descan(truth + rng.normal(0, sigma, truth.shape), np.full(truth.shape, sigma), valid)
    assert has_flag(flags, "row_steps") and all(fit.accepted for fit in fits)
    assert np.hypot(*(np.stack([fit.values for fit in fits]) - truth))[valid].max() < 4 * sigma


@pytest.mark.parametrize("seed", others_slow(range(5)))
def test_jumps_in_time_are_not_taken_for_another_order(seed):
    """Runs of five frames in rows of nine: rows of another length, or rows that jump, explain half of them."""
    rng = np.random.default_rng(seed)
    rows, columns = 8, 9
    levels = np.repeat(rng.uniform(-4, 4, (2, -(-rows * columns // 5))), 5, 1)[:, : rows * columns]
    truth = 48 + levels.reshape(2, rows, columns)
    *fits, _ = fit_descan(truth + rng.normal(0, 0.1, truth.shape), np.full(truth.shape, 0.1),
                          np.ones((rows, columns), bool))
    error = np.hypot(*(np.stack([fit.values for fit in fits]) - truth))
    assert not all(fit.accepted for fit in fits) or (error > 0.5).mean() < 0.05


@pytest.mark.parametrize("sigma", others_slow([0.18, 0.12]))
def test_patterns_that_were_centered_are_followed_at_few_electrons(sigma):
    """No position is five sigma off the mean; all of them together follow a plane less whole pixels."""
    rng = np.random.default_rng(8)
    for slopes in ((9.0, -5.0, 3.0, 11.0), (4.0, 7.0, -8.0, 2.0)):
        u, v = np.meshgrid(np.linspace(-1, 1, 11), np.linspace(-1, 1, 12), indexing="ij")
        q = np.stack([slopes[0] * u + slopes[1] * v, slopes[2] * u + slopes[3] * v])
        q = q - np.rint(q) + 48
        x, y, flags = fit_descan(q + rng.normal(0, sigma, q.shape), np.full(q.shape, sigma), np.ones((11, 12), bool))
        assert has_flag(flags, "centered_before")
        assert np.quantile(np.hypot(x.values - q[0], y.values - q[1]), 0.9) < 2 * sigma


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_pairs_of_frames_that_jump_are_refused_whatever_the_descan(seed):
    """A flexible surface follows some of the pairs, and the descan makes the frames of a pair differ."""
    rng = np.random.default_rng(seed)
    rows, columns = 10, 12
    q = descan(rows, columns, 2.0, 6.0, 0.3) + np.repeat(rng.uniform(-4, 4, (2, rows * columns // 2)), 2, 1).reshape(
        2, rows, columns)
    x, y, _ = fitted(q, rng)
    assert not (x.accepted or y.accepted)


def test_the_cheapest_path_is_that_of_all_paths():
    """Of five steps and four states, every path that never falls is compared."""
    rng = np.random.default_rng(9)
    paths = np.array([path for path in np.ndindex(4, 4, 4, 4, 4) if (np.diff(path) >= 0).all()])
    for change in (0.05, 0.4, 2.0):
        cost = rng.exponential(1.0, (20, 5, 4))
        sums = cost[:, np.arange(5), paths].sum(-1) + change * (np.diff(paths) > 0).sum(1)
        found = [_cheapest_path(c, change) for c in cost]
        assert [path.tolist() for path in found] == paths[sums.argmin(1)].tolist()
