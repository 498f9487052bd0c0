"""The reference engine for encoders with decoders: transformers, in float32 on a CPU; on a GPU in the folder's dtype.

Never in float16, in which T5's activations overflow: such weights are read as float32.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from serving.engines.protocol import Token
from serving.engines.scoring import scored_tokens
from serving.engines.seq2seq import read_folder
from serving.engines.transformers import Slot, TransformersRunner, token_bytes


def load_model(folder: Path) -> PreTrainedModel:
    """Return the model in `folder`, ready for inference; raises what transformers raises."""
    disable_progress_bar()  # it would be drawn into the log
    on_gpu = torch.cuda.is_available()
    stored = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).dtype
    model = AutoModelForSeq2SeqLM.from_pretrained(
        folder,
        dtype=stored if on_gpu and stored == torch.bfloat16 else torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model.to("cuda").eval() if on_gpu else model.eval()


def encode(model: PreTrainedModel, source: Sequence[int]) -> dict[str, Any]:
    """Read a source; return the cache with which `decode` starts."""
    ids = torch.tensor([source], device=model.device)
    return {"encoder_outputs": model.get_encoder()(input_ids=ids)}


def decode(model: PreTrainedModel, cache: dict[str, Any], tokens: Sequence[int]) -> torch.Tensor:
    """Read tokens of a target after what `cache` holds, which is changed; return logits: (tokens, vocabulary)."""
    output = model(decoder_input_ids=torch.tensor([tokens], device=model.device), **cache, use_cache=True)
    cache["past_key_values"] = output.past_key_values
    logits: torch.Tensor = output.logits[0]
    return logits.float().cpu()


class Seq2SeqRunner(TransformersRunner):
    """A `ModelRunner` whose slots read a source at first, then tokens of the target."""

    def __init__(self, folder: Path) -> None:
        """Load the model in `folder`; raises EngineError, or what transformers raises."""
        described = read_folder(folder)
        self.prompt_format = described.format
        self.tokenizer = described.format.tokenizer
        self.start, self.end = described.start_tokens[0], described.end
        self._start_tokens = described.start_tokens
        self._model = load_model(folder)
        self.context = described.format.max_source_tokens + described.format.max_target_tokens
        self.prefill_tokens = described.format.max_source_tokens  # an encoder reads a source whole
        self._token_bytes = token_bytes(self._model)  # keys and values of the source, and of the target
        self._slots: list[Slot] = []

    def _forward(self, slot: Slot, chunk: Sequence[int]) -> torch.Tensor:
        """Return the logits after a chunk, (1, vocabulary)."""
        if slot.cache:
            return decode(self._model, slot.cache, chunk)[-1:]
        slot.cache = encode(self._model, chunk)
        return decode(self._model, slot.cache, self._start_tokens)[-1:]


class Seq2SeqScorer:
    """The model in a folder, in float32 on a CPU: what other engines are compared with."""

    def __init__(self, folder: Path) -> None:
        """Load the model; raises what transformers raises."""
        self._start_tokens = read_folder(folder).start_tokens
        self._model = load_model(folder)

    @torch.inference_mode()
    def score(self, source: Sequence[int], target: Sequence[int], top: int = 0) -> list[Token]:
        """Return each token of `target` with its log-probability, and the `top` likeliest tokens at its place."""
        logits = decode(self._model, encode(self._model, source), [*self._start_tokens, *target[:-1]])
        return scored_tokens(logits[len(self._start_tokens) - 1 :], target, top)
