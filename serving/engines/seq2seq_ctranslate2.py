"""CTranslate2 in int8 for encoders with decoders: the engine of `auto` on a CPU, where it agrees with the reference.

It shares its batches, and what it does not support, with `serving.engines.ctranslate2`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.engines.ctranslate2 import Ctranslate2Engine, SamplingKey
from serving.engines.protocol import Sampling, Stream
from serving.engines.seq2seq import read_folder


class Ctranslate2Seq2SeqEngine(Ctranslate2Engine):
    """An `Engine` whose prompts are sources, and the `ComparableSeq2Seq` that is compared before it serves."""

    _model_class = "Translator"

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        """Return the stream of generated tokens; a greedy text is the same for every seed, so one may be named."""
        if sampling.temperature == 0:
            sampling = replace(sampling, seeded=False)
        return super().submit(prompt, sampling)

    def _read_tokens(self, folder: Path) -> None:
        described = read_folder(folder)
        self.prompt_format = described.format
        self.tokenizer = described.format.tokenizer
        self.start, self.end = described.start_tokens[0], described.end
        # The model starts from the first start token by itself.
        self._forced = self._tokens(described.start_tokens[1:])

    def _convert(self, folder: Path, target: Path) -> None:
        from ctranslate2.converters import TransformersConverter

        class Converter(TransformersConverter):
            def load_model(self, *arguments: Any, **more: Any) -> Any:
                """Return the model, with what the converter reads of it where transformers 4 had it."""
                model = super().load_model(*arguments, **more)
                for name, value in _settings_of_transformers_4(model.config).items():
                    setattr(model.config, name, value)
                return model

        Converter(str(folder), trust_remote_code=False).convert(str(target), quantization="int8")

    def _generate(
        self,
        prompts: Sequence[list[str]],
        max_new_tokens: Sequence[int],
        sampling_key: SamplingKey,
        on_token: Callable[[Any], bool],
    ) -> None:
        temperature, top_p, top_k = sampling_key
        forced = [len(self._forced)] * len(prompts)  # tokens of each target that are reported, but not generated

        def on_own_token(result: Any) -> bool:
            if forced[result.batch_id]:
                forced[result.batch_id] -= 1
                return False
            return on_token(result)

        self._model.translate_batch(
            prompts,
            target_prefix=[self._forced] * len(prompts) if self._forced else None,
            beam_size=1,
            max_input_length=0,  # longer ones are refused before, not cut
            max_decoding_length=len(self._forced) + max(max_new_tokens),
            min_decoding_length=0,  # a text may be empty
            sampling_temperature=temperature,
            sampling_topp=top_p,
            sampling_topk=min(top_k, self._vocabulary),
            callback=on_own_token,
        )

    def score_targets(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Score targets; see `ComparableSeq2Seq.score_targets`."""
        sources = [self._tokens(source) for source, _ in pairs]
        targets = [[*self._forced, *self._tokens(target)] for _, target in pairs]
        results = self._model.score_batch(sources, targets, max_input_length=0)
        return [list(result.log_probs)[len(self._forced) :] for result in results]


def _settings_of_transformers_4(config: Any) -> dict[str, Any]:
    """Return settings that the converter reads and transformers 5 has elsewhere, or no longer."""
    settings: dict[str, Any] = {}
    if not hasattr(config, "normalize_before"):  # of BART, whose layers normalise after; mBART's converter sets it
        settings["normalize_before"] = False
    if hasattr(config, "scale_decoder_outputs"):  # of T5; v1.1 does not scale them
        settings["tie_word_embeddings"] = config.scale_decoder_outputs
    return settings
