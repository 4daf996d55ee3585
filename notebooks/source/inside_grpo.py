# %% [markdown]
# # Inside GRPO
#
# Group relative policy optimisation, piece by piece: each piece is written by hand in NumPy, drawn, and held against the function of
# `r1jax` that training calls. Every `assert` below is run; nothing here needs an accelerator.
#
# For a question, $G$ responses $o_1 … o_G$ are drawn from the old policy and rewarded with $r_1 … r_G$. The loss is
# ([DeepSeekMath](https://arxiv.org/abs/2402.03300), equation 3; the R1 report, equation 1)
#
# $$ -\frac1G\sum_i \frac1{|o_i|}\sum_t \Big[\min\big(\rho_{it} A_i,\ \mathrm{clip}(\rho_{it}, 1-\varepsilon, 1+\varepsilon) A_i\big) - \beta\,\mathrm{KL}_{it}\Big],
# \qquad \rho_{it} = \frac{\pi(o_{it})}{\pi_{old}(o_{it})} $$
#
# Four pieces: the advantage $A$, the clipped ratio, the KL estimate, and the weight $\frac1{G|o_i|}$ of a token.

# %% tags=["first"]
# the first cell

# %% tags=["parameters"]
import os

# The one parameter of all these notebooks. 'tiny' takes fewer samples and steps than 'small', to see that all runs.
SIZE = os.environ.get('R1JAX_NOTEBOOK_SIZE', 'small')

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from r1jax.rl.advantage import group_advantage
from r1jax.rl.batch import Item, pack, token_weights
from r1jax.rl.loss import grpo, importance, kl_estimate, nll
from r1jax.types import Batch

DRAWS, STEPS = {'small': (200_000, 150), 'tiny': (20_000, 10)}[SIZE]

# %% [markdown]
# ## 1. The advantage: better than its siblings
#
# $A_i = (r_i - \mathrm{mean}(r)) / \mathrm{std}(r)$. There is no value model: the other samples of the question say what could be
# expected.


# %%
def advantage_by_hand(rewards):
    r = np.asarray(rewards, float)
    if r.max() == r.min():
        return np.zeros_like(r)  # nobody is better than anybody: the group teaches nothing
    return (r - r.mean()) / (r.std(ddof=1) + 1e-6)


rewards = np.array([[2, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 2]], float)  # three questions, four samples each
A = group_advantage(rewards, np.ones_like(rewards, bool))
assert np.allclose(A, [advantage_by_hand(group) for group in rewards], atol=1e-6)
print(np.round(A, 3))

# %% [markdown]
# The same answer is worth more where it is rare. With 16 samples of which $k$ are right:

# %%
G = 16
rights = np.arange(G + 1)
groups = (np.arange(G) < rights[:, None]).astype(float)  # [k, sample]: the first k are right
A = group_advantage(groups, np.ones_like(groups, bool))
assert np.allclose(A, [advantage_by_hand(group) for group in groups], atol=1e-6)

figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout='constrained')
axes[0].plot(rights[1:], A[1:, 0], 'o-', color='tab:green', label='a right answer')
axes[0].plot(rights[:-1], A[:-1, -1], 'o-', color='tab:red', label='a wrong answer')
axes[0].axhline(0, color='gray', lw=0.5)
axes[0].set(title='advantage', xlabel=f'right answers among {G}')
axes[0].legend()
axes[1].bar(rights, np.abs(A).sum(1), color='tab:blue')
axes[1].set(title='Σ |A| of the group: what it teaches', xlabel=f'right answers among {G}')
plt.show()

# %% [markdown]
# At both ends the group teaches nothing at all: `rollout/groups_kept` is the share of groups that do. Dr. GRPO leaves the division by the
# standard deviation out (questions of middle difficulty then weigh most); RLOO compares with the mean of the *others*.

# %%
everyone = np.ones((1, 4), bool)
one = np.array([[2.0, 1.0, 1.0, 0.0]])
dr = group_advantage(one, everyone, scale_by_std=False)
rloo = group_advantage(one, everyone, scale_by_std=False, baseline='leave_one_out')
assert np.allclose(dr, one - one.mean())
assert np.allclose(rloo, [[r - np.delete(one, i).mean() for i, r in enumerate(one[0])]])
print('Dr. GRPO', dr, ' RLOO', rloo.round(3))

