"""The service's own metrics, and a span for each generation; never prompts or keys.

    span = GenerationSpan(loaded.version, prompt_tokens)  # when a request is handed to the engine
    span.begin()                                          # with the first token, unless `add_tokens` comes first
    span.add_tokens(tokens)                               # with every delta
    span.end("stop")                                      # always, best in a `finally`

Metrics are registered once for each process, in the place that `metric_store` chooses.
"""

import functools
import time
from typing import Literal

from opentelemetry.trace import Status, StatusCode
from prometheus_client import Counter, Gauge, Histogram

from serving import bentoml_internals, metric_store
from serving.engines.protocol import FinishReason

Outcome = FinishReason | Literal["cancelled", "error"]

MAX_ERROR_CODES = 100  # label values; further codes are counted as `other`
NAMESPACE = "gpt2"
MODEL_INFO = f"{NAMESPACE}_model_info"
# 0.0002 s a token is the fastest engine on the smallest model, 60 s the longest wait that anybody configures.
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class ServiceMetrics:
    """The metrics of this process."""

    def __init__(self) -> None:
        """Register them."""
        metric_store.prepare()
        self.served: tuple[str, str] | None = None  # version and engine
        self.adapters: dict[str, str] = {}  # their versions, by name
        self.error_codes: set[str] = set()
        self.prompt_tokens = _counter("prompt_tokens", "Tokens read")
        self.completion_tokens = _counter("completion_tokens", "Tokens written")
        self.texts = _counter("texts", "Texts by how they ended", "end")
        self.first_token = Histogram(
            "first_token_seconds", "From the engine's call to the first token", namespace=NAMESPACE, buckets=_SECONDS
        )
        self.token = Histogram(
            "token_seconds", "Between two tokens, on average over a text", namespace=NAMESPACE, buckets=_TOKEN_SECONDS
        )
        self.waiting = _gauge("texts_waiting", "Texts without a first token yet")
        self.running = _gauge("texts_running", "Texts being written")
        self.model_info = _gauge("model_info", "Workers that serve this version", "version", "engine")
        self.swaps = _counter("swaps", "Versions swapped in while serving")
        self.swap_refusals = _counter("swap_refusals", "Versions that were refused")
        self.swap_refused = Gauge(
            "swap_refused",
            "1 while the champion is not served because it was refused",
            namespace=NAMESPACE,
            multiprocess_mode="livemax",
        )
        self.adapter_info = _gauge("adapter_info", "Workers that serve this version of an adapter", "name", "version")
        self.adapter_refused = _gauge("adapter_refused", "Workers that refused what is there now", "name")
        self.errors = _counter("refusals", "Answers that are errors", "status", "code")


def _counter(name: str, help_text: str, *labels: str) -> Counter:
    return Counter(name, help_text, labels, namespace=NAMESPACE)


def _gauge(name: str, help_text: str, *labels: str) -> Gauge:
    """Return a gauge that adds up over the workers that run."""
    return Gauge(name, help_text, labels, namespace=NAMESPACE, multiprocess_mode="livesum")


@functools.cache
def service_metrics() -> ServiceMetrics:
    """Return this process's metrics, registered at the first call: before BentoML makes its own."""
    return ServiceMetrics()


class GenerationSpan:
    """The metrics and the trace span of one generation, from the engine's call to its end."""

    def __init__(self, version: str, prompt_tokens: int) -> None:
        """Count a text that waits for its first token."""
        self._metrics = service_metrics()
        self._began = time.perf_counter()
        self._first: float | None = None
        self._tokens = 0
        self._ended = False
        self._metrics.prompt_tokens.inc(prompt_tokens)
        self._metrics.waiting.inc()
        # The names are OpenTelemetry's for generative AI.
        self._span = bentoml_internals.tracer("serving").start_span(
            "text_completion",
            attributes={
                "gen_ai.operation.name": "text_completion",
                "gen_ai.request.model": version,
                "gen_ai.usage.input_tokens": prompt_tokens,
            },
        )

    def begin(self) -> None:
        """Count the text as running, with its first token. Idempotent."""
        if self._first is None and not self._ended:
            self._first = time.perf_counter()
            self._metrics.first_token.observe(self._first - self._began)
            self._span.add_event("first token")
            self._metrics.waiting.dec()
            self._metrics.running.inc()

    def add_tokens(self, tokens: int) -> None:
        """Count further tokens."""
        if tokens and not self._ended:
            self.begin()
            self._tokens += tokens

    def end(self, outcome: Outcome) -> None:
        """End. Idempotent: the first outcome counts."""
        if self._ended:
            return
        self._ended = True
        metrics = self._metrics
        metrics.texts.labels(outcome).inc()
        metrics.completion_tokens.inc(self._tokens)
        if self._first is None:
            metrics.waiting.dec()
        else:
            metrics.running.dec()
            if self._tokens > 1:
                metrics.token.observe((time.perf_counter() - self._first) / (self._tokens - 1))
        self._span.set_attribute("gen_ai.usage.output_tokens", self._tokens)
        self._span.set_attribute("gen_ai.response.finish_reasons", [outcome])
        if outcome == "error":
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class EncodingSpan:
    """The metrics and the trace span of a request whose texts are only read, from the engine's call to its end."""

    def __init__(self, version: str, texts: int, tokens: int) -> None:
        """Count texts that wait."""
        self._metrics = service_metrics()
        self._texts = texts
        self._metrics.prompt_tokens.inc(tokens)
        self._metrics.waiting.inc(texts)
        self._span = bentoml_internals.tracer("serving").start_span(
            "read_texts", attributes={"gen_ai.request.model": version, "gen_ai.usage.input_tokens": tokens}
        )

    def end(self, outcome: Outcome) -> None:
        """End; call it once."""
        self._metrics.waiting.dec(self._texts)
        self._metrics.texts.labels(outcome).inc(self._texts)
        if outcome == "error":
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def count_error(status: int, code: str | None) -> None:
    """Count an answer that is an error."""
    metrics = service_metrics()
    label = code or "none"
    if label not in metrics.error_codes and len(metrics.error_codes) >= MAX_ERROR_CODES:
        label = "other"
    metrics.error_codes.add(label)
    metrics.errors.labels(status, label).inc()


def record_served_model(version: str, engine: str) -> None:
    """Record that this worker serves `version` and that no version is refused; another version counts as a swap."""
    metrics = service_metrics()
    metrics.swap_refused.set(0)
    if metrics.served == (version, engine):
        return
    if metrics.served:
        metrics.model_info.labels(*metrics.served).set(0)
        metrics.swaps.inc()
    metrics.model_info.labels(version, engine).set(1)
    metrics.served = (version, engine)


def record_adapter(name: str, version: str | None, *, is_refused: bool) -> None:
    """Record which version this worker serves as the adapter `name`, and whether what is there now is refused."""
    metrics = service_metrics()
    metrics.adapter_refused.labels(name).set(int(is_refused))
    before = metrics.adapters.get(name)
    if before and before != version:
        metrics.adapter_info.labels(name, before).set(0)
    if version:
        metrics.adapter_info.labels(name, version).set(1)
        metrics.adapters[name] = version


def count_refused_swap() -> None:
    """Count a version that was refused; `record_served_model` clears the gauge."""
    service_metrics().swap_refusals.inc()
    service_metrics().swap_refused.set(1)
