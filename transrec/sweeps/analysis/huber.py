"""Many small robust fits at once: the sum of Huber losses of log residuals, minimised over a law's parameters.

Designs considered. L-BFGS on one fit at a time, as in the literature on scaling laws, may stop early unnoticed
(Besiroglu et al. 2024), and a report with its starts, resampled errors and left-out sizes needs ten thousand fits.
`scipy.optimize.least_squares(loss="huber")` is exact, but takes 20 to 50 ms per fit. Chosen: the Levenberg-Marquardt
method with the weights of iteratively reweighted least squares (each step's quadratic lies above the Huber loss), with
all starts and all resampled errors side by side in one array. The tests compare its results with scipy's.

Shape letters: F fits, n points, p parameters.
"""

import numpy as np
from numpy.typing import NDArray

from transrec.sweeps.analysis.laws import Floats, Law

_ITERATIONS = 300
_SMALLEST_GAIN = 1e-10  # a smaller relative gain of the objective ends a fit
_STUCK = 1e10  # a fit without gain at this damping ends


def minimise(law: Law, u: Floats, log_errors: Floats, starts: Floats, delta: float) -> tuple[Floats, Floats]:
    """The local minimum reached from each start.

    Args:
        u: (n, s) centred log sizes.
        log_errors: (F, n), or (n,) if all fits share them.
        starts: (F, p).
        delta: residuals up to delta count quadratically, larger ones linearly; `inf` is least squares.

    Returns:
        theta (F, p) and the objective Σ ρ(residual) there, (F,).
    """
    log_errors = np.broadcast_to(log_errors, (len(starts), len(u)))
    low, high = law.bounds(u, log_errors)
    theta = np.clip(starts, low, high)
    damping, best = np.full(len(theta), 1e-3), _objective(law, theta, u, log_errors, delta)
    going = np.ones(len(theta), bool)
    for _ in range(_ITERATIONS):
        at = np.flatnonzero(going)
        if not len(at):
            break
        trial = np.clip(theta[at] + _steps(law, theta[at], u, log_errors[at], delta, damping[at], low, high), low, high)
        cost = _objective(law, trial, u, log_errors[at], delta)
        better = cost < best[at]
        gained = best[at] - cost
        going[at] = np.where(better, gained > _SMALLEST_GAIN * best[at], damping[at] < _STUCK)
        theta[at[better]], best[at[better]] = trial[better], cost[better]
        damping[at] = np.clip(damping[at] * np.where(better, 0.3, 5.0), 1e-12, 10 * _STUCK)
    return theta, best


def _steps(
    law: Law, theta: Floats, u: Floats, log_errors: Floats, delta: float, damping: Floats, low: Floats, high: Floats
) -> Floats:
    """Damped Gauss-Newton steps (F, p); a parameter at a bound that its step would cross is held there."""
    value, jacobian = law.evaluate(theta, u)
    residual = log_errors - value
    weight = np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-300))
    weighted = jacobian * weight[..., None]
    downhill = np.einsum("fnp,fn->fp", weighted, residual)
    held = ((theta <= low) & (downhill < 0)) | ((theta >= high) & (downhill > 0))
    downhill = np.where(held, 0.0, downhill)
    curvature = np.einsum("fnp,fnq->fpq", weighted, jacobian) * ~(held[:, :, None] | held[:, None, :])
    diagonal = np.einsum("fpp->fp", curvature)
    floor = 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-300
    diagonal += damping[:, None] * diagonal + floor
    return np.linalg.solve(curvature, downhill[..., None])[..., 0]


def _objective(law: Law, theta: Floats, u: Floats, log_errors: Floats, delta: float) -> Floats:
    residual = np.abs(log_errors - law.evaluate(theta, u)[0])
    linear = delta * (residual - 0.5 * delta) if np.isfinite(delta) else np.zeros_like(residual)
    found: NDArray[np.float64] = np.where(residual <= delta, 0.5 * residual**2, linear).sum(axis=1)
    return found
