"""Distillation of R1 into Qwen2.5-Math-1.5B: next-token training on R1's own responses, without RL (R1 report §2.4).

    hf download Qwen/Qwen2.5-Math-1.5B --local-dir weights/Qwen2.5-Math-1.5B
    hf download open-r1/Mixture-of-Thoughts --repo-type dataset --local-dir data/mixture_of_thoughts
    hf download HuggingFaceH4/MATH-500 --repo-type dataset --local-dir data/math500
    pip install -e '.[tpu,math,data]'        # or cuda
    r1jax run experiments/distill_qwen_1_5b.py

The paper's 800k examples are not published. In their place stand 349,317 responses of R1 to problems of mathematics, code and science,
verified where that could be (Mixture-of-Thoughts; read its card for the licences of its parts), those of up to 32,000 tokens. Training is
the paper's: batches of 64, two epochs, learning rate 1e-4, cosine to a tenth, rows of 32,768 tokens.

`weights` and `data` are folders, or links to them, where the command is run; `--set distill.start=FOLDER/` names other weights. The
unembedding stays tied to the embedding, as the base has it; the released student has one of its own.

Hardware: 8 chips of 80 GB or more (TPU v5p-16, 8 H100): weights, Adam and gradients take 3 GB of each, the inputs of the layers of one row
6 GB.
NOT YET RUN. Expected: MATH-500 toward the paper's 83.9 % pass@1 (which measures
4 to 64 samples of up to 32,768 tokens; here 4), with less than half of its data.
"""

import dataclasses

from r1jax.config import NLL, Eval, MeshConfig, OptimConfig, Part, Recipe, RowConfig, SampleConfig, Stage, Stored
from r1jax.data.sets import Named
from r1jax.data.table import TableExamples
from r1jax.presets import named
from r1jax.rewards import form, mathematics

ASKED = 'User: {prompt}\n\nAssistant: '  # for all students alike: some bases have no chat template


def template(problem, tokenizer=None) -> str:
    """A problem as the examples' prompts are shown."""
    return ASKED.replace('{prompt}', problem.prompt)


def student(name: str, base: str, learning_rate: float, fsdp: int = 8, tensor: int = 1, longest: int = 32768) -> Recipe:
    """The recipe of a student: `base`, a preset's name, trained on rows of `longest` tokens, one for `tensor` chips.

    Decoding gathers the weights over fsdp, so that `tensor` decides whether a chip has room for its part of them.
    """
    # the count is of Qwen2.5's tokenizer; what stands around a prompt and another tokenizer's words need some room
    known = TableExamples(
        'data/mixture_of_thoughts',
        messages='messages',
        split='train',
        config='all',
        asked=ASKED,
        at_most=(('num_tokens', longest * 32000 // 32768),),
    )
    rewards = Part('accuracy', mathematics.Math(), deadline=5.0), Part('format', form.thinking)
    drawn = SampleConfig(max_tokens=longest - 2048, max_prompt=2048, temperature=0.6, top_p=0.95, slots=4 * fsdp)
    stage = Stage(
        name='distill',
        start=f'weights/{base}/',
        steps=0,
        source=Stored(known, batch=64, epochs=2),
        loss=NLL(),
        optim=OptimConfig(learning_rate, schedule='cosine', final=0.1),
        rows=RowConfig(length=longest, per_microbatch=fsdp),
        evals=(Eval('math500', Named('math500', 'data/math500'), rewards, mathematics.final, 4, drawn),),
        checkpoint_every=200,
    )
    model = dataclasses.replace(named(base), context=131072, dtype='bfloat16', remat='full')
    return Recipe(name, (stage,), template, model, mesh=MeshConfig(fsdp=fsdp, tensor=tensor))


def recipe() -> Recipe:
    return student('distill_qwen_1_5b', 'Qwen2.5-Math-1.5B', learning_rate=1e-4)
