"""The engine of encoders with decoders for GPUs: transformers, with sources of like length, and targets, in batches.

Targets that are written together are a cohort. Where positions are relative (T5), later targets join one, padded on
the left; elsewhere cohorts stay apart. Products of a batch sum in another order than those of a sequence alone, so a
seed gives the same text only in the same batch. It also runs on a CPU, where the tests compare it; it has never been
run on a GPU.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from serving.engines.protocol import EngineError
from serving.engines.seq2seq_transformers import Seq2SeqRunner, decode, encode
from serving.engines.transformers import Slot

_SHORTEST = 16  # tokens to which sources are padded, else to a power of 2
_PREFILL_TOKENS = 8192
_MAX_DRIFT = {torch.float32: 0.001, torch.bfloat16: 0.1}  # of the logits' spread, from each sequence alone

_Layer = tuple[torch.Tensor, ...]  # keys and values of the target and of the source, (rows, heads, tokens, head_dim)


@dataclass(eq=False)
class _Cohort:
    """Targets that are written together, a row each."""

    slots: list[Slot]
    states: torch.Tensor  # the encoder's, (rows, source, hidden)
    source_mask: torch.Tensor  # (rows, source), 0 for padding on the right
    target_mask: torch.Tensor  # (rows, target), 0 for padding on the left
    layers: list[_Layer]

    def select(self, slots: Sequence[Slot]) -> "_Cohort":
        """Return a cohort of some slots."""
        if list(slots) == self.slots:
            return self
        rows = torch.tensor([self.slots.index(slot) for slot in slots], device=self.states.device)
        masks = self.source_mask[rows], self.target_mask[rows]
        layers = [tuple(part[rows] for part in layer) for layer in self.layers]
        return _Cohort(list(slots), self.states[rows], *masks, layers)

    def join(self, other: "_Cohort") -> "_Cohort":
        """Return a cohort of both, whose sources have the same padded length."""
        length = max(self.target_mask.shape[1], other.target_mask.shape[1])

        def padded(layer: _Layer) -> _Layer:
            keys, values, *of_source = layer
            missing = length - keys.shape[2]
            return (F.pad(keys, (0, 0, missing, 0)), F.pad(values, (0, 0, missing, 0)), *of_source)

        both = (self, other)
        layers = [
            tuple(torch.cat(parts) for parts in zip(padded(mine), padded(theirs), strict=True))
            for mine, theirs in zip(self.layers, other.layers, strict=True)
        ]
        return _Cohort(
            [*self.slots, *other.slots],
            torch.cat([one.states for one in both]),
            torch.cat([one.source_mask for one in both]),
            torch.cat([F.pad(one.target_mask, (length - one.target_mask.shape[1], 0)) for one in both]),
            layers,
        )


class BatchedSeq2SeqRunner(Seq2SeqRunner):
    """A `ModelRunner` whose step is a batch for each cohort."""

    name = "batched"

    def __init__(self, folder: Path) -> None:
        """Load the model in `folder`; raises EngineError, also where batches do not agree with single sequences."""
        super().__init__(folder)
        self.prefill_tokens = max(self.prefill_tokens, _PREFILL_TOKENS)
        self._cohorts: dict[Slot, _Cohort] = {}
        self._joins = hasattr(self._model.config, "relative_attention_num_buckets")
        self._require_agreement()

    def close(self, slot: Slot) -> None:
        """Free a slot; see `ModelRunner.close`."""
        super().close(slot)
        self._cohorts.pop(slot, None)

    @torch.inference_mode()
    def step(self, slots: Sequence[Slot], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read the next tokens; see `ModelRunner.step`."""
        chunks = dict(zip(slots, tokens, strict=True))
        logits: dict[Slot, torch.Tensor] = {}
        for cohort in self._stepping([slot for slot in slots if slot in self._cohorts]):
            ids = torch.tensor([list(chunks[slot]) for slot in cohort.slots], device=self._model.device)
            logits |= self._advance(cohort, ids)
        by_length: dict[int, list[Slot]] = defaultdict(list)
        for slot in slots:
            if slot not in logits:
                by_length[_padded_length(len(chunks[slot]))].append(slot)
        for length, alike in by_length.items():
            cohort = self._encoded(length, alike, [chunks[slot] for slot in alike])
            start = torch.tensor([list(self._start_tokens)] * len(alike), device=self._model.device)
            logits |= self._advance(cohort, start)
        return torch.stack([logits[slot] for slot in slots])

    def _stepping(self, slots: Sequence[Slot]) -> list[_Cohort]:
        """Return cohorts of exactly these slots; others of theirs stay in cohorts of their own."""
        by_cohort: dict[_Cohort, list[Slot]] = defaultdict(list)
        for slot in slots:
            by_cohort[self._cohorts[slot]].append(slot)
        cohorts: list[_Cohort] = []
        for cohort, chosen in by_cohort.items():
            if rest := [one for one in cohort.slots if self._cohorts.get(one) is cohort and one not in chosen]:
                self._keep(cohort.select(rest))
            part = cohort.select([one for one in cohort.slots if one in chosen])
            alike = next((one for one in cohorts if one.states.shape[1] == part.states.shape[1]), None)
            if alike and self._joins:
                cohorts[cohorts.index(alike)] = alike.join(part)
            else:
                cohorts.append(part)
        for cohort in cohorts:
            self._keep(cohort)
        return cohorts

    def _keep(self, cohort: _Cohort) -> None:
        self._cohorts |= dict.fromkeys(cohort.slots, cohort)

    def _encoded(self, length: int, slots: Sequence[Slot], sources: Sequence[Sequence[int]]) -> _Cohort:
        """Read sources, padded to `length`."""
        ids = torch.zeros(len(sources), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, source in enumerate(sources):
            ids[row, : len(source)] = torch.tensor(source)
            mask[row, : len(source)] = 1
        device = self._model.device
        ids, mask = ids.to(device), mask.to(device)
        states = self._model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        return _Cohort(list(slots), states, mask, mask.new_zeros(len(sources), 0), [])

    def _advance(self, cohort: _Cohort, ids: torch.Tensor) -> dict[Slot, torch.Tensor]:
        """Read `ids`, (rows, tokens), after each target; return the logits after the last: (vocabulary,) each."""
        mask = torch.cat([cohort.target_mask, torch.ones_like(ids)], dim=1)
        output = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=cohort.states),
            attention_mask=cohort.source_mask,
            decoder_input_ids=ids,
            decoder_attention_mask=mask,
            past_key_values=EncoderDecoderCache(cohort.layers) if cohort.layers else None,
            use_cache=True,
        )
        # Only now: a step that raised may be repeated, and a cache makes new tensors.
        cohort.layers = [(*layer[:2], *layer[3:5]) for layer in output.past_key_values]
        cohort.target_mask = mask
        self._keep(cohort)
        return dict(zip(cohort.slots, output.logits[:, -1].float().cpu(), strict=True))

    @torch.inference_mode()
    def _require_agreement(self) -> None:
        """Compare two targets, the second begun later, with each alone; raises EngineError where they differ."""
        vocabulary = self._model.config.vocab_size
        first, second, written = ([at * 7919 % vocabulary for at in ids] for ids in (range(3, 12), range(4, 8), (5, 6)))
        expected = []
        for source, target in ((first, written), (second, written[:1])):
            cache = encode(self._model, source)
            expected.append(decode(self._model, cache, [*self._start_tokens, *target])[-1])
        for joins in dict.fromkeys((self._joins, False)):
            self._joins = joins
            slots = [self.open(len(first)), self.open(len(second))]
            self.step(slots[:1], [first])
            self.step(slots, [written[:1], second])
            result = self.step(slots, [written[1:], written[:1]])
            for slot in slots:
                self.close(slot)
            drift = (result - torch.stack(expected)).abs().max() / torch.stack(expected).std()
            if drift <= _MAX_DRIFT[self._model.dtype]:
                return
        raise EngineError(f"its logits in a batch are {float(drift):.3f} of their spread from those of a text alone")


def _padded_length(tokens: int) -> int:
    return max(_SHORTEST, 1 << (tokens - 1).bit_length())