# %% [markdown]
# ## 2. The clipped ratio
#
# A rollout may serve several updates. After the first the policy is no longer the one that sampled, and $\rho$ says by how much. Clipping
# takes the gradient away once a token has gone far enough in the direction that its advantage wants; it never stops a token that went the
# wrong way.


# %%
def batch_of(advantage, old_logp=0.0, ref_logp=0.0, sampler_logp=0.0, weight=1.0, shape=(1, 1)):
    """A batch of the given per-token values: the losses read nothing else of it."""

    def full(value):
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), shape)

    i = jnp.zeros(shape, jnp.int32)
    return Batch(i, i, i, i - 1, i, full(weight), full(advantage), full(sampler_logp), full(old_logp), full(ref_logp))


def gain(logp, advantage, clip, beta=0.0):
    """What one token adds to the objective, by r1jax."""
    return -grpo(logp[None, None], batch_of(advantage), clip, beta)


def gain_by_hand(rho, advantage, low, high):
    return np.minimum(rho * advantage, np.clip(rho, 1 - low, 1 + high) * advantage)


def slope_by_hand(rho, advantage, low, high):
    """d gain / d log π: ρA where the ratio is not clipped."""
    clipped = rho > 1 + high if advantage > 0 else rho < 1 - low
    return np.where(clipped, 0.0, rho * advantage)


rho = np.linspace(0.05, 2.5, 101)
figure, axes = plt.subplots(1, 4, figsize=(16, 3), layout='constrained')
for ax, (advantage, clip) in zip(
    axes, [(1.0, (0.2, 0.2)), (-1.0, (0.2, 0.2)), (1.0, (0.2, 0.28)), (-1.0, (10.0, 10.0))], strict=True
):
    values = jax.vmap(lambda x, a=advantage, c=clip: gain(x, a, c))(jnp.log(rho))
    slopes = jax.vmap(jax.grad(lambda x, a=advantage, c=clip: gain(x, a, c)))(jnp.log(rho))
    assert np.allclose(values, gain_by_hand(rho, advantage, *clip), atol=1e-5)
    assert np.allclose(slopes, slope_by_hand(rho, advantage, *clip), atol=1e-5)
    ax.plot(rho, values, label='objective')
    ax.plot(rho, slopes, '--', label='its gradient in log π')
    ax.axvline(1, color='gray', lw=0.5)
    ax.set(title=f'A = {advantage:+.0f}, ε = {clip[0]} below, {clip[1]} above', xlabel='ρ')
axes[0].legend()
plt.show()

# %% [markdown]
# The third panel is DAPO's *clip higher*: rare tokens may grow further. The fourth has R1's $\varepsilon = 10$ (Nature 645, Methods): it
# hardly ever clips. `policy/clip_fraction` in the metrics is the share of tokens on a flat part.
#
# ## 3. The KL estimate
#
# How far is the policy from the reference? The exact divergence needs the whole vocabulary at each token. With $x = \log\pi_{ref} -
# \log\pi$ at the *sampled* token, three estimators cost nothing ([Schulman](http://joschu.net/blog/kl-approx.html)): $k_1 = -x$, $k_2 =
# x^2/2$, $k_3 = e^x - x - 1$.

# %%
x = np.linspace(-2, 2, 81).astype(np.float32)
by_hand = {'k1': -x, 'k2': x**2 / 2, 'k3': np.exp(x.astype(np.float64)) - x - 1}
figure, axes = plt.subplots(1, 2, figsize=(11, 3), layout='constrained')
for kind, values in by_hand.items():
    assert np.allclose(kl_estimate(jnp.zeros_like(x), jnp.asarray(x), kind), values, atol=1e-6)
    axes[0].plot(x, values, label=kind)
axes[0].axhline(0, color='gray', lw=0.5)
axes[0].set(title='estimate from one token', xlabel='log π_ref − log π')
axes[0].legend()

