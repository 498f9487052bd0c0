"""Perplexity is that of its definition, whatever the batches, the model and the length of the texts."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from pipeline.command import UserError
from pipeline.evaluation import perplexity, scoring
from pipeline.evaluation.perplexity import Perplexity, group_metrics, metrics
from pipeline.evaluation.scores import Scores
from pipeline.evaluation.scoring import score
from tests.conftest import LINES

SHORT = [*LINES, "A", "", "é 漢字 🙂"]
LONG = " ".join(LINES)  # longer than the context of 64
TEXTS = [*LINES, "A", "é 漢字 🙂", LONG]
SMALL = {
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


class Gpt2:
    """GPT-2 in numpy and float64, a row at a time, straight from the papers.

    Decoder of Vaswani et al. 2017 with learned positions (Radford et al. 2018), layer norm in front of each block and
    one behind the last (Radford et al. 2019, section 2.3), the tanh form of GELU (Hendrycks & Gimpel 2016, section 2),
    and the output layer tied to the embedding (Press & Wolf 2017).
    """

    def __init__(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        self.weights = {name.removeprefix("transformer."): w.astype(np.float64) for name, w in weights.items()}
        config = AutoConfig.from_pretrained(folder)
        self.layers, self.heads, self.context = config.n_layer, config.n_head, config.n_positions

    def norm(self, x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def linear(self, x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attention(self, x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        length, size = x.shape
        parts = np.split(self.linear(x, f"{name}.c_attn"), 3, axis=-1)
        query, key, value = (part.reshape(length, self.heads, -1).swapaxes(0, 1) for part in parts)
        scores = query @ key.swapaxes(1, 2) / math.sqrt(size / self.heads)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        return self.linear((share @ value).swapaxes(0, 1).reshape(length, size), f"{name}.c_proj")

    def logits(self, ids: list[int]) -> npt.NDArray[np.float64]:
        x = self.weights["wte.weight"][ids] + self.weights["wpe.weight"][: len(ids)]
        for layer in range(self.layers):
            x = x + self.attention(self.norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn")
            inner = self.linear(self.norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
            inner = 0.5 * inner * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
            x = x + self.linear(inner, f"h.{layer}.mlp.c_proj")
        return self.norm(x, "ln_f") @ self.weights["wte.weight"].T

    def losses(self, ids: list[int]) -> npt.NDArray[np.float64]:
        """Return -ln p of each id but the first, given the ids before it."""
        logits = self.logits(ids[:-1])
        largest = logits.max(-1)
        return largest + np.log(np.exp(logits - largest[:, None]).sum(-1)) - logits[np.arange(len(ids) - 1), ids[1:]]

    def loss(self, ids: list[int], stride: int) -> float:
        """Return the loss of `ids` but the first; windows of a context's length move by `stride` tokens."""
        losses = self.losses(ids[: self.context + 1])
        predicted = len(losses)
        while predicted < len(ids) - 1:
            end = min(predicted + stride, len(ids) - 1)
            window = self.losses(ids[end - self.context : end + 1])
            losses = np.concatenate([losses, window[predicted - end :]])
            predicted = end
        return losses.sum()


@pytest.fixture(scope="module")
def model(tiny_gpt2: Path):
    return AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path):
    return AutoTokenizer.from_pretrained(tiny_gpt2)


