"""The reference for encoders: transformers, float32 on a CPU, bfloat16 on a GPU.

A text is padded to a length that depends on its own alone, so its company changes only how many rows a product has.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from serving.engines.encoder import Encoded, Logits, load_tokenizer

_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}  # more are hardly faster, and others wait longer
_MULTIPLE = 8  # of tokens, to which short texts are padded
_LOGITS_AT_ONCE = 2**24  # numbers, 64 MB in float32; a masked model has one for each token and word of its vocabulary


class TransformersEncoder:
    """An `EncoderRunner` for any architecture of transformers."""

    name = "transformers"

    def __init__(self, folder: Path, auto_class: str) -> None:
        """Load the model in `folder` with a class of transformers; raises what transformers raises."""
        self._model = _load(folder, auto_class)
        self.config = self._model.config
        self._first_position = _first_position(self._model)
        positions: int = getattr(self.config, "max_position_embeddings", sys.maxsize)
        self.positions = positions - self._first_position
        self._device = self._model.device
        self._has_types = "token_type_ids" in load_tokenizer(folder).model_input_names
        self._input_names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._has_types else [])]
        self._padding: int = self.config.pad_token_id or 0
        self._is_masked = auto_class == "AutoModelForMaskedLM"
        logits_per_token = self.config.vocab_size if self._is_masked else 1
        self.batch_tokens = min(_BATCH_TOKENS[self._device.type], max(1, _LOGITS_AT_ONCE // logits_per_token))

    @torch.inference_mode()
    def logits(self, texts: Sequence[Encoded]) -> list[Logits]:
        """Return the logits of each text; see `EncoderRunner.logits`."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for at, text in enumerate(texts):
            by_length[self._padded_length(len(text.ids))].append(at)
        results: dict[int, Logits] = {}
        for length, places in by_length.items():
            results |= zip(places, self._read(length, [texts[at] for at in places]), strict=True)
        return [results[at] for at in range(len(texts))]

    def _padded_length(self, tokens: int) -> int:
        """Return the length to which a text is padded: on a CPU an eighth more at most, on a GPU a power of 2."""
        power = 1 << (tokens - 1).bit_length()
        step = max(_MULTIPLE, power if self._device.type == "cuda" else power // 8)
        return max(tokens, min(-(-tokens // step) * step, self.positions))

    def _read(self, length: int, texts: Sequence[Encoded]) -> list[Logits]:
        """Return the logits of texts, padded to `length`."""
        inputs = {name: torch.zeros((len(texts), length), dtype=torch.long) for name in self._input_names}
        inputs["input_ids"].fill_(self._padding)  # (texts, tokens)
        for row, text in enumerate(texts):
            size = len(text.ids)
            inputs["input_ids"][row, :size] = torch.tensor(text.ids)
            inputs["attention_mask"][row, :size] = 1
            if self._has_types:
                inputs["token_type_ids"][row, :size] = torch.tensor(text.type_ids)
        logits = self._logits_of(inputs)
        if self._is_masked:  # (texts, tokens, vocabulary)
            return [logits[row, list(text.masks)].float().cpu().numpy() for row, text in enumerate(texts)]
        return list(logits.float().cpu().numpy())

    def _logits_of(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the model's logits for inputs of (texts, tokens)."""
        logits: torch.Tensor = self._model(**{name: value.to(self._device) for name, value in inputs.items()}).logits
        return logits


def _load(folder: Path, auto_class: str) -> PreTrainedModel:
    disable_progress_bar()  # it would be drawn into the log
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: PreTrainedModel = getattr(transformers, auto_class).from_pretrained(
        folder,
        dtype=torch.bfloat16 if device == "cuda" else torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if model.config.pad_token_id is None:  # GPT-2's head reads the last token that is not padding
        tokenizer = load_tokenizer(folder)
        padding = tokenizer.pad_token_id
        model.config.pad_token_id = tokenizer.eos_token_id if padding is None else padding
    return model.to(device).eval()


def _first_position(model: PreTrainedModel) -> int:
    """Return the position of the first token; RoBERTa's is the one after its padding token's."""
    padding = [
        module.padding_idx
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return int(padding[0]) + 1 if padding else 0
