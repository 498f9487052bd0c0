"""Causal language models for the service: they continue texts."""

from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from pipeline.params import Service
from serving import openai, playground, text_routes
from serving.engines.protocol import Engine
from serving.generation import TextGenerator
from serving.model_loader import AdapterFiles
from serving.schema import GenerateAnswer, generate_request
from serving.served_model import ServedModel
from serving.settings import EngineSettings
from serving.text_routes import GenerateRoute

_EVENTS = """data: {"text":" there was"}

data: {"text":"","finish_reason":"length","usage":{"prompt_tokens":5,"completion_tokens":2},"model":"0123456789ab",\
"data":null,"seed":1,"engine":"int8"}

data: [DONE]

"""


class CausalLM:
    """See `serving.tasks.ServingTask`."""

    service_name = "gpt2"
    title = "Text generation"
    description = "A fine-tuned GPT-2 behind HTTP: POST a prompt to /generate to continue it."
    tag = ("Generation", "Generate text with the served models.")
    ability = "generate"
    routes = ("/generate", "/v1/completions")
    other_routes = ("/generate/", "/v1/chat/completions")

    def unsuitable_reason(self, _folder: Path) -> str:
        """Return nothing: engines say which architectures they run."""
        return ""

    def make_engine(self, folder: Path, settings: EngineSettings) -> Engine:
        """Return the engine that the settings name; raises EngineError."""
        from serving.engines import selection  # torch, which BentoML's master does not need

        return selection.make(folder, settings)

    def adapt(self, engine: Engine, files: AdapterFiles, settings: EngineSettings) -> Engine:
        """Return an engine with a LoRA adapter on top of `engine`; raises EngineError."""
        from serving.engines import adapted

        return adapted.adapt(engine, files, settings)

    async def smoke_test(self, engine: Engine) -> None:
        """Generate greedily after several prompts; raises RefusedError unless the result is plausible."""
        await text_routes.smoke_test(engine)

    def routers(self, served: ServedModel, settings: Service) -> Sequence[APIRouter]:
        """Return the routes of OpenAI's API, and /generate."""
        generator = TextGenerator(settings)
        own = GenerateRoute(
            summary="Continue a prompt",
            description="Continue a prompt: as a whole, or with `stream` while the text is generated.",
            body_type=generate_request(settings),
            answer_type=GenerateAnswer,
            events=_EVENTS,
        )
        generate = text_routes.generate_router(served, generator, own, settings.timeout)
        return openai.router(served, generator, settings), generate

    def page(self, settings: Service) -> HTMLResponse:
        """Return the playground."""
        return playground.response(generate_request(settings), settings.timeout)


TASK = CausalLM()
