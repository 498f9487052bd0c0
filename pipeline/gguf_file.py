"""A base out of a GGUF file, llama.cpp's format: de-quantized by transformers and written as safetensors.

The weights are written in bfloat16: half the size of float32 with its range, so none overflows. Its rounding is small
beside a GGUF's: SmolLM2-135M (Q4_1) has 4.8907 nats a token on 24 texts of the sample corpus, in float32 4.8908.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.command import UserError

_NAME = "model.gguf"


def convert(base: str, file: Path, destination: Path) -> None:
    """Write the model in `file` to `destination`, a new folder, with its tokenizer and chat template.

    Raises UserError, in the words of `base` in params.yaml, where transformers cannot read it.
    """
    if find_spec("gguf") is None:
        raise UserError(
            f"params.yaml: base: {base} is a GGUF file, which the package gguf reads, and it is not installed; run "
            "`pip install --no-deps gguf` (what it needs is here already)"
        )
    paths.clear(destination)
    destination.mkdir(parents=True)
    # By itself, so that nothing beside the file is read, such as an adapter or another config.
    link = destination / _NAME
    link.symlink_to(file.resolve())
    try:
        model, tokenizer, missing = _load(destination)
    except Exception as error:  # whatever a stranger's file makes transformers raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"params.yaml: base: transformers cannot read {base}: {reason}; expected the GGUF of an architecture "
            "that it knows, such as llama, qwen2 or gpt2"
        ) from None
    finally:
        link.unlink()
    if missing:
        raise UserError(
            f"params.yaml: base: {base} lacks {len(missing)} of its weights, {missing[0]} among them, and transformers"
            " would draw them at random; take another file of the model"
        )
    _save(model, tokenizer, destination)


def _load(folder: Path) -> tuple[Any, Any, list[str]]:
    """Return the model in the GGUF file in `folder`, its tokenizer and the names of the weights that it lacks."""
    import torch
    import transformers
    from transformers.utils import logging

    config = transformers.AutoConfig.from_pretrained(
        folder, gguf_file=_NAME, local_files_only=True, trust_remote_code=False
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, gguf_file=_NAME, local_files_only=True, trust_remote_code=False
    )
    kind = "Seq2SeqLM" if config.is_encoder_decoder else "CausalLM"
    logging.disable_progress_bar()
    model, loading = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
        folder,
        gguf_file=_NAME,
        quantization_config=transformers.GgufConfig(dequantize=True),  # else, with some package, they stay packed
        dtype=torch.bfloat16,
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model, tokenizer, sorted(loading["missing_keys"])


def _save(model: Any, tokenizer: Any, destination: Path) -> None:
    """Save the model as one that was never quantized; by itself transformers refuses to."""
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):  # not where no weight is quantized
        del model.config.quantization_config
    model.save_pretrained(destination)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(destination)
