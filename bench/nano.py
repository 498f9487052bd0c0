"""GPT-2 and its training in the style of nanoGPT (https://github.com/karpathy/nanoGPT): the fastest plain loop."""

import torch
from torch import nn
from torch.nn import functional
from transformers import GPT2Config

from bench.train_models import MODELS

_VOCABULARY_MULTIPLE = 64  # matrix products of such sizes are faster


class Block(nn.Module):
    """Attention and feed-forward layer."""

    def __init__(self, config: GPT2Config) -> None:
        """Take GPT-2's sizes."""
        super().__init__()
        size: int = config.n_embd
        self._heads = config.n_head
        self.norm_1, self.norm_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention, self.attention_out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.inner, self.inner_out = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the next states, (batch, tokens, hidden)."""
        batch, tokens, size = states.shape
        parts = self.attention(self.norm_1(states)).view(batch, tokens, 3, self._heads, size // self._heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, head_dim)
        read = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        states = states + self.attention_out(read.transpose(1, 2).reshape(batch, tokens, size))
        inner = functional.gelu(self.inner(self.norm_2(states)), approximate="tanh")
        out: torch.Tensor = states + self.inner_out(inner)
        return out


class NanoGpt(nn.Module):
    """GPT-2 without dropout, whose output is the mean loss of the next tokens."""

    def __init__(self, config: GPT2Config) -> None:
        """Draw the weights as GPT-2's were."""
        super().__init__()
        vocabulary = -(-config.vocab_size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
        self.tokens = nn.Embedding(vocabulary, config.n_embd)
        self.positions = nn.Embedding(config.n_positions, config.n_embd)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.norm = nn.LayerNorm(config.n_embd)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                scale = (2 * config.n_layer) ** -0.5 if "out" in name else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of `targets` after `ids`, both (batch, tokens), in nats."""
        states = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            states = block(states)
        logits = functional.linear(self.norm(states), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def optimizer(model: NanoGpt) -> torch.optim.Optimizer:
    """Return nanoGPT's fused AdamW: weight decay for matrices alone."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=MODELS["gpt2"].learning_rate, betas=(0.9, 0.95), fused=True)
