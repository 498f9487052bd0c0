"""Encoders with decoders for the service (T5, BART): they rewrite a source, as a summary, an extract, a correction."""

import json
from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from pipeline.params import Service
from serving import openai, playground, text_routes
from serving.engines.protocol import Engine
from serving.generation import TextGenerator
from serving.openai_completion import CompletionService
from serving.scoring_thread import ScoringThread
from serving.seq2seq_schema import TargetAnswer, source_completion_request, source_request
from serving.served_model import ServedModel
from serving.settings import EngineSettings
from serving.text_routes import GenerateRoute

_EVENTS = """data: {"text":"All twelve"}

data: {"text":" members agreed."}

data: {"text":"","finish_reason":"stop","usage":{"prompt_tokens":31,"completion_tokens":7},"model":"0123456789ab",\
"data":null,"seed":null,"engine":"ctranslate2"}

data: [DONE]

"""


class Seq2Seq:
    """See `serving.tasks.ServingTask`."""

    service_name = "seq2seq"
    title = "Text rewriting"
    description = "A fine-tuned encoder-decoder behind HTTP: POST a source as `prompt` to /generate to rewrite it."
    tag = ("Rewriting", "Rewrite texts with the served models.")
    ability = "generate"
    routes = ("/generate", "/v1/completions")
    other_routes = ("/generate/",)

    def unsuitable_reason(self, folder: Path) -> str:
        """Return why the model in `folder` is no encoder with a decoder."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("is_encoder_decoder") is True:
            return ""
        kind = config.get("model_type", "unknown")
        return f"holds a model of type {kind}, while seq2seq needs an encoder with a decoder, such as T5 or BART"

    def make_engine(self, folder: Path, settings: EngineSettings) -> Engine:
        """Return the engine that the settings name; raises EngineError."""
        from serving.engines import seq2seq_selection  # torch, which BentoML's master does not need

        return seq2seq_selection.make(folder, settings)

    async def smoke_test(self, engine: Engine) -> None:
        """Rewrite short sources; raises RefusedError unless the result is plausible."""
        await text_routes.smoke_test(engine)

    def routers(self, served: ServedModel, settings: Service) -> Sequence[APIRouter]:
        """Return /v1/completions and /generate."""
        generator = TextGenerator(settings)
        service = CompletionService(served, generator, ScoringThread(), settings.timeout)
        completions = openai.completions_router(
            service, source_completion_request(settings), "Rewrite sources, as OpenAI's API continues prompts"
        )
        own = GenerateRoute(
            summary="Rewrite a source",
            description="Rewrite a source: as a whole, or with `stream` while the target is generated.",
            body_type=source_request(settings),
            answer_type=TargetAnswer,
            events=_EVENTS,
        )
        return completions, text_routes.generate_router(served, generator, own, settings.timeout)

    def page(self, settings: Service) -> HTMLResponse:
        """Return the playground, for sources and targets."""
        return playground.response(source_request(settings), settings.timeout, rewrites=True)


TASK = Seq2Seq()
