"""A tiny random model with a tiny tokenizer as a Hugging Face folder, and servers of it on a free port of loopback."""

import contextlib
import json
import socket
import string
import threading
import time

import openai
import tokenizers
from tiny import params_of

from r1jax.config import ModelConfig
from r1jax.data.tokenizer import HFTokenizer, hugging_face
from r1jax.sample.request import Fresh
from r1jax.serve import model
from r1jax.serve.app import build
from r1jax.serve.guard import Keys, hosts
from r1jax.serve.metrics import Metrics
from r1jax.serve.options import Decoding, Limits
from r1jax.serve.server import Server
from r1jax.serve.service import Service
from r1jax.weights import export

NAME, CONTEXT, SLOTS = 'tiny-chat', 128, 4
TEMPLATE = (
    '{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}'
    "{% if tools %}tools: {{ tools|map(attribute='function.name')|join(',') }}{% endif %}"
    '{% if add_generation_prompt %}<s>{{ opening|default("assistant: ") }}{% endif %}'
)
BYTES = sorted({*(string.printable[:95] + '\n').encode(), *'é你好'.encode()})


def tokenizer(template=TEMPLATE):
    """A token a byte, of ASCII and a few characters of two and three bytes; the tags of thinking; and three special ones."""
    written = {byte: letter for letter, byte in hugging_face._BYTES.items()}
    t = tokenizers.Tokenizer(tokenizers.models.BPE({written[byte]: i for i, byte in enumerate(BYTES)}, []))
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = tokenizers.decoders.ByteLevel()
    t.add_tokens(['<think>', '</think>'])
    t.add_special_tokens(['<s>', '</s>', '<pad>'])
    bos, eos, pad = map(t.token_to_id, ('<s>', '</s>', '<pad>'))
    return HFTokenizer(t, eos=eos, pad=pad, chat_template=template, bos=bos)


def folder(path, template=TEMPLATE):
    """Writes the model."""
    own = tokenizer(template)
    config = ModelConfig(
        vocab=own.vocab_size, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, hidden=48, context=CONTEXT
    )
    generation = {'temperature': 1.0, 'top_p': 1.0}
    export.write(str(path), export.Held(config, params_of(config, scale=0.2), own, generation), 'float32')
    return str(path)


def load(path, **decoding):
    """Compiles it; the thread of its engine runs until `worker.stop()`."""
    wanted = {'slots': SLOTS, 'chunk': 4} | decoding
    return model.serve(path, NAME, Decoding(**wanted))


class Scripted:
    """In place of the engine's thread: answers what it was given, a few characters at a time, and keeps what it was asked."""

    failed = None

    def __init__(self, own, answer, seconds=0.0, size=2000):
        """answer(prompt, number) -> text; seconds: between two pieces."""
        self._tokenizer, self._answer, self._seconds, self.size = own, answer, seconds, size
        self._live, self.prompts = set(), []

    def submit(self, job):
        self.prompts.append(self._tokenizer.decode(job.request.prompt[-1000:]))
        ids = self._tokenizer.encode(self._answer(self.prompts[-1], len(self.prompts) - 1))
        self._live.add(job)
        threading.Thread(
            target=self._tell, args=(job, [*ids[: job.request.limit - 1], self._tokenizer.eos]), daemon=True
        ).start()

    def cancel(self, job):
        self._live.discard(job)

    def _tell(self, job, ids):
        for at in range(0, len(ids), 4):
            time.sleep(self._seconds)
            if job in self._live:
                part = ids[at : at + 4]
                job.tell(Fresh(part, [0.0] * len(part)), 'stop' if at + 4 >= len(ids) else '')
        self._live.discard(job)


def scripted(answer, seconds=0.0, size=2000):
    """What can be served without a model."""
    own = tokenizer()
    config = ModelConfig(
        vocab=own.vocab_size, layers=1, width=8, heads=1, kv_heads=1, head_dim=8, hidden=8, context=2000
    )
    return model.Served(NAME, 'a script', config, own, Scripted(own, answer, seconds, size), 0.6, 0.95)


@contextlib.contextmanager
def server(served, limits=None, keys=(), allowed=()):
    """A server that is up, its service beside it."""
    service = Service(served, limits or Limits(), SLOTS, Metrics())
    with Server(build(service, Keys(keys), hosts('127.0.0.1', allowed)), service) as running:
        running.service_of_test = service
        yield running


def client(running, key='none', **kwargs):
    return openai.OpenAI(base_url=f'{running.url}/v1', api_key=key, max_retries=0, timeout=30, **kwargs)


def raw(running, data: bytes, seconds=10.0) -> bytes:
    """Sends bytes as they are, and returns all that comes until the server closes."""
    with socket.create_connection((running.host, running.port), timeout=seconds) as s:
        s.sendall(data)
        out = b''
        while part := s.recv(65536):
            out += part
        return out


def request(path='/v1/chat/completions', body=b'{}', method='POST', close=True, **headers) -> bytes:
    """An HTTP request as bytes; headers=None leaves one out."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {'host': '127.0.0.1', 'content-type': 'application/json', 'content-length': str(len(body))}
    named |= {'connection': 'close'} if close else {}
    named |= {name.replace('_', '-'): value for name, value in headers.items()}
    lines = [f'{method} {path} HTTP/1.1', *(f'{name}: {value}' for name, value in named.items() if value is not None)]
    return '\r\n'.join([*lines, '', '']).encode() + body


def status(reply: bytes) -> int:
    return int(reply.split(b' ', 2)[1])


def payload(reply: bytes):
    return json.loads(reply.partition(b'\r\n\r\n')[2])
