"""Tunix's GRPOLearner with its own sampler and Llama model on a workload of `../workload.py`, JAX on the CPU in float32.

    pip install google-tunix transformers
    python benchmarks/peers/tunix_step.py --workload T            # TV; W and V: --model DIR of hf_folder.py

Prints one JSON line. Times are read inside real learner steps, each phase blocked to its end; the first two, which compile, are left
out (of V the first alone, as a step takes six minutes: give it three or more):
  gen    RLCluster.generate, one call for all sequences
  score  RLCluster.get_ref_per_token_logps
  train  the sum of RLCluster.update_actor over the microbatches

With a tail, Sampler._sample is wrapped, as there is no hook for a row's logits: the end token is forbidden before a row's end and
forced there. Tunix drops it, so it comes one token after the row's length.
"""

import argparse
import os
import pathlib
import statistics
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.generate import sampler as samplers
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params as llama_params
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout import base_rollout
from workload import WORKLOADS, emit, lengths, now, summary, texts


class Numbers:
    """A tokenizer of texts that are ids."""

    def encode(self, text, **_):
        return [int(x) for x in text.split()]

    def decode(self, ids, **_):
        return ' '.join(map(str, ids))

    def bos_id(self):
        return 0  # falsy: the sampler then adds none

    def eos_id(self):
        return 1

    def pad_id(self):
        return 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workload', choices=list(WORKLOADS), default='T')
    parser.add_argument('--model', default='', help='folder of hf_folder.py, for W and V')
    parser.add_argument(
        '--steps', type=int, default=0, help='timed steps after the first two (default 1; 6 for T and TV)'
    )
    parser.add_argument('--micro', type=int, default=0, help='questions a microbatch (default 1 for W and V, else all)')
    a = parser.parse_args()
    w = WORKLOADS[a.workload]
    lens, new, Q = lengths(w), w['new'], w['questions']
    B, micro = len(lens), a.micro or (1 if w['pretrained'] else Q)
    cold = 1 if a.workload == 'V' else 2
    steps = cold + (a.steps or (1 if w['pretrained'] else 6))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ('fsdp', 'tp'))
    config = llama.ModelConfig(
        num_layers=w['layers'], vocab_size=w['vocab'], embed_dim=w['d'], hidden_dim=w['ffn'], num_heads=w['heads'],
        head_dim=w['hd'], num_kv_heads=w['kv'], rope_theta=int(w['theta']), norm_eps=w['eps'], weight_tying=True,
    )  # fmt: skip

    def model():
        with mesh:
            if w['pretrained']:
                return llama_params.create_model_from_safe_tensors(a.model, config, mesh, dtype=jnp.float32)
            m = llama.Llama3(config, rngs=nnx.Rngs(0))
            key, state = jax.random.key(1), nnx.state(m)  # its MLP starts at zero: fill it

            def fill(x):
                return 0.02 * jax.random.normal(jax.random.fold_in(key, x.size), x.shape) if x.ndim == 2 else x

            nnx.update(m, jax.tree.map(fill, state))
            return m

    if w['pretrained']:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(a.model)
        prompts = texts(tokenizer.encode, Q, w['prompt'] - 1)  # the sampler prepends BOS itself
    else:
        tokenizer, rng = Numbers(), np.random.default_rng(0)
        prompts = [' '.join(map(str, rng.integers(3, w['vocab'], w['prompt']))) for _ in range(Q)]
    end = [w['vocab']]  # an id that no model emits
    tail = 'tail' in w
    if tail:
        real = w['pretrained']
        end = [tokenizer.eos_token_id if real else tokenizer.eos_id()]
        pad = tokenizer.pad_token_id if real else tokenizer.pad_id()
        plain = samplers.Sampler._sample

        def exact(self, logits, eos, cache, sampler_state):
            n = sampler_state.decoding_step + 1 - w['prompt']  # new tokens so far
            last, ids = (jnp.array(lens) == n)[:, None, None], jnp.arange(w['vocab'])
            banned = jnp.where(last, ids != end[0], (ids == end[0]) | (ids == pad))  # it masks by the padding id
            return plain(self, jnp.where(banned, -jnp.inf, logits[:, -1:]), eos, cache, sampler_state)

        samplers.Sampler._sample = exact
    seen = {'gen': [], 'score': [], 'train': [], 'step': []}
    spent = [0.0]

    class Timed(GRPOLearner):
        def _generate_and_compute_advantage(self, *p, **k):
            out = super()._generate_and_compute_advantage(*p, **k)
            jax.block_until_ready((out.ref_per_token_logps, out.advantages))
            assert out.completion_ids.shape == (B, new) and out.prompt_ids.shape == (B, w['prompt'])
            assert not tail or np.asarray(out.completion_mask).sum(1).tolist() == lens
            return out

        def _run_global_step(self, *p, **k):
            spent[0], start = 0.0, now()
            super()._run_global_step(*p, **k)
            jax.block_until_ready(nnx.state(self.rl_cluster.actor_trainer.model))
            seen['step'].append(now() - start)
            seen['train'].append(spent[0])

    class Cluster(rl_cluster.RLCluster):
        def generate(self, *p, **k):
            start = now()
            out = super().generate(*p, **k)
            seen['gen'].append(now() - start)
            return out

        def get_ref_per_token_logps(self, *p, **k):
            start = now()
            out = jax.block_until_ready(super().get_ref_per_token_logps(*p, **k))
            seen['score'].append(now() - start)
            return out

        def update_actor(self, *p, **k):
            start = now()
            super().update_actor(*p, **k)
            jax.block_until_ready(nnx.state(self.actor_trainer.model))
            spent[0] += now() - start

    role = rl_cluster.Role
    rollout = base_rollout.RolloutConfig(
        max_tokens_to_generate=new, max_prompt_length=w['prompt'], kv_cache_size=w['prompt'] + new, temperature=1.0, top_p=1.0,
        top_k=None, eos_tokens=end,
    )  # fmt: skip
    training = rl_cluster.RLTrainingConfig(
        actor_optimizer=optax.adamw(w['lr']), eval_every_n_steps=10**9, max_steps=steps, mini_batch_size=Q,
        train_micro_batch_size=micro, rollout_micro_batch_size=Q, compute_logps_micro_batch_size=micro,
    )  # fmt: skip
    cluster = Cluster(
        actor=model(),
        reference=model(),
        tokenizer=tokenizer,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh={role.ACTOR: mesh, role.REFERENCE: mesh, role.ROLLOUT: mesh},
            rollout_engine='vanilla',
            rollout_config=rollout,
            training_config=training,
        ),
    )
    learner = Timed(
        rl_cluster=cluster,
        algo_config=GRPOConfig(num_generations=w['group'], num_iterations=1, beta=w['beta']),
        reward_fns=lambda prompts, completions, **_: [float(sum(map(ord, c)) % 7) for c in completions],
    )
    learner.train([{'prompts': np.array(prompts)} for _ in range(steps)])
    out = {f'{k}_s': round(statistics.median(v[cold:]), 4) for k, v in seen.items()}
    spread = {k: summary(v[cold:]) for k, v in seen.items()}
    versions = {'tunix': importlib.metadata.version('google-tunix'), 'jax': jax.__version__}
    emit(peer='tunix', workload=w['name'], first_step_s=seen['step'][0], spread=spread, **versions, **out)


if __name__ == '__main__':
    main()