rng = np.random.default_rng(0)
logits = rng.normal(size=10)
names, spread = [], []
for shift in (0.1, 0.5, 1.0):
    policy, reference = (np.exp(z - np.logaddexp.reduce(z)) for z in (logits, logits + shift * rng.normal(size=10)))
    exact = (policy * np.log(policy / reference)).sum()
    drawn = rng.choice(10, DRAWS, p=policy)
    found = {k: np.asarray(kl_estimate(np.log(policy)[drawn], np.log(reference)[drawn], k)) for k in by_hand}
    print(f'exact KL {exact:.5f}   ' + '   '.join(f'{k}: {v.mean():.5f} ± {v.std():.3f}' for k, v in found.items()))
    names += [f'{k}, {exact:.2g}' for k in found]
    spread += [v.std() / exact for v in found.values()]
axes[1].bar(names, spread, color=['tab:blue', 'tab:orange', 'tab:green'] * 3)
axes[1].set(title='standard deviation of an estimate / exact KL', yscale='log')
axes[1].tick_params('x', rotation=40)
plt.show()

# %% [markdown]
# $k_1$ and $k_3$ are right on average, $k_2$ nearly so for small distances; $k_1$ is noisy and negative half of the time, $k_3$ never is.
# R1 uses $k_3$. (As a *loss*, $k_1$ is worse than noisy: its gradient is zero in expectation.) One detail of the implementation matters:
# in float32, $e^x - x - 1$ goes below zero for small $x$; `expm1(x) - x` does not.

# %%
small = jnp.asarray(np.linspace(-1e-3, 1e-3, 2001), jnp.float32)
naive, ours = jnp.exp(small) - small - 1, kl_estimate(jnp.zeros_like(small), small, 'k3')
print(f'exp(x) - x - 1: smallest {naive.min():.1e};  expm1(x) - x: smallest {ours.min():.1e}')
assert naive.min() < 0 <= ours.min()

# %% [markdown]
# ## 4. The weight of a token
#
# $\frac1{G|o_i|}$ says that each *response* counts alike, so that a token of a long response counts less. Other choices are other
# weights and nothing else; in r1jax normalisation is data, `Batch.weight`, and every loss is $\sum w \cdot$ (per token).

# %%
lengths, kept, LONGEST = np.array([4, 12, 30]), np.ones(3, bool), 40
by_hand = {
    'grpo': 1 / (3 * lengths),
    'dr_grpo': np.full(3, 1 / (3 * LONGEST)),
    'token_mean': np.full(3, 1 / lengths.sum()),
}
figure, axes = plt.subplots(1, 3, figsize=(13, 2.4), sharey=True, layout='constrained')
for ax, (how, weights) in zip(axes, by_hand.items(), strict=True):
    ours = token_weights(lengths, kept, how, LONGEST)
    assert np.allclose(ours, weights, rtol=1e-6)
    for i, (length, w) in enumerate(zip(lengths, ours, strict=True)):
        ax.barh(i, length, color=plt.cm.viridis(float(w) / 0.09), edgecolor='white')
        ax.text(length + 0.5, i, f'{w:.4f} a token, {w * length:.2f} in all', va='center', fontsize=8)
    ax.set(title=f'{how}: weights sum to {(ours * lengths).sum():.2f}', xlim=(0, 58), xlabel='tokens', yticks=[])
plt.show()

# %% [markdown]
# ## 5. All of it, on a model
#
# A small transformer with random weights, three questions with four responses each. Training packs responses into rows and lets those of
# a question share one copy of their prompt; by hand each response is a row of its own, and the loss is the double sum of the equation.

# %%
from r1jax.config import ModelConfig
from r1jax.nn.transformer import forward, init_boxed, unbox, unembedding
from r1jax.rl.logprobs import token_logprobs

