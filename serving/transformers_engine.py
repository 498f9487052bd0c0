"""The reference engine: transformers in float32 on the CPU, one request at a time."""

import sys
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils.logging import disable_progress_bar

from serving.engine import AbandonedError, Generation, PromptTooLongError, Sampling

# Logits divided by less than this leave float32's range; what is drawn no longer changes long before.
_SMALLEST_DIVISOR = 1e-6


class TransformersEngine:
    """A model and its tokenizer, loaded from a folder."""

    name = "transformers"

    def __init__(self, folder: Path) -> None:
        """Load the model in `folder`; raises what transformers raises."""
        disable_progress_bar()  # it would be drawn into the log
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._end = self._tokenizer.eos_token_id
        start = self._tokenizer.bos_token_id
        self._start = self._end if start is None else start
        # The folder's own generation settings would quietly complete those of a request.
        self._model.generation_config = self._config()

    def generate(self, prompt: str, sampling: Sampling, cancelled: threading.Event) -> Generation:
        """Return what the model writes after `prompt`; see `Engine.generate`."""
        # Models learn documents that begin with the start token.
        ids = torch.tensor([[self._start, *self._tokenizer.encode(prompt, add_special_tokens=False)]])
        prompt_tokens = ids.shape[1]
        context = getattr(self._model.config, "max_position_embeddings", sys.maxsize)
        if prompt_tokens + sampling.max_new_tokens > context:
            raise PromptTooLongError(
                f"the prompt has {prompt_tokens} tokens (with the start token) and max_new_tokens is "
                f"{sampling.max_new_tokens}; together they must not exceed the model's context of {context} tokens"
            )
        criteria = StoppingCriteriaList([_Stop(self, prompt_tokens, sampling.stop, cancelled)])
        # generate() draws from torch's global generator, so each request seeds it, and leaves it as it was.
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(sampling.seed)
            output = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._config(
                    max_new_tokens=sampling.max_new_tokens,
                    repetition_penalty=float(max(sampling.repetition_penalty, _SMALLEST_DIVISOR)),
                    **_drawing(sampling),
                ),
                stopping_criteria=criteria,
            )
        if cancelled.is_set():
            raise AbandonedError
        written = output[0, prompt_tokens:]
        text, found = cut(self.decode(written), sampling.stop)
        stopped = found or bool(written[-1] == self._end)
        return Generation(text, "stop" if stopped else "length", prompt_tokens, len(written))

    def decode(self, ids: torch.Tensor) -> str:
        """Return the text of the tokens `ids`, without start and end."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _config(self, **options: Any) -> GenerationConfig:
        return GenerationConfig(eos_token_id=self._end, pad_token_id=self._end, **options)


def cut(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Return `text` up to the earliest of the strings in `stop`, and whether there was one."""
    found = [at for at in (text.find(string) for string in stop) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


class _Stop(StoppingCriteria):
    """Stops at a stop string in what was written, or when the request is cancelled.

    transformers' own `stop_strings` also finds strings that begin in the prompt.
    """

    def __init__(
        self, engine: TransformersEngine, prompt_tokens: int, stop: tuple[str, ...], cancelled: threading.Event
    ) -> None:
        self._engine = engine
        self._prompt_tokens = prompt_tokens
        self._stop = stop
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = self._cancelled.is_set()
        if self._stop and not done:
            _, done = cut(self._engine.decode(input_ids[0, self._prompt_tokens :]), self._stop)
        return torch.tensor([done], device=input_ids.device)


def _drawing(sampling: Sampling) -> dict[str, Any]:
    """Return transformers' options for drawing a token; at temperature 0 the others have no meaning."""
    if sampling.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": float(max(sampling.temperature, _SMALLEST_DIVISOR)),
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
    }
