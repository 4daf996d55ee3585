"""Presets have the released models' parameter counts, found without allocating them."""

import dataclasses

import jax
import numpy as np
import pytest
import toy

from r1jax.checks import validate
from r1jax.config import ModelConfig
from r1jax.nn.transformer import init_boxed
from r1jax.presets import PRESETS, STUDENTS, named

# As the models' cards and safetensors indices say; a tied unembedding counts once
COUNTS = {
    'Llama-3-8B': 8_030_261_248,
    'Llama-3-70B': 70_553_706_496,
    'Llama-3.1-8B': 8_030_261_248,
    'Llama-3.1-70B': 70_553_706_496,
    'Llama-3.1-405B': 405_853_388_800,
    'Llama-3.2-1B': 1_235_814_400,
    'Llama-3.2-3B': 3_212_749_824,
    'Llama-3.3-70B-Instruct': 70_553_706_496,
    'Qwen2.5-0.5B': 494_032_768,
    'Qwen2.5-1.5B': 1_543_714_304,
    'Qwen2.5-3B': 3_085_938_688,
    'Qwen2.5-7B': 7_615_616_512,
    'Qwen2.5-14B': 14_770_033_664,
    'Qwen2.5-32B': 32_763_876_352,
    'Qwen2.5-72B': 72_706_203_648,
    'Qwen2.5-Math-1.5B': 1_543_714_304,
    'Qwen2.5-Math-7B': 7_615_616_512,
    'Qwen3-0.6B': 596_049_920,
    'Qwen3-1.7B': 1_720_574_976,
    'Qwen3-4B': 4_022_468_096,
    'Qwen3-8B': 8_190_735_360,
    'Qwen3-14B': 14_768_307_200,
    'Qwen3-32B': 32_762_123_264,
    'SmolLM2-135M': 134_515_008,
    'SmolLM2-360M': 361_821_120,
    'SmolLM2-1.7B': 1_711_376_384,
    'DeepSeek-R1-Distill-Qwen-1.5B': 1_777_088_000,
    'DeepSeek-R1-Distill-Qwen-7B': 7_615_616_512,
    'DeepSeek-R1-Distill-Qwen-14B': 14_770_033_664,
    'DeepSeek-R1-Distill-Qwen-32B': 32_763_876_352,
    'DeepSeek-R1-Distill-Llama-8B': 8_030_261_248,
    'DeepSeek-R1-Distill-Llama-70B': 70_553_706_496,
}
COUNTS |= dict.fromkeys(('DeepSeek-V3', 'DeepSeek-V3-Base', 'DeepSeek-R1', 'DeepSeek-R1-Zero'), 671_026_419_200)
COUNTS |= dict.fromkeys(('Qwen3-30B-A3B', 'Qwen3-30B-A3B-Base'), 30_532_122_624) | {'Qwen3-235B-A22B': 235_093_634_560}


def count(cfg: ModelConfig) -> int:
    return sum(
        int(np.prod(a.shape)) for a in jax.tree.leaves(jax.eval_shape(lambda: init_boxed(cfg, jax.random.key(0))))
    )


@pytest.mark.parametrize('name', PRESETS)
def test_parameter_count(name):
    assert count(named(name)) == COUNTS[name]


def test_the_six_students_have_bases():
    assert len(STUDENTS) == 6
    for student, base in STUDENTS.items():
        ours, theirs = named(student), named(base)
        assert (ours.layers, ours.width, ours.rope_theta, ours.norm_eps) == (
            theirs.layers, theirs.width, theirs.rope_theta, theirs.norm_eps
        )  # fmt: skip
        assert ours.context == 131072 and not ours.tied


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(ValueError, match=r"no preset 'Qwen2\.5-2B' \(known: .*Qwen2\.5-1\.5B"):
        named('Qwen2.5-2B')


def test_every_preset_passes_the_checks():
    for cfg in PRESETS.values():
        validate(dataclasses.replace(toy.recipe(), model=cfg), devices=1)