model = ModelConfig(vocab=40, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, hidden=64, context=64)
params = unbox(init_boxed(model, jax.random.key(0)))
rng = np.random.default_rng(1)
prompts = [rng.integers(3, 40, n) for n in (5, 8, 6)]
answers = [[rng.integers(3, 40, rng.integers(2, 15)) for _ in range(4)] for _ in prompts]
rewards = rng.integers(0, 3, (3, 4)).astype(float)
A = group_advantage(rewards, np.ones_like(rewards, bool))


@jax.jit
def row_logprobs(params, row):
    """f32[1,T-1]: log π of each token after the first of one plain row."""
    position = jnp.arange(row.shape[1])[None]
    hidden, _, _ = forward(model, params, row, position, jnp.zeros_like(row), jnp.full_like(row, -1))
    logp = jax.nn.log_softmax(hidden[:, :-1] @ unembedding(params).T)
    return jnp.take_along_axis(logp, row[:, 1:, None], 2)[..., 0]


def logprobs_by_hand(params, prompt, answer):
    row = np.zeros((1, 32), np.int32)  # padded behind, so that it compiles once
    row[0, : len(prompt) + len(answer)] = [*prompt, *answer]
    return np.asarray(row_logprobs(params, row))[0, len(prompt) - 1 : len(prompt) + len(answer) - 1]


items = []
for q, prompt in enumerate(prompts):
    for g, answer in enumerate(answers[q]):
        now = logprobs_by_hand(params, prompt, answer)
        old = now + 0.3 * rng.normal(size=len(answer)).astype(np.float32)  # as if some updates ago
        reference = now + 0.1 * rng.normal(size=len(answer)).astype(np.float32)
        items.append(Item(prompt, answer, 1 / (12 * len(answer)), q, float(A[q, g]), old, old, reference))

CLIP, BETA = (0.2, 0.2), 0.05


def loss_by_hand(params):
    total = 0.0
    for item in items:
        logp, summed = logprobs_by_hand(params, item.prompt, item.response), 0.0
        for t in range(len(item.response)):
            rho = np.exp(logp[t] - item.old_logp[t])
            x = item.ref_logp[t] - logp[t]
            summed += gain_by_hand(rho, item.advantage, *CLIP) - BETA * (np.exp(x) - x - 1)
        total += summed / len(item.response)
    return -total / len(items)


def packed(items, length, rows):
    """The same items in `rows` rows a microbatch: a list of microbatches."""
    batch, count, _ = pack(items, length, rows, capacity=len(items))
    return [jax.tree.map(lambda a, m=m: jnp.asarray(a[m]), batch) for m in range(count)]


@jax.jit
def loss(params, batch):
    hidden, _, _ = forward(model, params, batch.tokens, batch.position, batch.segment, batch.parent)
    logp, _ = token_logprobs(hidden, unembedding(params), batch.tokens, batch.source, 1.0)
    return grpo(logp, batch, CLIP, BETA)


whole = packed(items, length=64, rows=4)
print(f'by hand {loss_by_hand(params):+.6f}   r1jax {sum(loss(params, b) for b in whole):+.6f}')
assert np.isclose(loss_by_hand(params), sum(loss(params, b) for b in whole), atol=1e-5)

# %% [markdown]
# Because weights are data, it does not matter how a batch is cut. Rows of another length, one row a microbatch, the same gradient:


# %%
def gradient(batches):
    parts = [jax.grad(loss)(params, b) for b in batches]
    return jax.tree.map(lambda *g: sum(g), *parts)


cut = packed(items, length=48, rows=1)
one, other = gradient(whole), gradient(cut)
off = jax.tree.map(lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a)), one, other)
worst = max(jax.tree.leaves(off))
print(f'microbatches: {len(whole)} and {len(cut)}; the gradients differ by {worst:.0e} of their norm at most')
assert worst < 1e-4

# %% [markdown]
# And GRPO contains supervised learning: with ratio 1, advantage 1 and no KL its gradient is that of next-token training. The recipe's
# stages differ in what fills a batch, not in the loop.


# %%
def fresh(loss_of):
    def total(params, batch):
        hidden, _, _ = forward(model, params, batch.tokens, batch.position, batch.segment, batch.parent)
        logp, _ = token_logprobs(hidden, unembedding(params), batch.tokens, batch.source, 1.0)
        return loss_of(logp, batch)

    return jax.grad(total)(params, whole[0])


