"""Writes chat.json: conversations, and the text that transformers makes of each by the templates beside it.

python tests/golden/make_chat.py     # needs transformers, and no JAX
"""

import json
import pathlib

HERE = pathlib.Path(__file__).parent

SPECIAL = {  # family -> (bos, eos)
    'deepseek_r1': ('<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>'),
    'qwen2_5': (None, '<|im_end|>'),
    'qwen3': (None, '<|im_end|>'),
    'llama3_1_reduced': ('<|begin_of_text|>', '<|eot_id|>'),
    'smollm2': ('<|im_start|>', '<|im_end|>'),
}


def say(role, content, **more):
    return {'role': role, 'content': content, **more}


SYSTEM = say('system', ' Answer in “one” word.\n')
THOUGHT = say('assistant', '<think>\nTwo and two.\n</think>\n\nFour.')
TURNS = [SYSTEM, say('user', '2+2?'), THOUGHT, say('user', 'Sure?\n')]
TOOLS = [{
    'type': 'function',
    'function': {'name': 'add', 'description': 'a + b, «exactly»', 'parameters': {
        'type': 'object', 'properties': {'a': {'type': 'number'}, 'b': {'type': 'number'}}, 'required': ['a', 'b']}},
}]  # fmt: skip


def called(arguments, content):
    call = {'type': 'function', 'function': {'name': 'add', 'arguments': arguments}}
    return [say('user', '2+2?'), say('assistant', content, tool_calls=[call]), say('tool', '4')]


def conversations(family):
    """(name, messages, tools, add_generation_prompt, variables) of a family."""
    yield 'question', TURNS[1:2], None, True, {}
    yield 'turns', TURNS, None, True, {}
    yield 'answered', TURNS[:3], None, False, {}
    if family == 'deepseek_r1':
        yield 'tool called', called('{"a": 2, "b": 2}', None), None, True, {}
        yield 'tool answered', [*called('{"a": 2, "b": 2}', None), say('assistant', 'Four.')], None, False, {}
    if family == 'llama3_1_reduced':
        yield 'tool called', called({'a': 2, 'b': 2}, ''), None, True, {}
        yield 'dated', TURNS[:2], None, True, {'date_string': '22 Nov 2026'}
    if family.startswith('qwen'):
        yield 'tools', TURNS[:2], TOOLS, True, {}
        yield 'tool called', [SYSTEM, *called({'a': 2, 'b': 2}, '')], TOOLS, True, {}
    if family == 'qwen3':
        yield 'no thinking', TURNS[1:2], None, True, {'enable_thinking': False}
        parted = say('assistant', 'Four.', reasoning_content='Two and two.')
        yield 'reasoning apart', [*TURNS[:2], parted, TURNS[3], parted], None, False, {}


def tokenizer(family):
    """transformers' tokenizer with a family's template and special tokens, and next to no vocabulary."""
    import tokenizers
    import transformers

    bos, eos = SPECIAL[family]
    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    source = (HERE / 'templates' / f'{family}.jinja').read_text(encoding='utf-8')
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token=bos, eos_token=eos, chat_template=source
    )


def rendered(family, messages, tools, prompt, variables):
    """What transformers writes."""
    own, options = tokenizer(family), {'tools': tools, 'add_generation_prompt': prompt, **variables}
    if all(m['content'] is not None for m in messages):
        return own.apply_chat_template(messages, tokenize=False, **options)
    # R1's template asks whether the content is None, and apply_chat_template takes such fields away since version 5
    from transformers.utils.chat_template_utils import render_jinja_template

    special = {'bos_token': own.bos_token, 'eos_token': own.eos_token}
    (text,), _ = render_jinja_template([messages], chat_template=own.chat_template, **special, **options)
    return text


def main():
    cases = []
    for family in SPECIAL:
        for name, messages, tools, prompt, variables in conversations(family):
            text = rendered(family, messages, tools, prompt, variables)
            case = {'family': family, 'name': name, 'messages': messages, 'tools': tools, 'prompt': prompt}
            cases.append(case | {'variables': variables, 'text': text})
    (HERE / 'chat.json').write_text(json.dumps(cases, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
