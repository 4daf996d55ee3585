"""Chat templates of exported models, as Jinja source: a chat with the exported model asks it as training asked it.

A model that was trained through one of `r1jax.data.template`'s functions answers that text best, whatever template its tokenizer came
with. `exported` turns the one into the other. Thinking is dropped from earlier turns, as R1's own template does, since a model was
never trained to read it there.
"""

from __future__ import annotations

from r1jax.data.template import ASSISTANT, INSTRUCTION, USER
from r1jax.data.tokenizer import Tokenizer

# `message` without its thinking; a template that keeps it would show the model its own old thoughts
_SAID = "message.content.split('</think>')[-1]"

R1_ZERO = (
    '{%- for message in messages %}'
    "{%- if message.role == 'user' %}"
    f'{{{{ {INSTRUCTION + " "!r} if loop.first else "\\n" }}}}User: {{{{ message.content }}}}. Assistant:'
    "{%- elif message.role == 'assistant' and not loop.first %}"
    f'{{{{ {_SAID} + eos_token }}}}'
    '{%- else %}'
    "{{ raise_exception('the R1-Zero template begins with a user and has no role ' + message.role) }}"
    '{%- endif %}'
    '{%- endfor %}'
)

R1 = (
    '{%- for message in messages %}'
    "{%- if message.role == 'user' %}"
    f'{USER}{{{{ message.content }}}}'
    "{%- elif message.role == 'assistant' %}"
    f'{ASSISTANT}{{{{ {_SAID} + eos_token }}}}'
    "{%- elif message.role == 'system' and loop.first %}"
    '{{ message.content }}'
    '{%- else %}'
    "{{ raise_exception('the R1 template has no role ' + message.role + ' here') }}"
    '{%- endif %}'
    '{%- endfor %}'
    f'{{%- if add_generation_prompt %}}{ASSISTANT}{{%- endif %}}'
)

# Before a tokenizer's own template: later lines see `messages` without the thinking of the assistant's turns
_DROP = (
    '{%- set r1jax = namespace(messages=[]) %}'
    '{%- for message in messages %}'
    "{%- if message.role == 'assistant' and message.content is string %}"
    f'{{%- set r1jax.messages = r1jax.messages + [dict(message, content={_SAID})] %}}'
    '{%- else %}{%- set r1jax.messages = r1jax.messages + [message] %}{%- endif %}'
    '{%- endfor %}'
    '{%- set messages = r1jax.messages %}'
)
_INSTRUCT = (
    "{%- if not messages or messages[0].role != 'system' %}"
    f"{{%- set messages = [dict(role='system', content={INSTRUCTION!r})] + messages %}}"
    '{%- endif %}'
)


def exported(template: str, tokenizer: Tokenizer) -> str | None:
    """The chat template of a model that was trained through `template`, `'MODULE:FUNCTION'` as config.json writes it.

    Returns:
      Jinja source; None where there is nothing to make one of: a tokenizer without a template, and neither of the report's.
    """
    if template == 'r1jax.data.template:r1_zero':
        return R1_ZERO
    own = tokenizer.chat_template
    if own is None:
        return R1 if template == 'r1jax.data.template:r1' else None
    instructed = _INSTRUCT if template == 'r1jax.data.template:chat_r1_zero' else ''
    return instructed + ('' if '</think>' in own else _DROP) + own
