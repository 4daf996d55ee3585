"""What Prometheus reads: the only door to prometheus_client."""

from __future__ import annotations

from typing import Any

from r1jax.sample.engine import Ran

try:
    import prometheus_client as prometheus
except ImportError as error:
    raise ImportError("serving needs prometheus-client: pip install 'r1jax[serve]'") from error

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
CONTENT_TYPE = prometheus.exposition.CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one server, in a registry of their own. No label has anything that a client wrote."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)

        def made(kind, name, text, *labels, **rest):
            return kind(f'r1jax_{name}', text, labels, registry=self.registry, **rest)

        counter, gauge, histogram = prometheus.Counter, prometheus.Gauge, prometheus.Histogram
        self._requests = made(counter, 'requests', 'Requests answered', 'path', 'status')
        self._ended = made(counter, 'answers', 'Answers by how they ended', 'finish')
        self._prompt = made(counter, 'prompt_tokens', 'Tokens of prompts')
        self._tokens = made(counter, 'generated_tokens', 'Tokens of answers that clients were told of')
        self._decoded = made(counter, 'decoded_tokens', 'Tokens that rows kept')
        self._steps = made(counter, 'decoded_steps', 'Steps of the device times slots')
        self._first = made(histogram, 'first_token_seconds', 'From a request to its first token', buckets=_SECONDS)
        self._each = made(histogram, 'token_seconds', 'Between tokens of an answer', buckets=_BETWEEN)
        self._whole = made(histogram, 'answer_seconds', 'From a request to its last token', buckets=_SECONDS)
        self._running = made(gauge, 'answers_admitted', 'Answers that run or wait')
        self._slots = made(gauge, 'slots', 'Answers that can run at once')
        self._up = made(gauge, 'accepting', '1 while requests are taken')

    def watch(self, service: Any) -> None:
        """Reads gauges off a service."""
        self._running.set_function(lambda: service.admitted)
        self._slots.set(service.slots)
        self._up.set_function(lambda: not (service.draining or service.served.worker.failed))

    def request(self, path: str, status: int) -> None:
        self._requests.labels(path, str(status)).inc()

    def ended(self, finish: str) -> None:
        self._ended.labels(finish).inc()

    def prompt_tokens(self, count: int) -> None:
        self._prompt.inc(count)

    def tokens(self, count: int, seconds: float, first: bool) -> None:
        """Some tokens that came together, so long after the ones before them."""
        self._tokens.inc(count)
        if first:
            self._first.observe(seconds)
        elif count:
            self._each.observe(seconds / count)

    def seconds(self, seconds: float) -> None:
        self._whole.observe(seconds)

    def ran(self, ran: Ran) -> None:
        """A chunk that is over; from the engine's thread."""
        self._decoded.inc(ran.tokens)
        self._steps.inc(ran.slots * ran.steps)

    def text(self) -> bytes:
        return prometheus.generate_latest(self.registry)
