"""transformers' `generate` on the requests of `../mixed.py`, in batches padded on the left, float32 on the CPU.

    pip install torch transformers
    python benchmarks/peers/hf_mixed.py --model DIR            # of hf_folder.py

Prints one JSON line. A row ends at its given length: the end token is forbidden before it and forced there; a batch ends with its longest.
"""

import argparse
import os
import pathlib
import random
import sys

os.environ.setdefault('HF_HUB_OFFLINE', '1')
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import torch
import transformers
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList
from workload import emit, mixed, now


class Exact(LogitsProcessor):
    def __init__(self, width: int, ends: list[int], eos: int):
        self.width, self.ends, self.eos = width, torch.tensor(ends), eos

    def __call__(self, ids, scores):
        last = self.ends == ids.shape[1] - self.width + 1
        scores[:, self.eos] = float('-inf')
        scores[last] = float('-inf')
        scores[last, self.eos] = 0.0
        return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True, help='folder of hf_folder.py')
    parser.add_argument('--requests', type=int, default=256)
    parser.add_argument('--batch', type=int, default=64)
    a = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation='sdpa').eval()
    eos, vocab, rng = model.config.eos_token_id, model.config.vocab_size, random.Random(0)
    torch.manual_seed(0)

    def generate(sizes: list[tuple[int, int]]) -> int:
        width, ends = max(prompt for prompt, _ in sizes), [new for _, new in sizes]
        ids, mask = torch.full((len(sizes), width), eos), torch.zeros(len(sizes), width, dtype=torch.long)
        for row, (prompt, _) in enumerate(sizes):
            ids[row, width - prompt :] = torch.tensor([rng.randrange(3, vocab) for _ in range(prompt)])
            mask[row, width - prompt :] = 1
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=max(ends),
                pad_token_id=eos, eos_token_id=eos, logits_processor=LogitsProcessorList([Exact(width, ends, eos)]),
            )  # fmt: skip
        drawn = out[:, width:]
        assert [int((row == eos).nonzero()[0]) + 1 for row in drawn] == ends
        return sum(ends)

    sizes = mixed(a.requests)
    start = now()
    generate([(prompt, 4) for prompt, _ in sizes[: a.batch]])
    first = now() - start
    start = now()
    tokens = sum(generate(sizes[at : at + a.batch]) for at in range(0, len(sizes), a.batch))
    seconds = now() - start
    emit(
        peer='transformers', transformers=transformers.__version__, torch=torch.__version__, requests=a.requests, tokens=tokens,
        seconds=round(seconds, 2), tokens_s=round(tokens / seconds, 2), batch=a.batch, first_s=round(first, 1),
    )  # fmt: skip


if __name__ == '__main__':
    main()
