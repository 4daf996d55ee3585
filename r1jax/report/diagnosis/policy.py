"""Where the policy goes: clipped, far from the reference, certain or at random, or not the one that sampled."""

from __future__ import annotations

from collections.abc import Iterator

from r1jax.report.diagnosis.finding import Finding, Severity, course, percent
from r1jax.report.diagnosis.rollouts import SOLVED
from r1jax.report.workdir import StageRun

# Of the tokens, whose gradient is cut. R1 Methods: a small ε truncates the gradient of many tokens. Whole responses (ratio 'sequence') are
# clipped by the score: GSPO's authors report 15 % at their setting (arXiv 2507.18071, section 5.2)
CLIPPED, CLIPPED_SEQUENCES = 0.1, 0.5
# Nats a token from the reference. Healthy stages of this project ended at 0.005 to 0.17 (tiny_zero, tiny_r1, smollm2_zero); the one whose
# reward was hacked at 10 (tiny_r1_hacked)
FAR, LOST = 0.5, 5.0
STILL = 1e-5  # nats a token: a policy that has hardly moved. Healthy stages were beyond 1e-4 in a fifth of their steps
# Of its first value. On its own low entropy is no fault: tiny_zero ends at 3 % of it, and right. While there is much left to learn it
# means that no other answer is tried any more
COLLAPSED = 0.1
RANDOM = 2.0  # times its first value, and …
NOISE = 1.0  # … nats a token, from which a policy writes at random
# |log π_update − log π_sampler|, the mean of a token: weights of 1 % and 10 % off, in expectation. The same model in float32 has 1e-6 here,
# engines of other kernels some 1e-3 (Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL Training, 2025)
GAP, WIDE = 0.01, 0.1
GAP_MAX = 1.0  # nats of one token: it was drawn e times as often, or as rarely, as the update believes


def clipped(stage: StageRun) -> Iterator[Finding]:
    share = course(stage, 'policy/clip_fraction')
    limit = CLIPPED_SEQUENCES if stage.part('loss').get('ratio') == 'sequence' else CLIPPED
    if share and share.last > limit:
        yield Finding(stage.name, 'clipped', 'warning',
                      f'{percent(share.last)} of the tokens had a clipped ratio, and no gradient',
                      'fewer updates a rollout (source.minibatches, inner_epochs), a lower learning rate, or a wider clip (R1 has 10)',
                      share.end, {'policy/clip_fraction': share.last})  # fmt: skip


def far(stage: StageRun) -> Iterator[Finding]:
    """KL that grew until the policy is another model than the reference, or that never began to."""
    kl = course(stage, 'policy/kl')
    if not kl:
        return
    numbers = {'first': kl.first, 'last': kl.last}
    if kl.last > FAR:
        yield Finding(stage.name, 'kl', 'problem' if kl.last > LOST else 'warning',
                      f'KL to the reference is {kl.last:.3g} nats a token ({kl.first:.3g} at first)',
                      'does the held-out figure rise with the reward? If it does, let the reference follow (source.reference_every, as R1 '
                      'does); if not, the reward has a hole: stop before it, raise loss.beta or lower the learning rate',
                      kl.end, numbers)  # fmt: skip
    elif kl.last < STILL and not stage.part('source').get('reference_every'):
        yield Finding(stage.name, 'still', 'problem', f'after {kl.whole[1]:,} steps KL to the reference is {kl.last:.1g} nats a token: '
                      'the policy has not moved', 'raise the learning rate (ten times is a fair step; LoRA wants ten times that of full '
                      'training); see that warm-up ends, and that groups teach', kl.end, numbers)  # fmt: skip


def entropy(stage: StageRun) -> Iterator[Finding]:
    nats = course(stage, 'policy/entropy')
    if not nats or nats.first <= 0:
        return
    numbers = {'first': nats.first, 'last': nats.last}
    told = f'entropy went from {nats.first:.3g} to {nats.last:.3g} nats a token'
    right, kept = course(stage, 'reward/accuracy'), course(stage, 'rollout/groups_kept')
    unsolved = right.last < SOLVED if right else bool(kept and kept.last < 0.5)
    if nats.last < COLLAPSED * nats.first and unsolved and _stalled(stage):
        yield Finding(stage.name, 'entropy_collapse', 'warning', f'{told}, and the reward rises no more: the policy repeats itself',
                      'raise loss.clip_high above clip_low (DAPO, 0.28), keep temperature 1, raise loss.beta, lower the learning rate; '
                      'start again from before the collapse', nats.whole, numbers)  # fmt: skip
    elif nats.last > RANDOM * nats.first and nats.last > NOISE:
        yield Finding(stage.name, 'entropy_rise', 'warning', f'{told}: the policy comes to write at random',
                      'lower the learning rate; an entropy this high also comes from a reward that no response earns',
                      nats.whole, numbers)  # fmt: skip


def sampler_gap(stage: StageRun) -> Iterator[Finding]:
    """The policy that drew is not the one that is updated."""
    mean, most = course(stage, 'policy/sampler_gap_mean'), course(stage, 'policy/sampler_gap_max')
    if not mean or not most or (mean.last <= GAP and most.last <= GAP_MAX):
        return
    corrected = bool(stage.part('loss').get('importance_cap'))
    grave = mean.last > WIDE
    severity: Severity = 'note' if corrected and not grave else 'problem' if grave and not corrected else 'warning'
    seen = f'sampler and update differ by {mean.last:.2g} nats a token in the mean and {most.last:.2g} at most'
    yield Finding(stage.name, 'sampler_gap', severity, f'{seen}{"; loss.importance_cap corrects for it" if corrected else ""}',
                  'set loss.importance_cap=2; look for what differs: int8 weights or a stale policy (sample.weights, split), '
                  'bfloat16 in one of the two', mean.end,
                  {'policy/sampler_gap_mean': mean.last, 'policy/sampler_gap_max': most.last})  # fmt: skip


def _stalled(stage: StageRun) -> bool:
    """Whether the reward did not rise over the second half of the steps."""
    steps, _ = stage.column('reward/mean')
    half = steps[len(steps) // 2] if steps.size else 0
    later = StageRun(stage.name, {}, {}, [line for line in stage.lines if line.get('step', 0) >= half])
    reward = course(later, 'reward/mean')
    return reward is None or reward.change <= 0


CHECKS = (clipped, far, entropy, sampler_gap)
