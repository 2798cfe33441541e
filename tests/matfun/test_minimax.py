import math

import numpy as np
import pytest
import scipy.special
from numpy.polynomial.polynomial import polyval

from jaxla.matfun._minimax import inverse_root_stages, minimax_stage


ORDERS = range(1, 9)
# As in float32 and in float64, where the scale is at most twice the bound.
PRECISIONS = [(5e-7, 2e-7), (5e-13, 1e-14)]


def error_curve(coefficients, grid, p):
    return grid ** (1 / p) * polyval(grid, coefficients) - 1


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("low", [1e-3, 0.03, 0.5, 0.9])
def test_a_stage_equioscillates(low, degree, p):
    """Chebyshev's criterion: no other polynomial of the degree does better."""
    coefficients, level = minimax_stage(low, 1.0, p, degree)
    grid = np.geomspace(low, 1, 20_001)
    error = error_curve(coefficients, grid, p)
    runs = np.split(error, np.flatnonzero(np.diff(error > 0)) + 1)
    peaks = [run[np.abs(run).argmax()] for run in runs]
    assert len(peaks) == degree + 2
    np.testing.assert_allclose(np.abs(peaks), level, rtol=1e-3, atol=1e-13)


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("low", [1e-3, 0.03, 0.5])
def test_for_the_inverse_it_is_chebyshevs(low, degree):
    r"""$1 - m t(m)$ is $T_{d+1}$ on the interval, scaled to be 1 at zero."""
    _, level = minimax_stage(low, 1.0, 1, degree)
    best = 1 / scipy.special.eval_chebyt(degree + 1, (1 + low) / (1 - low))
    np.testing.assert_allclose(level, best, rtol=1e-5)


@pytest.mark.parametrize("p", ORDERS)
def test_short_intervals_get_the_binomial_series(p):
    coefficients, level = minimax_stage(0.999, 1.001, p, 2)
    m = np.array([0.999, 1.0, 1.0005])
    series = sum(
        scipy.special.poch(1 / p, k) / math.factorial(k) * (1 - m) ** k for k in range(3)
    )
    np.testing.assert_allclose(polyval(m, coefficients), series, rtol=1e-14)
    assert level < 1.01e-9


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("degree", [1, 2])
def test_the_series_takes_over_without_a_jump(degree, p):
    low, high = 1 - 4.95e-3, 1 + 4.95e-3
    exchange, best = minimax_stage(low, 1.0101 * low, p, degree)
    series, error = minimax_stage(low, high * 0.9999, p, degree)
    m = np.linspace(low, high, 9)
    # The Taylor polynomial has at most 2^degree times the error of the best.
    np.testing.assert_allclose(
        polyval(m, series), polyval(m, exchange), rtol=4 * 2**degree * best
    )
    assert best < 1.1 * error < 1.1 * 2 ** (degree + 1) * best


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("floor", "tolerance"), PRECISIONS)
def test_composed_stages_do_what_they_claim(floor, tolerance, p):
    rows, intervals, delta = inverse_root_stages(p, floor, tolerance)
    assert delta <= tolerance
    low, high = floor, 1.0
    for row, interval in zip(rows, intervals, strict=True):
        np.testing.assert_allclose((low, high), interval, rtol=1e-2)
        m = np.geomspace(low, high, 100_001)
        t = polyval(m, row)
        assert (t > 0).all()  # or a root of even order would lose its sign
        image = m * t**p
        new_low, new_high = image.min(), image.max()
        # Centred on 1, and a smaller condition number than before.
        np.testing.assert_allclose(new_low + new_high, 2, atol=0.05)
        assert new_high / new_low < high / low
        low, high = new_low, new_high
    # Eight rounding errors in each of the p factors. Before them, the exchange misses
    # by some percent what lies between its points.
    assert max(1 - low, high - 1) < 1.1 * delta + 8 * p * np.finfo("float64").eps


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_no_eigenvalue_is_left_out(precision, p):
    """The scalar iteration in working precision, on a dense grid."""
    floor, tolerance = PRECISIONS[precision == "float64"]
    m = np.geomspace(floor, 1, 400_001).astype(precision)
    with np.errstate(over="ignore", invalid="ignore"):
        for row in inverse_root_stages(p, floor, tolerance).rows:
            t = polyval(m, np.array(row, precision))
            m = m * t**p
    assert np.abs(m - 1).max() < 16 * p * np.finfo(precision).eps


@pytest.mark.parametrize("p", ORDERS)
def test_stages_stay_where_rounding_errors_are_harmless(p):
    """No eigenvalue on the way exceeds 2, or falls below where it started."""
    rows = inverse_root_stages(p, 5e-7, 2e-7).rows
    m = np.geomspace(5e-7, 1, 20_001)
    lowest = m.min()
    for row in rows:
        m = m * polyval(m, row) ** p
        assert m.max() <= 2
        assert m.min() >= lowest
        lowest = m.min()


def test_more_is_asked_more_is_done():
    for p in ORDERS:
        steps = [
            len(inverse_root_stages(p, floor, tolerance).rows)
            for floor, tolerance in [(1e-2, 1e-3), (1e-4, 1e-6), *PRECISIONS]
        ]
        assert steps == sorted(steps)
        assert steps[0] < steps[-1] < 20
        newton = np.log(1 / 5e-7) / np.log((p + 1) / p)  # steps to raise the smallest
        assert steps[2] <= max(newton, 9)
