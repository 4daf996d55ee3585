"""Judges to be asked: a function of the question, and a fake endpoint that speaks as the test says."""

import http.server
import json
import re
import threading

from r1jax.rewards.answers import Reply
from r1jax.rewards.asking import Judge, Local
from r1jax.rewards.endpoint import Endpoint
from r1jax.rewards.judge import Reference
from r1jax.types import Problem, Response


def parts(messages):
    """What a judge reads: {name: text} and the code."""
    system, user = messages[0][1], messages[1][1]
    code = re.search(r'VERDICT ([0-9a-f]{12}): X', system)[1]
    found = re.findall(rf'<<<([A-Z ]+) {code}>>>\n(.*?)\n<<<END OF \1 {code}>>>', user, re.DOTALL)
    return dict(found), code


def fair(messages):
    """Likes the answer with more good in it; agrees where the reference occurs in the answer."""
    read, code = parts(messages)
    if 'REFERENCE' in read:
        return f'Let me see.\nVERDICT {code}: {"CORRECT" if read["REFERENCE"] in read["ANSWER"] else "INCORRECT"}'
    a, b = (read[f'ANSWER {x}'].count('good') for x in 'AB')
    label = {0: 'A=B', 1: 'A>B', -1: 'B>A'}.get(a - b, 'A>>B' if a > b else 'B>>A')
    return f'Thinking.\n\nVERDICT {code}: {label}'


class Counting:
    """A local judge that remembers what it was asked, with the answers of a function."""

    def __init__(self, answer=fair):
        self.answer, self.asked = answer, []

    def __call__(self, asks):
        self.asked.append(asks)
        return [r if isinstance(r := self.answer(a.messages), Reply) else Reply(r) for a in asks]


def judge(tmp_path, answer=fair, **options):
    counting = answer if isinstance(answer, Counting) else Counting(answer)
    return Judge(Local(counting, 'toy', max_tokens=10), str(tmp_path / 'answers.db'), **options)


def problems(count, answer='4'):
    return [Problem(i, f'question {i}', answer) for i in range(count)]


def said(*texts):
    return [Response(f'<think>hm</think>{text}', 1, True) for text in texts]


def answered(text, finish='stop', **more):
    return 200, json.dumps({'choices': [{'message': {'content': text}, 'finish_reason': finish}], **more})


def honest(number, body):
    """What a server without faults does."""
    messages = [(m['role'], m['content']) for m in body['messages']]
    return answered(fair(messages), usage={'prompt_tokens': 100, 'completion_tokens': 20})


class Server:
    """A fake OpenAI-compatible endpoint: `act(number of the call, body)` gives a status and a body, and may sleep or raise."""

    def __init__(self):
        self.act, self.calls, self.bodies, self.headers = honest, 0, [], []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers['content-length'])))
                with outer.lock:
                    number, outer.calls = outer.calls, outer.calls + 1
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    outer.busy += 1
                    outer.busiest = max(outer.busiest, outer.busy)
                try:
                    assert self.path == '/v1/chat/completions'
                    status, text, *headers = outer.act(number, body)
                    if status is None:
                        self.close_connection = True
                        return
                    pieces = [text] if isinstance(text, str) else text
                    self.send_response(status)
                    for name, value in headers:
                        self.send_header(name, value)
                    self.send_header('connection', 'close')
                    self.end_headers()
                    for piece in pieces:
                        self.wfile.write(piece.encode())
                        self.wfile.flush()
                    self.close_connection = True
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with outer.lock:
                        outer.busy -= 1

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.http.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.http.server_port}/v1'
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def __call__(self, **options):
        return Endpoint('toy', self.url, **{'timeout': 5.0, 'max_tokens': 50, **options})


def patient(endpoint, tmp_path, **options):
    return Judge(endpoint, str(tmp_path / 'answers.db'), **{'backoff': 0.01, **options})


def ask_about(judge, count=1):
    return Reference(judge).many(problems(count), said(*['4'] * count))