@pytest.fixture(scope="module")
def sharp_gpt2(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny GPT-2 with weights so large that attention, positions and GELU all show in its answers."""
    folder = tmp_path_factory.mktemp("sharp_gpt2")
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(folder)
    sharp = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sharp.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    sharp.save_pretrained(folder)
    return folder


def ids_of(tokenizer, text: str) -> list[int]:
    return [tokenizer.bos_token_id, *tokenizer(text, verbose=False)["input_ids"]]


def by_definition(model, tokenizer, text: str) -> float:
    """Return -sum ln p(token | the up to 64 tokens before it), by transformers, a row at a time, in float64."""
    tokens, exact = ids_of(tokenizer, text), copy.deepcopy(model).double()
    with torch.inference_mode():
        logits = exact(torch.tensor([tokens[:64]])).logits[0, : len(tokens) - 1]
        rows = [torch.tensor([tokens[at - 64 : at]]) for at in range(65, len(tokens))]  # each predicts one token
        logits = torch.cat([logits, *[exact(row).logits[0, -1:] for row in rows]])
        return torch.nn.functional.cross_entropy(
            logits, torch.tensor(tokens[1:], dtype=torch.int64), reduction="sum"
        ).item()


@pytest.fixture(scope="module")
def losses_of_our_own(sharp_gpt2: Path) -> dict[float, list[float]]:
    """Return each text's loss in float64, for windows that move by a context, by half of one, and by one token."""
    tokenizer, own = AutoTokenizer.from_pretrained(sharp_gpt2), Gpt2(sharp_gpt2)
    ids = [ids_of(tokenizer, text) for text in TEXTS]
    return {stride: [own.loss(one, round(64 * stride)) for one in ids] for stride in (1.0, 0.5, 1 / 64)}


@pytest.mark.parametrize("way", ["packed", "padded"])
@pytest.mark.parametrize("batch_tokens", [1, 200])
def test_the_perplexity_is_that_of_a_gpt2_of_our_own_in_float64(
    sharp_gpt2: Path, losses_of_our_own, monkeypatch: pytest.MonkeyPatch, way: str, batch_tokens: int
) -> None:
    if way == "padded":  # as on a GPU
        monkeypatch.setattr(scoring.packed_attention, "reads_packed", lambda _: False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(sharp_gpt2), AutoTokenizer.from_pretrained(sharp_gpt2)
    for stride, expected in losses_of_our_own.items():
        scored = score(model, tokenizer, TEXTS, batch_tokens, stride)
        assert scored.loss == pytest.approx(expected, rel=1e-5)
        result = metrics(scored, 100, 0.95, 1)["perplexity"]
        assert result == pytest.approx(math.exp(sum(expected) / scored.tokens.sum()), rel=1e-5)
        assert not 300 < result < 340  # of a vocabulary of 320: a model that says nothing would hide mistakes


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_each_texts_loss_is_the_definitions_one_row_at_a_time_in_float64(model, tokenizer, batch_tokens: int) -> None:
    scored = score(model, tokenizer, SHORT, batch_tokens)
    assert scored.loss == pytest.approx([by_definition(model, tokenizer, text) for text in SHORT], rel=1e-6)
    assert scored.tokens.tolist() == [len(tokenizer(text)["input_ids"]) for text in SHORT]
    assert scored.bytes.tolist() == [len(text.encode()) for text in SHORT]


def test_a_window_that_moves_by_one_token_is_the_full_context_definition(model, tokenizer) -> None:
    scored = score(model, tokenizer, [LONG], 512, stride=1 / 64)
    assert scored.loss == pytest.approx([by_definition(model, tokenizer, LONG)], rel=1e-6)
    strided = score(model, tokenizer, [LONG], 512, stride=0.5)
    assert strided.tokens.tolist() == scored.tokens.tolist()
    assert strided.loss == pytest.approx(scored.loss, rel=0.05)


@pytest.mark.parametrize(
    ("lengths", "context", "stride"),
    [([0, 1, 9, 10, 11, 14, 15, 16, 31], 10, 0.5), ([25, 10], 10, 1.0), ([25, 3], 10, 0.1), ([], 10, 0.5)],
)
def test_every_token_is_scored_once_with_at_least_its_share_of_the_context(
    lengths: list[int], context: int, stride: float
) -> None:
    windows = scoring._windows(np.array(lengths, dtype=np.int64), context, stride)
    scored = sorted((text, at) for text, _, new, end in zip(*windows, strict=True) for at in range(new, end))
    assert scored == [(text, at) for text, length in enumerate(lengths) for at in range(length)]
    assert (windows.end - windows.begin <= context).all()
    assert (windows.new - windows.begin >= np.where(windows.begin > 0, context - round(stride * context), 0)).all()


@pytest.mark.parametrize(
    ("flat", "expected"), [(True, [[30], [9, 5], [4, 4, 3, 2, 1]]), (False, [[30], [9], [5, 4, 4], [3, 2, 1]])]
)
def test_a_batch_holds_no_more_than_asked_for_unless_one_window_does(flat: bool, expected: list[list[int]]) -> None:
    windows = scoring._windows(np.array([3, 9, 1, 4, 5, 4, 30, 2], dtype=np.int64), 64, 0.5)
    batches = list(scoring._batches(windows, 15, flat))
    assert [(batch.end - batch.begin).tolist() for batch in batches] == expected
    assert [text for batch in batches for text in batch.text] == windows.text.tolist()


def test_logits_are_made_a_few_tokens_at_a_time_and_only_of_tokens_that_are_scored(
    model, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(model, tokenizer, [*SHORT, LONG], 512)
    monkeypatch.setattr(scoring, "_MAX_LOGITS", 320 * 5)
    made: list[int] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, __, logits: made.append(logits.shape[:-1].numel()))
    parts = score(model, tokenizer, [*SHORT, LONG], 512)
    hook.remove()
    of_texts = made[2:]  # the first two are of the check that the output layer gives the logits as they are
    assert max(of_texts) == 5
    assert sum(of_texts) == parts.tokens.sum()
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_other_architectures_get_padded_batches_and_the_same_loss(tokenizer, kind: str) -> None:
    torch.manual_seed(0)
    if kind == "llama":
        other = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    else:  # caps its logits behind the output layer
        other = Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=0.1)).eval()
    assert scoring._has_plain_head(other) == (kind == "llama")
    texts = [*SHORT, " ".join(LINES[:3])]
    assert len(ids_of(tokenizer, texts[-1])) > 65
    expected = [by_definition(other, tokenizer, text) for text in texts]
    for batch_tokens in (1, 200):
        assert score(other, tokenizer, texts, batch_tokens, 1 / 64).loss == pytest.approx(expected, rel=1e-5)


