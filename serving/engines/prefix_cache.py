"""Keys and values of beginnings that prompts share, such as a system prompt, so that they are read once.

A beginning counts by whole chunks, as prompts are read: the same tokens were then read in the same steps, so what is
recalled has the bits that reading would give.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from serving.engines.kv_cache import Slot

_KEPT_BYTES = 2**27  # 128 MB: 1,800 tokens of GPT-2
_NOTED = 1024  # beginnings that were read once


class PrefixCache:
    """The chunks that were read at least twice, the least recently used ones left out; used by one thread."""

    def __init__(self, chunk: int) -> None:
        """Take the tokens of a chunk."""
        self._chunk = chunk
        self._noted: OrderedDict[Any, None] = OrderedDict()  # by the key of the chunk before, or adapter, and the chunk
        self._kept: OrderedDict[Any, torch.Tensor] = OrderedDict()  # (layers, 2, heads of keys, chunk, head_dim)

    def recall(self, slot: Slot, prompt: Sequence[int]) -> int:
        """Fill a new slot with what is kept of the beginning of `prompt`; return how many tokens that are.

        The last token is always left to be read, for the logits after it.
        """
        slot.beginning = slot.adapter.version if slot.adapter else ""  # other keys and values with each adapter
        while slot.read + self._chunk < len(prompt):
            key = (slot.beginning, tuple(prompt[slot.read : slot.read + self._chunk]))
            if key not in self._kept:
                break
            self._kept.move_to_end(key)
            slot.keys_and_values(self._chunk).copy_(self._kept[key])
            slot.read += self._chunk
            slot.beginning = key
        return slot.read

    def note(self, slot: Slot, tokens: Sequence[int]) -> None:
        """Note that `slot` has just read `tokens`, not yet counted; keep a chunk that was noted before."""
        if slot.beginning is None:
            return
        if len(tokens) != self._chunk:
            slot.beginning = None  # what follows is no chunk of a beginning
            return
        slot.beginning = key = (slot.beginning, tuple(tokens))
        if key in self._noted and key not in self._kept:
            self._kept[key] = slot.keys_and_values(self._chunk).clone()
            while sum(block.nbytes for block in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        self._noted[key] = None
        self._noted.move_to_end(key)
        if len(self._noted) > _NOTED:
            self._noted.popitem(last=False)
