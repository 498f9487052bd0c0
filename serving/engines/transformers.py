"""The reference engine: transformers, any causal architecture; in float32 on a CPU, as its folder has it on a GPU."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tokenizers
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from serving.engines.protocol import EngineError

_SPARE_MEMORY = 256 * 2**20  # bytes left to the rest of the machine when a text is let in
_CACHES = ("past_key_values", "cache_params", "state")  # what architectures call the cache that they return


def load_model(folder: Path) -> PreTrainedModel:
    """Return the model in `folder`, ready to read; raises what transformers raises."""
    disable_progress_bar()  # it would be drawn into the log
    on_gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto" if on_gpu else torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.config.pad_token_id = None  # nothing is padded here, and transformers warns where the start token is the same
    return model.to("cuda").eval() if on_gpu else model.eval()


def context_length(model: PreTrainedModel) -> int:
    """Return how many tokens `model` reads at most; a model without position embeddings sets no limit."""
    context: int = getattr(model.config, "max_position_embeddings", sys.maxsize)
    return context


def load_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, int, int]:
    """Return the tokenizer in `folder`, and the ids of the tokens before and behind a text (GPT-2 has one for both)."""
    fast = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if fast.eos_token_id is None:
        raise EngineError(
            f"the tokenizer in {folder} names no token that ends a text; set eos_token in its tokenizer_config.json"
        )
    tokenizer = fast.backend_tokenizer
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    known, largest = config.get_text_config().vocab_size, max(tokenizer.get_vocab().values(), default=0)
    if largest >= known:
        raise EngineError(
            f"the tokenizer in {folder} has a token {largest}, but the model knows {known} tokens (0 to {known - 1}); "
            "they are not of the same model"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a special token's name in a text is text, as it is in training
    start = fast.bos_token_id
    return tokenizer, fast.eos_token_id if start is None else start, fast.eos_token_id


def forward(model: PreTrainedModel, cache: dict[str, Any], tokens: Sequence[int], logits: int) -> torch.Tensor:
    """Return the logits after the last so many of `tokens` (0: after all), read after what `cache` holds.

    `cache` is what the architecture wants, empty at first; it is changed in place.
    """
    ids = torch.tensor([tokens], device=model.device)
    output = model(ids, **cache, use_cache=True, logits_to_keep=logits)
    cache.update({name: output[name] for name in _CACHES if output.get(name) is not None})
    found: torch.Tensor = output.logits[0]
    return found.float().cpu()


def supports_chunked_prefill(model: PreTrainedModel) -> bool:
    """Tell whether a prompt may be read a part at a time; recurrent architectures go on by single tokens only."""
    return not model._is_stateful


@dataclass
class Slot:
    """A text: how long it may become, what was read of it, and the model's cache of that."""

    length: int
    parts: list[list[int]] = field(default_factory=list)
    cache: dict[str, Any] = field(default_factory=dict)
    cached: int = 0  # how many of `parts` the cache holds

    @property
    def missing(self) -> int:
        """How many tokens its cache may yet grow by."""
        return self.length - sum(map(len, self.parts[: self.cached]))


class TransformersRunner:
    """See `serving.engines.scheduler.ModelRunner`.

    Texts are read one after the other: a product of matrices of several texts, or attention over a padded cache, sums
    in another order than for one text alone, so that what a text gets would hang on its neighbours.
    """

    name = "transformers"
    tokenizer: Tokenizer

    def __init__(self, folder: Path) -> None:
        """Load the model in `folder`; raises what transformers raises."""
        self.tokenizer, self.start, self.end = load_tokenizer(folder)
        self._model = load_model(folder)
        self.context = context_length(self._model)
        on_gpu = self._model.device.type == "cuda"
        self.prefill_tokens = (2048 if on_gpu else 128) if supports_chunked_prefill(self._model) else sys.maxsize
        self._token_bytes = _token_bytes(self._model)
        self._rows: list[Slot] = []

    def open(self, length: int) -> Slot:
        """Return the place of a text; see `ModelRunner.open`."""
        tokens = length + sum(row.missing for row in self._rows)
        if tokens * self._token_bytes > _free_memory(self._model.device) - _SPARE_MEMORY:
            raise MemoryError
        row = Slot(length)
        self._rows.append(row)
        return row

    def close(self, row: Slot) -> None:
        """Let go of a text's place; see `ModelRunner.close`."""
        self._rows = [other for other in self._rows if other is not row]

    @torch.inference_mode()
    def step(self, rows: Sequence[Slot], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read on; see `ModelRunner.step`."""
        read_before = [len(row.parts) for row in rows]
        try:
            for row, of_row in zip(rows, tokens, strict=True):
                row.parts.append(list(of_row))
            return torch.cat([self._read(row) for row in rows])
        except BaseException:
            # A cache may hold a part in some layers only. It is made anew, by the same steps and so with the same bits.
            for row, parts in zip(rows, read_before, strict=True):
                del row.parts[parts:]
                row.cache, row.cached = {}, 0
            raise

    def _read(self, row: Slot) -> torch.Tensor:
        """Return the logits, (1, vocabulary), after all of the row's parts; as a rule one of them was not read yet."""
        for part in row.parts[row.cached :]:
            logits = forward(self._model, row.cache, part, 1)
            row.cached += 1
        return logits


def _token_bytes(model: PreTrainedModel) -> int:
    """Return how many bytes a token takes in the cache: a key and a value a layer; an upper bound for some models."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", 0)
    if not heads:
        return 0  # a recurrent model's state does not grow
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * shared * width * model.dtype.itemsize)


def _free_memory(device: torch.device) -> int:
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for what comes
    return int(torch.cuda.mem_get_info(device)[0]) + kept