def test_a_model_without_a_limit_reads_texts_of_any_length_whole(tokenizer) -> None:
    torch.manual_seed(0)
    other = LlamaForCausalLM(LlamaConfig(**{**SMALL, "max_position_embeddings": 2**40})).eval()
    expected = LlamaForCausalLM(LlamaConfig(**{**SMALL, "max_position_embeddings": 512})).eval()
    expected.load_state_dict(other.state_dict())
    assert score(other, tokenizer, [LONG], 64).loss == score(expected, tokenizer, [LONG], 64).loss


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_torchs_settings_are_left_as_they_were(tiny_gpt2: Path, tokenizer, training: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2).train(training)  # with GPT-2's dropout
    weights = {name: (weight.data_ptr(), weight.clone()) for name, weight in model.state_dict().items()}
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    threads = torch.get_num_threads()
    torch.set_float32_matmul_precision("medium")
    torch.set_num_threads(1)
    scored = score(model, tokenizer, LINES, 64)
    settings = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_num_threads(threads)
    assert settings == ("medium", 1)
    assert [(name, type(module), module.training) for name, module in model.named_modules()] == modules
    assert (
        model.config._attn_implementation == AutoModelForCausalLM.from_pretrained(tiny_gpt2).config._attn_implementation
    )
    assert "forward" not in vars(model)
    for name, weight in model.state_dict().items():
        assert weight.data_ptr() == weights[name][0]
        assert torch.equal(weight, weights[name][1])
    assert scored.loss == pytest.approx(score(model.eval(), tokenizer, LINES, 64).loss)  # dropout or not
    prompt = torch.tensor([ids_of(tokenizer, LINES[0])[:5]])
    assert model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=3, pad_token_id=0).shape[1] > 5


def test_texts_without_a_token_have_no_loss_and_none_at_all_is_said(model, tokenizer) -> None:
    scored = score(model, tokenizer, ["", *LINES, ""], 64)
    assert scored.tokens[[0, -1]].tolist() == scored.loss[[0, -1]].tolist() == [0, 0]
    without = score(model, tokenizer, LINES, 64)
    assert metrics(scored, 200, 0.95, 1) == pytest.approx(metrics(without, 200, 0.95, 1))
    for nothing in ([], ["", ""]):
        empty = score(model, tokenizer, nothing, 64)
        assert len(empty.loss) == len(empty.tokens) == len(empty.bytes) == len(nothing)
        with pytest.raises(UserError, match=f"the {len(nothing)} texts to score hold no token"):
            metrics(empty, 100, 0.95, 1)


