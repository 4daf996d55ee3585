"""TRL's GRPOTrainer on a workload of `../workload.py`, on the CPU in float32.

    pip install torch trl
    python benchmarks/peers/trl_step.py --workload T              # TV; W and V: --model DIR of hf_folder.py

Prints one JSON line. Times are read inside real trainer steps, the first of which is left out (not of V, where a step
takes five minutes and warming up is nothing beside it: give it three or more):
  gen    GRPOTrainer._generate_single_turn, all sequences of the step
  score  the reference's log-probabilities
  train  the step less GRPOTrainer._prepare_inputs: forward, backward, AdamW over all microbatches

Its defaults of bfloat16 and gradient checkpointing are off, as ours are. Every response has its given length: min_new_tokens where that
is the maximum, else a logits processor that forbids the end token before a row's end and forces it there.
"""

import argparse
import functools
import os
import pathlib
import random
import statistics
import sys
import tempfile

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer
from workload import WORKLOADS, emit, lengths, now, summary, texts


def tiny(w: dict, folder: str):
    """A folder with random weights and a tokenizer of one token a word; and prompts."""
    vocab = {'<unk>': 0, '<eos>': 1, '<pad>': 2, '<bos>': 3} | {f'w{i}': i for i in range(4, w['vocab'])}
    plain = Tokenizer(models.WordLevel(vocab, unk_token='<unk>'))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {'eos_token': '<eos>', 'pad_token': '<pad>', 'bos_token': '<bos>', 'unk_token': '<unk>'}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, **special)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=w['vocab'], hidden_size=w['d'], intermediate_size=w['ffn'], num_hidden_layers=w['layers'],
        num_attention_heads=w['heads'], num_key_value_heads=w['kv'], head_dim=w['hd'], rms_norm_eps=w['eps'],
        rope_parameters={'rope_type': 'default', 'rope_theta': w['theta']}, tie_word_embeddings=True, max_position_embeddings=512,
        bos_token_id=3, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rng = random.Random(0)
    return [' '.join(f'w{rng.randrange(4, w["vocab"])}' for _ in range(w['prompt'])) for _ in range(w['questions'])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workload', choices=list(WORKLOADS), default='T')
    parser.add_argument('--model', default='', help='folder of hf_folder.py, for W and V')
    parser.add_argument('--steps', type=int, default=0, help='timed steps after the first (default 1; 6 for T and TV)')
    parser.add_argument('--micro', type=int, default=0, help='sequences a microbatch (default 8 for W and V, else all)')
    a = parser.parse_args()
    w = WORKLOADS[a.workload]
    lens, folder = lengths(w), tempfile.mkdtemp()
    B, cold = len(lens), 0 if a.workload == 'V' else 1
    steps = cold + (a.steps or (1 if w['pretrained'] else 6))
    micro = a.micro or (8 if w['pretrained'] else B)
    prompts = None if w['pretrained'] else tiny(w, folder)
    source = a.model if w['pretrained'] else folder
    tokenizer = AutoTokenizer.from_pretrained(source)
    prompts = prompts or texts(lambda s: tokenizer(s)['input_ids'], w['questions'], w['prompt'])
    assert all(len(tokenizer(s)['input_ids']) == w['prompt'] for s in prompts)
    tokenizer.padding_side = 'left'

    class Exact(LogitsProcessor):
        def __call__(self, ids, scores):
            n, eos = ids.shape[1] - w['prompt'] + 1, tokenizer.eos_token_id
            end = [i for i, x in enumerate(lens) if x == n]
            scores[:, eos] = float('-inf')
            scores[end] = float('-inf')
            scores[end, eos] = 0.0
            return scores

    tail = 'tail' in w
    seen = {'gen': [], 'prepare': [], 'score': [], 'step': []}

    class Timed(GRPOTrainer):
        def _generate_single_turn(self, *p, **k):
            start = now()
            out = super()._generate_single_turn(*p, **k)
            seen['gen'].append(now() - start)
            return out

        def _get_per_token_logps_and_entropies(self, *p, **k):
            start = now()
            out = super()._get_per_token_logps_and_entropies(*p, **k)
            if not torch.is_grad_enabled():
                seen['score'].append(now() - start)
            return out

        def _prepare_inputs(self, x):
            start = now()
            out = super()._prepare_inputs(x)
            seen['prepare'].append(now() - start)
            return out

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.at = now()

        def on_step_end(self, *_, **__):
            seen['step'].append(now() - self.at)
            self.at = now()

    with tempfile.TemporaryDirectory() as tmp:
        config = GRPOConfig(
            output_dir=tmp, use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, per_device_train_batch_size=micro,
            gradient_accumulation_steps=B // micro, num_generations=w['group'], max_completion_length=w['new'], beta=w['beta'],
            temperature=1.0, learning_rate=w['lr'], max_steps=steps, save_strategy='no', report_to='none', logging_steps=1,
            disable_tqdm=True, generation_kwargs={} if tail else {'min_new_tokens': w['new']}, dataloader_pin_memory=False, seed=0,
            model_init_kwargs={'dtype': 'float32', 'attn_implementation': 'sdpa'},
        )  # fmt: skip
        trainer = Timed(
            model=source,
            reward_funcs=lambda completions, **_: [float(sum(map(ord, c)) % 7) for c in completions],
            args=config,
            processing_class=tokenizer,
            callbacks=[Clock()],
            train_dataset=Dataset.from_dict({'prompt': prompts * max(4, steps + 1)}),
        )
        if tail:
            hook = LogitsProcessorList([Exact()])
            trainer.model.generate = functools.partial(trainer.model.generate, logits_processor=hook)
        trainer.train()
        logs = [h['completions/mean_length'] for h in trainer.state.log_history if 'completions/mean_length' in h]
        assert all(abs(mean - sum(lens) / B) < 1e-3 for mean in logs), logs

    def by_step(values):
        per = len(values) // steps
        return [sum(values[i * per : (i + 1) * per]) for i in range(steps)]

    parts = {'gen': by_step(seen['gen']), 'score': by_step(seen['score']), 'step': seen['step']}
    parts['train'] = [s - p for s, p in zip(seen['step'], by_step(seen['prepare']), strict=True)]
    out = {f'{k}_s': round(statistics.median(v[cold:]), 4) for k, v in parts.items()}
    spread = {k: summary(v[cold:]) for k, v in parts.items()}
    emit(
        peer='trl',
        workload=w['name'],
        trl=trl.__version__,
        torch=torch.__version__,
        first_step_s=seen['step'][0],
        spread=spread,
        **out,
    )


if __name__ == '__main__':
    main()
