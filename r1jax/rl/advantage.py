"""Group-relative advantages: a sample is as good as it is better than its siblings.

Axes: Q questions, G samples of a question.
"""

from __future__ import annotations

import numpy as np


def group_advantage(
    reward, valid, scale_by_std: bool = True, ddof: int = 1, eps: float = 1e-6, baseline: str = 'mean'
) -> np.ndarray:
    """Aᵢ = (rᵢ − mean(r)) / (std(r) + ε) over the valid samples of each group (R1 report eq. 3).

    reward f32[Q,G]; valid bool[Q,G]: samples without a grade take no part and get 0. Returns f32[Q,G]. Where all valid rewards are
    equal the advantage is exactly 0: six float32 rewards of 0.1 have a standard deviation of 7e-9, which ε would not hide.
    scale_by_std=False is Dr. GRPO's (arXiv 2503.20783). The papers state neither ddof nor ε; ours are arguments.

    baseline 'leave_one_out' compares a reward with the mean of the others of its group (RLOO, arXiv 2402.14740 eq. 5):
    rᵢ − mean(r without rᵢ) = n/(n−1)·(rᵢ − mean(r)) of n valid samples.
    """
    reward, valid = np.asarray(reward, np.float64), np.asarray(valid, bool)
    n = valid.sum(-1, keepdims=True)
    kept = np.where(valid, reward, 0.0)
    mean = kept.sum(-1, keepdims=True) / np.maximum(n, 1)
    off = centred = np.where(valid, reward - mean, 0.0)
    if baseline == 'leave_one_out':
        centred = centred * n / np.maximum(n - 1, 1)
    elif baseline != 'mean':
        raise ValueError(f'unknown baseline {baseline!r}: mean or leave_one_out')
    if scale_by_std:
        std = np.sqrt((off**2).sum(-1, keepdims=True) / np.maximum(n - ddof, 1))
        centred = centred / (std + eps)
    same = ~mixed(reward, valid)[:, None]
    return np.where(same, 0.0, centred).astype(np.float32)


def mixed(reward, valid) -> np.ndarray:
    """bool[Q]: groups whose valid rewards differ, the only ones that teach anything (DAPO's dynamic sampling keeps these)."""
    reward, valid = np.asarray(reward), np.asarray(valid, bool)
    top = np.where(valid, reward, -np.inf).max(-1)
    low = np.where(valid, reward, np.inf).min(-1)
    return valid.any(-1) & (top > low)
