"""The decode step as CUDA graphs, one for each size of a batch: a small model's step is a thousand launches otherwise.

Never run on a GPU yet. So each graph's first replay is compared with the step as it is, and the first that differs, or
cannot be captured, turns all graphs off.
"""

import logging
from collections.abc import Callable

import torch

logger = logging.getLogger("bentoml.serving")

Step = Callable[[torch.Tensor, int], torch.Tensor]  # inputs and the length of caches -> logits (batch, vocabulary)
Replay = Callable[[], torch.Tensor]  # reads the inputs that it was captured with

_TOLERANCE = 0.02  # of the logits' spread; bf16 rounds to 0.004


class DecodeGraphs:
    """Runs a step by graphs that it captures as sizes turn up, or as it is."""

    def __init__(self, step: Step, capture: Callable[[Step, torch.Tensor, int], Replay] | None) -> None:
        """Take the step, and what captures it; None never captures."""
        self._step = step
        self._capture = capture
        self._graphs: dict[tuple[int, int], tuple[torch.Tensor, Replay]] = {}

    @property
    def enabled(self) -> bool:
        """Whether graphs are used."""
        return self._capture is not None

    def run(self, inputs: torch.Tensor, length: int) -> torch.Tensor:
        """Return the logits of a step, which the next call may overwrite."""
        if self._capture is None:
            return self._step(inputs, length)
        if found := self._graphs.get((len(inputs), length)):
            static, replay = found
            static.copy_(inputs)
            return replay()
        logits = self._step(inputs, length)
        static = inputs.clone()
        try:
            replay = self._capture(self._step, static, length)
            _require_equal(replay(), logits)
        except Exception as error:
            logger.warning("decoding runs without CUDA graphs: %s: %s", type(error).__name__, error)
            self._capture = None
            self._graphs.clear()
            return logits
        self._graphs[len(inputs), length] = static, replay
        return logits


def _require_equal(replayed: torch.Tensor, logits: torch.Tensor) -> None:
    difference = float((replayed.float() - logits.float()).abs().max() / logits.float().std())
    if not difference <= _TOLERANCE:
        raise ValueError(f"a replayed step differs by {difference:.3f} of the logits' spread from the step itself")


class CudaCapture:
    """Captures steps with one pool of memory for all graphs."""

    def __init__(self) -> None:
        """Make the pool."""
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step, inputs: torch.Tensor, length: int) -> Replay:
        """Return what repeats `step` with what `inputs` holds then."""
        stream = torch.cuda.Stream(torch.cuda.current_device())  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries allocate their workspaces for a stream at its first use
            step(inputs, length)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile: a model that is being loaded, or OpenAI's echo.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            logits = step(inputs, length)

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return replay
