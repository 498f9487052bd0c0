"""Measure what guessed tokens gain for one client: `python -m bench.guessing [--base smollm2] [--rounds 3]`.

Texts of 160 tokens for a chat model, by the engine int8 alone: with guesses and without them, in turns in one process.
Both must be the same texts.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from bench import harness
from bench.servers import make_model
from pipeline.command import UserError, run
from serving.engines.decoder import DecoderRunner, unsupported_reason
from serving.engines.protocol import Sampling
from serving.engines.scheduler import Scheduler

LIBRARIES = ("torch", "transformers", "numba")
TOKENS, QUICK_TOKENS = 160, 8
_FORMAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
TEMPERATURES = (0.0, 0.6, 1.0)
WITH, WITHOUT = "with guesses", "without"

CODE = Path(harness.ROOT / "pipeline" / "escape.py").read_text(encoding="utf-8")[:1000]
README = (harness.ROOT / "README.md").read_text(encoding="utf-8")[:1200]
LOADS = {  # by name, what is asked
    "code, continued": [f"Continue this module with another function:\n{CODE}", f"Write a test for this code:\n{CODE}"],
    "code, changed": [f"Add a docstring to each function and print the whole code:\n{CODE}"],
    "summary": [f"Summarise this text in three sentences:\n{README}"],
    "chat": ["Why is the sky blue?", "Give me a recipe for pancakes.", "Tell me a story about a lighthouse."],
}


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments()
    parser.add_argument("--base", default="smollm2", help="as in params.yaml, a chat model (default: smollm2)")
    arguments = parser.parse_args()
    tokens, rounds = (QUICK_TOKENS, 1) if arguments.quick else (TOKENS, arguments.rounds)
    folder = make_model(arguments.base)
    if reason := unsupported_reason(folder):
        raise UserError(f"the engine int8 cannot run {arguments.base}: {reason}")
    runner = DecoderRunner(folder)
    rows, lines = [], []
    for name, questions in LOADS.items():
        prompts = [runner.tokenizer.encode(_FORMAT.format(one)).ids[tokens - runner.context :] for one in questions]
        for temperature in TEMPERATURES:
            speeds = _speeds(runner, prompts, Sampling(tokens, temperature, 0.95, 50, 1.0, seed=3), rounds)
            of_load = harness.compare(speeds, f"{name}, temperature {temperature}", "tokens/s", WITHOUT)
            rows += of_load
            figures = [f"{row.figure:,.0f} ({row.low:,.0f} to {row.high:,.0f})" for row in of_load]
            lines.append([name, f"{temperature:.1f}", *figures, f"{of_load[0].ratio:.2f} x"])
    table = harness.table(["", "temperature", WITH, WITHOUT, ""], lines)
    title = f"{arguments.base}, one client, {tokens} tokens a text, rounds: {rounds}; tokens a second after the first"
    harness.publish("guessing", f"{title}\n\n{table}", rows, LIBRARIES, arguments.json)


def _speeds(
    runner: DecoderRunner, prompts: Sequence[Sequence[int]], sampling: Sampling, rounds: int
) -> dict[str, list[float]]:
    """Return tokens a second in each round, after the first token of each text."""
    speeds: dict[str, list[float]] = {WITH: [], WITHOUT: []}
    texts = []
    for _ in range(rounds):
        for name, guess_rows in ((WITH, DecoderRunner.guess_rows), (WITHOUT, 0)):
            runner.guess_rows = guess_rows
            written, seconds = asyncio.run(_write(runner, prompts, sampling))
            texts.append(written)
            speeds[name].append(sum(len(text) - 1 for text in written) / seconds)
    if any(text != texts[0] for text in texts):
        raise RuntimeError("texts with guesses differ from those without")
    return speeds


async def _write(
    runner: DecoderRunner, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> tuple[list[list[int]], float]:
    """Return a text for each prompt, one after the other, and the seconds after the first token of each."""
    engine = Scheduler(lambda: runner, 1)
    texts, seconds = [], 0.0
    for prompt in prompts:
        stream = engine.submit(prompt, sampling)
        text = await stream.next_tokens()
        begin = time.perf_counter()
        while more := await stream.next_tokens():
            text += more
        seconds += time.perf_counter() - begin
        texts.append([token.id for token in text])
    await asyncio.to_thread(engine.close)
    return texts, seconds


if __name__ == "__main__":
    run(main)