def test_damaged_weights_are_said(tiny_gpt2: Path, tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    with torch.no_grad():
        model.transformer.wpe.weight[10] = math.nan
    with pytest.raises(UserError, match="the loss of 1 of 2 texts is not a finite number"):
        score(model, tokenizer, ["A", LINES[0]], 64)


def test_a_loss_too_large_for_a_perplexity_is_said_instead_of_overflowing() -> None:
    ruined = Scores(np.array([8000.0, 9000.0]), np.array([10, 10]), np.array([40, 40]))
    with pytest.raises(UserError, match=r"the model's loss is 850 nats per token .* lower finetune.learning_rate"):
        metrics(ruined, 100, 0.95, 1)


def test_perplexity_is_weighted_by_tokens_and_bits_per_byte_by_bytes() -> None:
    scored = Scores(np.array([10.0, 1.0]), np.array([5, 1]), np.array([20, 2]))
    result = metrics(scored, resamples=100, confidence=0.95, seed=1)
    assert result["perplexity"] == pytest.approx(math.exp(11 / 6))
    assert result["bits_per_byte"] == pytest.approx(11 / 22 / math.log(2))
    assert result["tokens"] == 6


def test_each_group_has_the_figures_of_its_texts_alone() -> None:
    scored = Scores(np.array([10.0, 1.0, 4.0]), np.array([5, 1, 2]), np.array([20, 2, 9]))
    result = group_metrics(scored, ["b", "a", "b"], 100, 0.95, 1)
    assert list(result) == ["a", "b"]
    assert result["a"]["rows"] == 1
    alone = Scores(np.array([10.0, 4.0]), np.array([5, 2]), np.array([20, 9]))
    assert result["b"] == {"rows": 2, **metrics(alone, 100, 0.95, 1)}
    assert result["b"]["perplexity"] == pytest.approx(math.exp(2))
    with pytest.raises(ValueError, match="2 groups for 3 texts"):
        group_metrics(scored, ["a", "b"], 100, 0.95, 1)


def test_it_is_a_measurement_of_evaluate_that_needs_no_network_and_gives_the_same_figures_again(
    model, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*address: object) -> None:
        raise OSError(f"no network here: {address}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    inputs = {"data": LINES, "model": model, "tokenizer": tokenizer, "groups": ["x", "y", "x", "y"]}
    first = Perplexity().compute(**inputs)
    assert first == Perplexity().compute(**inputs)
    assert set(first) == {"perplexity", "perplexity_low", "perplexity_high", "bits_per_byte", "tokens", "groups"}
    assert first["perplexity_low"] < first["perplexity"] < first["perplexity_high"]
    assert first["groups"]["x"]["tokens"] + first["groups"]["y"]["tokens"] == first["tokens"]


def test_the_command_gives_the_figures_of_a_folder_on_a_file(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(LINES * 3)
    (tmp_path / "text.txt").write_text(text)
    monkeypatch.setattr("sys.argv", ["perplexity", str(tiny_gpt2), str(tmp_path / "text.txt"), "--stride", "0.25"])
    perplexity.main()
    shown = json.loads(capsys.readouterr().out)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_gpt2), AutoTokenizer.from_pretrained(tiny_gpt2)
    scored = score(model.eval(), tokenizer, [text], 64, stride=0.25)
    assert shown["tokens"] == scored.tokens[0]
    assert shown["perplexity"] == pytest.approx(math.exp(scored.loss[0] / scored.tokens[0]))
    assert shown["perplexity_of_words"] == pytest.approx(math.exp(scored.loss[0] / len(text.split())))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "text.txt"], "nowhere holds no config.json"),
        (["model", "none.txt"], "none.txt cannot be read"),
        (["model", "text.txt", "--stride", "0"], "--stride: found 0.0"),
    ],
)
def test_a_mistake_in_the_commands_arguments_is_one_sentence(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(tiny_gpt2)
    (tmp_path / "text.txt").write_text("A text.")
    monkeypatch.setattr("sys.argv", ["perplexity", *arguments])
    with pytest.raises(UserError, match=said):
        perplexity.main()
