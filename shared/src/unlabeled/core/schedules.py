"""Schedules: pure functions of the step, so that nothing but the step is ever stored."""

from __future__ import annotations

import math


def warmup_cosine(step: int, total: int, warmup: int, peak: float, final: float = 0.0) -> float:
    """Linear from peak/warmup at step 0 to `peak` at step warmup - 1, then half a cosine down to `final` at total - 1.

    Loshchilov and Hutter 2017 (SGDR), eq. 5, one period.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup + 1) / max(1, total - warmup))
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def wsd(step: int, total: int, warmup: int, decay: int, peak: float, final: float = 0.0) -> float:
    """Warm-up, stable, decay: linear up over `warmup` steps, `peak`, linear down to `final` over the last `decay`.

    Hu et al. 2024 (MiniCPM), section 4.2, with linear decay (Haegele et al. 2024).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    left = total - 1 - step
    if left >= decay:
        return peak
    return final + (peak - final) * max(0, left) / decay


def infinite(
    step: int, total: int, warmup: int, cooldown: int, decay: int, peak: float, constant: float, final: float
) -> float:
    """Warm-up, cooldown, constant, annealing: only the last part knows how long the run is, so that runs can branch off.

    Linear up to `peak` over `warmup` steps, half a cosine down to `constant` over `cooldown` steps, `constant` until
    `decay` steps are left, then down to `final` by the same factor every step. constant, final > 0.

    Singh et al. 2025 (Beyond Cosine Decay), section 3; Ibrahim et al. 2024, section 4 (infinite schedules).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    left = total - 1 - step
    if left < decay:
        return float(constant * (final / constant) ** ((decay - left) / decay))
    progress = min(1.0, (step - warmup + 1) / max(1, cooldown))
    return constant + (peak - constant) * 0.5 * (1.0 + math.cos(math.pi * progress))


def passed(step: int, total: int, start: int = 0) -> float:
    """How much of the steps start ... total - 1 has passed at `step`: 0 before, 1 at the last one."""
    return min(1.0, max(0, step - start) / max(1, total - 1 - start))


def momentum(progress: float, first: float, last: float, kind: str = "cosine") -> float:
    """`first` at progress 0, `last` at 1. Grill et al. 2020 (BYOL), section 3.3 (cosine); I-JEPA: linear."""
    if kind == "linear":
        return first + (last - first) * progress
    return last - (last - first) * 0.5 * (1.0 + math.cos(math.pi * progress))
