"""Token-weighted perplexity and bits per byte, as an `evaluate.Measurement` that works offline.

`python -m pipeline.evaluation.perplexity MODEL FILE` gives the figures of a model's folder on a file, read as one text.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pipeline.command import UserError, arg_parser, echo_json, run
from pipeline.evaluation.bootstrap import interval, resampled_ratio
from pipeline.modeling import cpu, fast_layers, packed_attention
from pipeline.modeling.context import context_of, encoded_as_text, start_and_end
from pipeline.modeling.nats import MAX_NATS

_TEXTS_AT_ONCE = 1000  # through the tokenizer, whose lists take ten times the memory of the ids
_LOGITS_AT_ONCE = 2**24  # numbers, 64 MB in fp32
_WHOLE_LOGITS = 2**26  # likewise, where a model makes the logits of all its batch at once

Ids = npt.NDArray[np.int32]


class Score(NamedTuple):
    """What a model makes of some texts, one entry a text."""

    loss: npt.NDArray[np.float64]  # sum over the text's tokens of -ln p(token | what is before it), in nats
    tokens: npt.NDArray[np.int64]  # how many tokens the text has
    bytes: npt.NDArray[np.int64]  # how many bytes the text has in UTF-8


class Windows(NamedTuple):
    """Where the model reads texts, one entry a window: it reads tokens `begin` to `end`, and predicts the next of each.

    Token 0 of a text is the start token. Predictions from `new` on are scored, for windows overlap.
    """

    text: npt.NDArray[np.int64]
    begin: npt.NDArray[np.int64]
    new: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]

    def at(self, chosen: Any) -> "Windows":
        """Return the windows that an index of numpy's chooses."""
        return Windows(*(part[chosen] for part in self))


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_tokens: int,
    stride: float = 0.5,
) -> Score:
    """Score every token of every text, given the start token and the tokens before it.

    A model reads as many tokens as its context holds, the start token among them. Longer texts are read through
    windows that move by `stride` (a share of the context); a token is scored once, in the first window that predicts
    it. So each token but the first window's is given at least (1 - stride) of a context; with a stride of one token
    each is given all that the model can read. See https://huggingface.co/docs/transformers/perplexity. The end token
    is not scored; a text without a token has loss 0.

    Of `batch_tokens` and of the order of the texts only speed and memory (and the last digits) depend. `model` is
    left as it was. Raises UserError where a loss is not a finite number.
    """
    ids = list(_ids(tokenizer, texts))
    lengths = np.array([len(tokens) - 1 for tokens in ids], dtype=np.int64)
    loss = np.zeros(len(ids))
    with _undisturbed():
        reader = _Reader(model)
        windows = _windows(lengths, context_of(model.config), stride)
        batches = _batches(windows, reader.most_tokens(batch_tokens), reader.flat)
        for batch in tqdm(batches, "scoring", unit=" batches", leave=False, disable=None):
            nats = reader.token_losses(ids, batch).double().cpu().numpy()
            np.add.at(loss, np.repeat(batch.text, batch.end - batch.new), nats)
    if odd := int((~np.isfinite(loss)).sum()):
        raise UserError(
            f"the loss of {odd} of {len(ids)} texts is not a finite number: the model's weights are damaged, "
            "expected finite ones; train it again, with a lower learning rate if that comes back"
        )
    return Score(loss, lengths, np.array([len(text.encode()) for text in texts], dtype=np.int64))


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[Ids]:
    """Yield each text's ids behind the start token."""
    start, _ = start_and_end(tokenizer)
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        some = list(texts[first : first + _TEXTS_AT_ONCE])
        for tokens in encoded_as_text(tokenizer, some)["input_ids"]:
            yield np.array([start, *tokens], dtype=np.int32)


