"""Run parts of `bench.gpu` in a process of their own: `python -m bench.gpu_parts SECONDS ROUNDS PART...`.

Each line of JSON is a `bench.gpu_figures.Figure` with its part; an exception ends its part alone.
"""

import json
import time
from collections.abc import Callable

import torch
from transformers import AutoTokenizer

from bench.gpu_figures import DEVICE, Emit, Figure, Plan, emitter, synchronized_time
from pipeline.command import arg_parser, echo, run

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


def evaluation(plan: Plan, emit: Emit) -> None:
    """Score texts as evaluate's metric does, and as the stage does with small and large batches."""
    from bench import scorers
    from bench.gpu_serving import load_model
    from bench.train_models import STARTER
    from pipeline.evaluation.scoring import score

    tokenizer = AutoTokenizer.from_pretrained(STARTER, local_files_only=True, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.eos_token
    texts = scorers.draw_texts(tokenizer, 8 if plan.quick else SCORED)
    tokens = sum(map(len, tokenizer(texts)["input_ids"]))
    model = load_model(plan.quick)

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


def generation(plan: Plan, emit: Emit) -> None:
    """Compare the engine with `generate`."""
    from bench import gpu_serving

    gpu_serving.generation(plan, emit)


def serving(plan: Plan, emit: Emit) -> None:
    """Measure the service over HTTP."""
    from bench import gpu_serving

    gpu_serving.serving(plan, emit)


Part = Callable[[Plan, Emit], None]
PARTS: dict[str, Part] = {
    "training": training,
    "evaluation": evaluation,
    "generation": generation,
    "serving": serving,
}


if __name__ == "__main__":
    run(main)
