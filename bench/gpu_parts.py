"""Run parts of `bench.gpu` in a process of their own: `python -m bench.gpu_parts SECONDS ROUNDS PART...`.

Each line of JSON is a `bench.gpu_figures.Figure` with its part; an exception ends its part alone.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel

from bench.gpu_figures import DEVICE, Emit, Figure, Plan, emitter, synchronized_time
from pipeline.command import arg_parser, echo, run

TOKENS = 64  # of each generated text
PROMPT = 12  # tokens
COUNTS = (1, 8, 32, 64, 256)  # texts at a time
SERVED_SECONDS = 4.0  # of each number of clients
SCORED = 960  # texts
BATCH_TOKENS = 16_384  # more than on a CPU: a GPU is idle with less


def main() -> None:
    """Run the parts and print their figures."""
    parser = arg_parser()
    parser.add_argument("seconds", type=float, help="until no further figure is begun")
    parser.add_argument("rounds", type=int)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    plan = Plan(arguments.quick, time.monotonic() + arguments.seconds, arguments.rounds)
    echo(json.dumps({"device": _device(), "torch": torch.__version__}))
    for part in arguments.parts:
        emit = emitter(part)
        try:
            PARTS[part](plan, emit)
        except Exception as error:  # such as a missing package
            emit(Figure("all of it", "", reason=f"{type(error).__name__}: {error}"))


def _device() -> str:
    return torch.cuda.get_device_name() if DEVICE == "cuda" else "no GPU"


def training(plan: Plan, emit: Emit) -> None:
    """Measure the ladder of training."""
    from bench import gpu_training

    gpu_training.measure(plan, emit)


def _model(quick: bool) -> PreTrainedModel:
    from bench.train_models import load_model

    with torch.device(DEVICE):
        return load_model("starter" if quick else "gpt2").eval()


def evaluation(plan: Plan, emit: Emit) -> None:
    """Score texts as evaluate's metric does, and as the stage does with small and large batches."""
    from bench import scorers
    from bench.train_models import STARTER
    from pipeline.evaluation.scoring import score

    tokenizer = AutoTokenizer.from_pretrained(STARTER, local_files_only=True, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.eos_token
    texts = scorers.draw_texts(tokenizer, 8 if plan.quick else SCORED)
    tokens = sum(map(len, tokenizer(texts)["input_ids"]))
    model = _model(plan.quick)

    def stock() -> None:
        with torch.device(DEVICE):  # it makes its batches there
            scorers.VARIANTS["stock evaluate"](model, tokenizer, texts)

    def fresh(batch_tokens: int) -> Callable[[], object]:
        return lambda: score(model, tokenizer, texts, batch_tokens)

    ways = {
        "stock evaluate": stock,
        f"fresh, {scorers.BATCH_TOKENS:,} tokens at once": fresh(scorers.BATCH_TOKENS),
        f"fresh, {BATCH_TOKENS:,} tokens at once": fresh(BATCH_TOKENS),
    }
    for name, way in ways.items():
        way()  # warm-up
        began = synchronized_time()
        way()
        emit(Figure(name, "stock evaluate", tokens / (synchronized_time() - began), "useful tokens/s"))


@torch.inference_mode()
def generation(plan: Plan, emit: Emit) -> None:
    """Generate texts with transformers' `generate` in bf16."""
    from bench.train_models import tokenized

    model = _model(plan.quick).to(torch.bfloat16)
    model.generation_config.pad_token_id = 0
    tokens, counts = (2, (1, 2)) if plan.quick else (TOKENS, COUNTS)
    prompts = tokenized(max(counts))
    for count in counts:
        ids = torch.tensor([prompt[:PROMPT] for prompt in prompts[:count]], device=DEVICE)
        settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 50, "use_cache": True}
        mask = torch.ones_like(ids)
        for length in (2, tokens):  # the first is the warm-up
            began = synchronized_time()
            model.generate(ids, attention_mask=mask, max_new_tokens=length, min_new_tokens=length, **settings)
            seconds = synchronized_time() - began
        emit(Figure(f"generate, {_texts(count)}", f"generate, {_texts(1)}", count * tokens / seconds, "tokens/s"))


def serving(plan: Plan, emit: Emit) -> None:
    """Let the service's own engine generate, without HTTP."""
    tokens, counts, seconds = (2, (1, 2), 2.0) if plan.quick else (TOKENS, COUNTS, SERVED_SECONDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save(plan.quick, folder)
        asyncio.run(_serve(folder, tokens, counts, seconds, emit))


def _save(quick: bool, folder: Path) -> None:
    """Save the model in bf16, with a tokenizer."""
    from bench.train_models import STARTER

    model = _model(quick).to(torch.bfloat16)
    model.config.use_cache = True
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(STARTER, local_files_only=True, trust_remote_code=False).save_pretrained(folder)


async def _serve(folder: Path, tokens: int, counts: Sequence[int], seconds: float, emit: Emit) -> None:
    from bench.bare_engines import drive
    from bench.micro_batches import tokenized_prompts
    from serving.engines.scheduler import Scheduler
    from serving.engines.transformers import TransformersRunner

    engine = Scheduler(lambda: TransformersRunner(folder), max(counts))
    prompts = tokenized_prompts(folder)
    for count in counts:
        [result] = await drive(engine, prompts, tokens, 1, [count], seconds)
        emit(Figure(f"engine, {_texts(count)}", f"engine, {_texts(1)}", result.tokens / result.seconds, "tokens/s"))
    await asyncio.to_thread(engine.close)


def _texts(count: int) -> str:
    return "1 text" if count == 1 else f"{count} texts"


Part = Callable[[Plan, Emit], None]
PARTS: dict[str, Part] = {
    "training": training,
    "evaluation": evaluation,
    "generation": generation,
    "serving": serving,
}


if __name__ == "__main__":
    run(main)