def _windows(lengths: npt.NDArray[np.int64], context: int, stride: float) -> Windows:
    """Return the windows over texts of `lengths` tokens (without the start token), longest first.

    So windows of about the same length stand together, and a lack of memory shows at once.
    """
    context = min(context, int(lengths.max(initial=1)))  # some models set no limit
    step = max(1, round(stride * context))
    counts = np.where(lengths > 0, 1 - (np.minimum(context - lengths, 0) // step), 0)
    text = np.repeat(np.arange(len(lengths)), counts)
    nth = np.arange(len(text)) - np.repeat(counts.cumsum() - counts, counts)
    end = np.minimum(context + nth * step, lengths[text])
    new = np.where(nth == 0, 0, context + (nth - 1) * step)
    windows = Windows(text, np.maximum(end - context, 0), new, end)
    return windows.at(np.argsort(windows.begin - windows.end, kind="stable"))


def _batches(windows: Windows, most_tokens: int, flat: bool) -> Iterator[Windows]:
    """Yield windows that hold `most_tokens` together, padding included unless `flat`; a longer one comes alone."""
    lengths = windows.end - windows.begin
    before = np.concatenate([[0], lengths.cumsum()])
    first = 0
    while first < len(lengths):
        if flat:
            last = int(np.searchsorted(before, before[first] + most_tokens, side="right")) - 1
        else:
            last = first + most_tokens // int(lengths[first])
        last = max(last, first + 1)
        yield windows.at(slice(first, last))
        first = last


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Have exact products and one thread a core, then put torch's settings, which are the whole process's, back."""
    products, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_float32_matmul_precision("highest")
    cpu.use_physical_cores()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.set_num_threads(threads)


class _Reader:
    """A model made ready for scoring; it shares its weights with the one given, which stays as it is."""

    def __init__(self, model: PreTrainedModel) -> None:
        tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
        self._model = copy.deepcopy(model, tensors).eval()
        fast_layers.use_tanh_gelu(self._model)
        self.flat = _strings_together(model)
        if self.flat:
            packed_attention.use_varlen_attention(self._model)
        self._has_plain_head = packed_attention.supports_packing(model) or _has_plain_head(self._model)

    def most_tokens(self, wanted: int) -> int:
        """Return how many tokens, of the `wanted`, the model may read at once."""
        return wanted if self._has_plain_head else min(wanted, _WHOLE_LOGITS // self._model.config.vocab_size)

    def token_losses(self, ids: Sequence[Ids], windows: Windows) -> torch.Tensor:
        """Return -ln p, in nats, of the tokens that `windows` score, one window's behind the other's."""
        read, targets, scored = [], [], []
        for text, begin, new, end in zip(*windows, strict=True):
            read.append(torch.from_numpy(ids[text][begin:end]))
            targets.append(torch.from_numpy(ids[text][new + 1 : end + 1]))
            scored.append(torch.arange(begin, end) >= new)
        device = self._model.device
        wanted = torch.cat(targets).long().to(device)
        if self.flat:
            kept = torch.cat(scored)[None]
            documents = {
                "position_ids": torch.cat([torch.arange(len(row)) for row in read])[None],
                "cu_seq_lens_q": torch.tensor([0, *map(len, read)]).cumsum(0),
            }
            batch = torch.cat(read)[None].long()
        else:
            # Padded behind, where causal attention never looks, so no mask is needed and any id will do.
            kept = pad_sequence(scored, batch_first=True).to(device)
            documents = {}
            batch = pad_sequence(read, batch_first=True).long().to(device)
        if not self._has_plain_head:
            logits = self._model(batch, use_cache=False).logits[kept]
            return torch.cat([_cross_entropy(*part) for part in _in_parts(logits, wanted, logits.shape[-1])])
        states = self._model.base_model(batch, use_cache=False, **documents)[0][kept]
        head = self._model.get_output_embeddings()
        return torch.cat(
            [_cross_entropy(head(some), theirs) for some, theirs in _in_parts(states, wanted, head.weight.shape[0])]
        )


def _strings_together(model: PreTrainedModel) -> bool:
    """Tell whether texts are read without padding between them; GPUs are faster with rows side by side."""
    return packed_attention.supports_packing(model) and model.device.type == "cpu"


def _in_parts(
    rows: torch.Tensor, targets: torch.Tensor, vocabulary: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield some rows at a time with their targets, so few that their logits are bounded."""
    at_once = max(1, _LOGITS_AT_ONCE // vocabulary)
    return zip(torch.split(rows, at_once), torch.split(targets, at_once), strict=True)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def _has_plain_head(model: PreTrainedModel) -> bool:
    """Tell whether the logits are the output layer's as they stand: Gemma caps them, Granite scales them."""
    ids = torch.tensor([[0, 1]], device=model.device)
    head = model.get_output_embeddings()
    logits = model(ids, use_cache=False).logits.float()
    return head is not None and torch.equal(head(model.base_model(ids, use_cache=False)[0]).float(), logits)


def figures(scored: Score, resamples: int, confidence: float, seed: int) -> dict[str, float | int]:
    """Return perplexity with its interval, bits per byte and tokens.

    Perplexity is exp(sum of losses / tokens) over all tokens of all texts (Jelinek et al. 1977), not a mean over
    texts. The interval is the percentile bootstrap (Efron 1979) over texts, which are what varies independently.
    Bits per byte is the same loss in bits over the bytes of the text: comparable between tokenizers. Raises UserError
    where there is no token, and where perplexity is too large for a number.
    """
    loss, tokens = scored.loss.sum(), scored.tokens.sum()
    if not tokens:
        raise UserError(
            f"the {len(scored.tokens)} texts to score hold no token, expected at least one; "
            "give more rows, or a larger validate.test_share in params.yaml"
        )
    nats = loss / tokens
    low, high = interval(resampled_ratio(scored.loss, scored.tokens, resamples, seed), confidence)
    if max(nats, high) > MAX_NATS:
        raise UserError(
            f"the model's loss is {nats:.0f} nats a token (interval {low:.0f} to {high:.0f}), where guessing at random "
            "has about 11: its weights are damaged or training diverged; train it again with a lower "
            "finetune.learning_rate, or take another base"
        )
    return {
        "perplexity": math.exp(nats),
        "perplexity_low": math.exp(low),
        "perplexity_high": math.exp(high),
        "bits_per_byte": float(loss / math.log(2) / scored.bytes.sum()),
        "tokens": int(tokens),
    }


def grouped(
    scored: Score, groups: Sequence[str], resamples: int, confidence: float, seed: int
) -> dict[str, dict[str, float | int]]:
    """Return the figures of each group of texts, by its name, and its `rows`; `groups` names each text's.

    Raises ValueError unless each text has a group, and UserError for a group without a token.
    """
    if len(groups) != len(scored.tokens):
        raise ValueError(f"{len(groups)} groups for {len(scored.tokens)} texts")
    names = np.array(groups, dtype=object)
    found = {}
    for name in sorted(set(groups)):
        members = Score(*(part[names == name] for part in scored))
        found[name] = {"rows": len(members.tokens), **figures(members, resamples, confidence, seed)}
    return found


class Perplexity(evaluate.Measurement):
    """How well a causal language model predicts texts; lower is better.

    `Perplexity().compute(data=texts, model=model, tokenizer=tokenizer)` takes a loaded model, so nothing is fetched.
    `evaluate`'s own perplexity is the mean of each text's perplexity, which one odd short text can dominate. With
    `groups`, a name a text, the figures of each stand under "groups".
    """

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description="Token-weighted perplexity with a bootstrap interval, and bits per byte.",
            citation="",
            inputs_description="data: the texts. model, tokenizer: a causal language model of transformers.",
            features=datasets.Features({"data": datasets.Value("string")}),
            reference_urls=["https://huggingface.co/docs/transformers/perplexity"],
        )

    def _compute(
        self,
        data: list[str],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 2048,
        stride: float = 0.5,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 42,
        groups: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        scored = score(model, tokenizer, data, batch_tokens, stride)
        found: dict[str, Any] = figures(scored, resamples, confidence, seed)
        return found if groups is None else {**found, "groups": grouped(scored, groups, resamples, confidence, seed)}


def main() -> None:
    """Print the figures of one model on one text, as JSON."""
    parser = arg_parser()
    parser.add_argument("model", type=Path, help="a folder with a model in it, such as models/base")
    parser.add_argument("file", type=Path, help="plain text in UTF-8, read as one text")
    parser.add_argument("--stride", type=float, default=0.5, help="of windows, a share of the context (%(default)s)")
    wanted = parser.parse_args()
    if not 0 < wanted.stride <= 1:
        raise UserError(f"--stride: found {wanted.stride}, expected a share above 0, at most 1")
    if not (wanted.model / "config.json").is_file():
        raise UserError(f"{wanted.model} holds no config.json, so it is not a model's folder; name one that is")
    try:
        text = wanted.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{wanted.file} cannot be read as text in UTF-8 ({error}); name another file") from None
    model = AutoModelForCausalLM.from_pretrained(
        wanted.model, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    scored = score(
        model,
        AutoTokenizer.from_pretrained(wanted.model, local_files_only=True, trust_remote_code=False),
        [text],
        2048,
        wanted.stride,
    )
    found = figures(scored, 1, 0.5, 0)  # of one text there is nothing to draw from, so no interval
    shown = {name: found[name] for name in ("perplexity", "bits_per_byte", "tokens")}
    words = len(text.split())
    if words and scored.loss.sum() / words <= MAX_NATS:  # a script without spaces has a page in a "word"
        shown["perplexity_of_words"] = math.exp(scored.loss.sum() / words)
    echo_json({**shown, "words": words})


if __name__ == "__main__":
    run(main)
