"""What all engines know of an encoder with a decoder: its prompts are sources, and its texts begin anew.

The encoder reads a source whole, with the prefix and the special tokens that it was trained with; the decoder starts
from the model's own start tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoConfig, GenerationConfig

from serving import task_json
from serving.engines.prompt_format import plain_ids
from serving.engines.protocol import EngineError
from serving.engines.transformers import load_tokenizer
from serving.errors import ApiError

_UNBOUNDED = 512  # tokens of a source or a target, where neither task.json nor the architecture has a bound


@dataclass(frozen=True)
class SourceFormat:
    """The `PromptFormat` of a model that rewrites its prompt, the source."""

    tokenizer: Tokenizer
    prefix: str  # in front of each source that is a text
    leading: tuple[int, ...]  # special tokens around a source
    trailing: tuple[int, ...]
    max_source_tokens: int  # with the prefix and the special tokens
    max_target_tokens: int

    def encode(self, text: str) -> list[int]:
        """Return the tokens of `text` after the prefix, with the special tokens."""
        return plain_ids(self.tokenizer, self.prefix + text, add_special_tokens=True)

    def complete(self, ids: Sequence[int]) -> list[int]:
        """Return `ids` between the special tokens; those that are there already stay."""
        begins = tuple(ids[: len(self.leading)]) == self.leading
        ends = not self.trailing or tuple(ids[-len(self.trailing) :]) == self.trailing
        return [*(() if begins else self.leading), *ids, *(() if ends else self.trailing)]

    def shortened(self, ids: Sequence[int]) -> list[int]:
        """Return a complete prompt without what exceeds the limit."""
        body = ids[: len(ids) - len(self.trailing)]
        return [*body[: self.max_source_tokens - len(self.trailing)], *self.trailing]

    def room(self, prompt: Sequence[int]) -> int:
        """Return the longest target, whatever the source."""
        return self.max_target_tokens

    def check_length(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Raise ApiError 400 where the source or the target is longer than the model was trained for."""
        if len(prompt) > self.max_source_tokens:
            message = (
                f"the prompt has {len(prompt)} tokens (with the model's prefix and special tokens); this model reads "
                f"at most {self.max_source_tokens}, so shorten it or send it in parts"
            )
            raise ApiError(400, message, code="context_length_exceeded", param="prompt")
        if max_new_tokens > self.max_target_tokens:
            message = (
                f"max_new_tokens is {max_new_tokens}, but this model writes at most {self.max_target_tokens} tokens; "
                "ask for fewer, or leave it out"
            )
            raise ApiError(400, message, code="context_length_exceeded", param="max_new_tokens")

    def preceding(self, prompt: Sequence[int]) -> Sequence[int]:
        """Return no tokens: the text does not continue the source."""
        return ()


@dataclass(frozen=True)
class Seq2SeqFolder:
    """What a model's folder says besides its weights."""

    format: SourceFormat
    start_tokens: tuple[int, ...]  # that the decoder starts from
    end: int  # id of the token that ends a target


def read_folder(folder: Path) -> Seq2SeqFolder:
    """Return what the folder of an encoder-decoder says; raises EngineError."""
    tokenizer, _, end = load_tokenizer(folder)
    leading, trailing = _special_tokens(tokenizer)
    settings = task_json.read(folder)  # empty for a base that this project has not trained
    start_tokens = _start_tokens(folder)
    source_format = SourceFormat(
        tokenizer,
        prefix=settings.get("prefix", ""),
        leading=leading,
        trailing=trailing,
        max_source_tokens=_bounded(settings.get("max_source_tokens"), folder, 0),
        max_target_tokens=_bounded(settings.get("max_target_tokens"), folder, len(start_tokens)),
    )
    return Seq2SeqFolder(source_format, start_tokens, end)


def _bounded(tokens: int | None, folder: Path, reserved: int) -> int:
    """Return `tokens`, or fewer where the architecture has fewer positions; T5's are relative, and so unbounded."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    positions: int | None = getattr(config, "max_position_embeddings", None)
    bounds = [tokens] if tokens else []
    bounds += [positions - reserved] if positions else []
    return min(bounds, default=_UNBOUNDED)


def _start_tokens(folder: Path) -> tuple[int, ...]:
    """Return what the decoder reads before it writes; mBART, for example, also forces a language token."""
    try:
        config = GenerationConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except OSError:  # a folder without the file: config.json has these settings too
        model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = GenerationConfig.from_model_config(model_config)
    if config.decoder_start_token_id is None:
        raise EngineError(f"{folder / 'config.json'} names no decoder_start_token_id, from which a target begins")
    forced = config.forced_bos_token_id
    return config.decoder_start_token_id, *(() if forced is None else (forced,))


def _special_tokens(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens that the tokenizer puts before and after a text."""
    encoding = tokenizer.encode("a")
    own = [at for at, is_special in enumerate(encoding.special_tokens_mask) if not is_special]
    if not own:
        return (), tuple(encoding.ids)
    return tuple(encoding.ids[: own[0]]), tuple(encoding.ids[own[-1] + 1 :])
