"""Stage `evaluate`: base and candidate on the test split: perplexity with its interval, and samples side by side."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.utils.logging import disable_progress_bar

from pipeline import params, paths
from pipeline.command import run
from pipeline.evaluation.perplexity import Perplexity
from pipeline.tokenize import context_of, start_and_end

MODELS = {"base": paths.BASE, "candidate": paths.CANDIDATE}


def main() -> None:
    """Run the stage."""
    disable_progress_bar()  # loading weights takes no time worth a bar
    wanted = params.load().evaluate
    clean = pd.read_parquet(paths.CLEAN)
    texts = clean.loc[clean["split"] == "test", "text"].tolist()
    prompts = [*wanted.prompts, *_openings(texts, wanted.test_prompts, wanted.test_prompt_words)]

    metrics: dict[str, Any] = {}
    samples: list[dict[str, str]] = [{"prompt": prompt} for prompt in prompts]
    for name, folder in MODELS.items():
        model, tokenizer = load_model(folder)
        metrics[name] = Perplexity().compute(
            data=texts,
            model=model,
            tokenizer=tokenizer,
            batch_size=wanted.batch_size,
            stride=wanted.stride,
            resamples=wanted.resamples,
            confidence=wanted.confidence,
            seed=wanted.seed,
        )
        for sample in samples:
            sample[name] = generate(model, tokenizer, sample["prompt"], wanted)

    paths.EVALUATE_METRICS.parent.mkdir(parents=True, exist_ok=True)
    paths.EVALUATE_METRICS.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    plotted = pd.DataFrame({"model": list(metrics), "perplexity": [row["perplexity"] for row in metrics.values()]})
    plotted.to_csv(paths.PERPLEXITY_PLOT, index=False, lineterminator="\n")
    paths.SAMPLES.write_text(json.dumps(samples, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    paths.SAMPLES_PAGE.write_text(_page(samples), encoding="utf-8")


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model in `folder` in float32, without dropout, on the GPU when there is one, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, wanted: params.Evaluate) -> str:
    """Return what `model` writes after `prompt` (not with it), the same for the same seed."""
    start, end = start_and_end(tokenizer)
    ids = torch.tensor([[start, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]], device=model.device)
    set_seed(wanted.seed)
    written = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        top_k=wanted.top_k,
        max_new_tokens=min(wanted.max_new_tokens, context_of(model.config) - ids.shape[1]),
        eos_token_id=end,
        pad_token_id=end,
    )
    text: str = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def _openings(texts: list[str], count: int, words: int) -> list[str]:
    """Return the first `words` words of `count` texts, taken at even distances through `texts`."""
    count = min(count, len(texts))
    return [" ".join(texts[at * len(texts) // count].split()[:words]) for at in range(count)]


def _page(samples: list[dict[str, str]]) -> str:
    """Return the samples as Markdown, for people."""
    parts = ["# The same prompts, base and candidate"]
    for sample in samples:
        parts.append(f"## {sample['prompt']} …")
        parts.extend(f"**{name}**: … {sample[name].strip()}" for name in MODELS)
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    run(main)
