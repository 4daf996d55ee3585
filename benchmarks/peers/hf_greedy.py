"""transformers' `generate`, greedily, on the requests of `../serve.py`, in batches padded on the left, float32 on the CPU.

    pip install torch transformers
    python benchmarks/peers/hf_greedy.py --model DIR --requests FILE --batch 16     # DIR of hf_folder.py

FILE is a JSON list of [prompt, most new tokens]. Prints one JSON line. Counted are the tokens of each row up to its end, the end token
included; a batch goes on until its last row is over.
"""

import argparse
import json
import os
import pathlib
import sys

os.environ.setdefault('HF_HUB_OFFLINE', '1')
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from workload import emit, now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True, help='folder of hf_folder.py')
    parser.add_argument('--requests', required=True)
    parser.add_argument('--batch', type=int, default=16)
    a = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation='sdpa').eval()
    tokenizer, eos = PreTrainedTokenizerFast.from_pretrained(a.model), model.config.eos_token_id
    requests = json.loads(pathlib.Path(a.requests).read_text())

    def generate(batch: list, most: int | None = None) -> int:
        rows = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt, _ in batch]
        width = max(map(len, rows))
        ids, mask = torch.full((len(rows), width), eos), torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, width - len(row) :], mask[i, width - len(row) :] = torch.tensor(row), 1
        limits = [most or limit for _, limit in batch]
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max(limits),
                pad_token_id=eos,
                eos_token_id=eos,
            )
        new = out[:, width:]
        ends = [(row == eos).nonzero() for row in new]
        lengths = (int(end[0]) + 1 if len(end) else new.shape[1] for end in ends)
        return sum(min(length, limit) for length, limit in zip(lengths, limits, strict=True))

    generate(requests[: a.batch], most=4)
    start = now()
    tokens = sum(generate(requests[at : at + a.batch]) for at in range(0, len(requests), a.batch))
    seconds = now() - start
    emit(
        peer='transformers', transformers=transformers.__version__, torch=torch.__version__, requests=len(requests), batch=a.batch,
        tokens=tokens, seconds=round(seconds, 2), tokens_s=round(tokens / seconds, 2),
    )  # fmt: skip


if __name__ == '__main__':
    main()