def grpo_on_policy(logp, batch):
    ones = jnp.ones_like(batch.advantage)
    frozen = jax.lax.stop_gradient(logp)
    return grpo(logp, batch_of(ones, old_logp=frozen, weight=batch.weight, shape=ones.shape), CLIP, beta=0.0)


for a, b in zip(jax.tree.leaves(fresh(grpo_on_policy)), jax.tree.leaves(fresh(nll)), strict=True):
    assert np.allclose(a, b, atol=1e-6)
print('gradients are equal')

# %% [markdown]
# ## 6. When sampler and trainer disagree
#
# Other kernels, int8 weights or an older policy in the sampler make $\pi_{sampler} \ne \pi_{old}$. Truncated importance weights
# $\min(\pi_{old}/\pi_{sampler}, c)$ correct for it (`GRPO.importance_cap`).

# %%
gap = np.linspace(-3, 3, 61)
weights = importance(batch_of(1.0, old_logp=gap, shape=(1, 61)), cap=2.0)[0]
assert np.allclose(weights, np.minimum(np.exp(gap), 2.0), atol=1e-6)
figure, ax = plt.subplots(figsize=(4, 2.4), layout='constrained')
ax.plot(gap, weights)
ax.set(title='weight of a token, cap 2', xlabel='log π_old − log π_sampler')
plt.show()

# %% [markdown]
# ## 7. It learns
#
# The smallest policy there is: ten logits, one for each digit. "Which digit do I think of?" The reward knows: 7. Three lines are GRPO;
# the rest is a softmax. With $\beta$ the policy stays nearer to where it began.

# %%
QUESTIONS, SAMPLES = 4, 8


@functools.partial(jax.jit, static_argnames='beta')
def update(logits, drawn, advantage, ref_logp, beta):
    def loss(z):
        logp = jax.nn.log_softmax(z)
        batch = batch_of(
            advantage, jax.lax.stop_gradient(logp)[drawn], ref_logp[drawn], weight=1 / drawn.size, shape=drawn.shape
        )
        return grpo(logp[drawn], batch, (0.2, 0.2), beta)

    return logits - 1.0 * jax.grad(loss)(logits)


figure, axes = plt.subplots(1, 3, figsize=(13, 2.6), layout='constrained')
for beta in (0.01, 0.3, 1.0):
    rng, logits = np.random.default_rng(0), jnp.zeros(10)
    ref_logp = jax.nn.log_softmax(logits)
    course = []
    for _ in range(STEPS):
        p = np.asarray(jax.nn.softmax(logits), float)
        drawn = rng.choice(10, (QUESTIONS, SAMPLES), p=p / p.sum())
        reward = (drawn == 7).astype(float)
        A = group_advantage(reward, np.ones_like(reward, bool))
        logits = update(logits, drawn, A, ref_logp, beta)
        logp = jax.nn.log_softmax(logits)
        course.append((p[7], float((jnp.exp(logp) * (logp - ref_logp)).sum()), (reward.std(1) > 0).mean()))
    for ax, values, title in zip(
        axes, zip(*course, strict=True), ('P(7)', 'KL to the start', 'groups that teach'), strict=True
    ):
        ax.plot(values, label=f'β = {beta}')
        ax.set(title=title, xlabel='step')
    print(f'β = {beta}: P(7) = {course[-1][0]:.3f}, KL {course[-1][1]:.3f} nats')
axes[0].legend()
plt.show()

# %% [markdown]
# The third panel is what one fights in practice: as the policy gets better, fewer groups differ, and a rollout teaches less. Harder
# questions, or `max_refills` (DAPO's dynamic sampling), keep it going.
#
# - The code: `r1jax/rl/loss.py`, `advantage.py`, `batch.py`, 440 lines in all, pure functions of arrays.
# - Variants as values of this one loss (Dr. GRPO, DAPO, GSPO, RLOO): [docs/algorithms.md](../docs/algorithms.md).
# - The loop around it: `r1_zero.ipynb`.
