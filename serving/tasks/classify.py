"""Classifiers for the service: which label a text has, or which labels, with all probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, BeforeValidator, Field, create_model

from pipeline.modeling.decision import Decision, cost_matrix, decide, probabilities
from pipeline.params import Service
from serving import encoding, playground, task_json
from serving.body import BoundedRoute, parsed
from serving.encoding import DIGITS, EncoderRequests
from serving.engines.protocol import EngineError
from serving.model_loader import LoadedModel, RefusedError
from serving.schema import ModelName, RequestModel, TokensRead, as_list, errors_of, read_texts
from serving.served_model import ServedModel
from serving.settings import EngineSettings
from serving.streaming import RequestResources

if TYPE_CHECKING:
    from serving.engines.encoder import EncoderEngine, Logits  # torch, which BentoML's master does not need

MAX_TEXTS = 256  # of a request
_SMOKE_TEST_TEXTS = ("The", "1, 2, 3 and a few words more.")


class ClassifyRequest(RequestModel):
    """One or more texts, and what to say of each."""

    text: list[str]
    top_k: Annotated[
        int | None, Field(ge=1, description="How many of the likeliest labels to list for each text; null: all")
    ] = None
    truncate: Annotated[bool, Field(description="Leave out the end of a text that the model cannot read whole")] = False
    model: ModelName = None


def classify_request(settings: Service) -> type[ClassifyRequest]:
    """Return ClassifyRequest with the bounds of `settings`."""
    bounds = Field(min_length=1, max_length=settings.max_prompt_characters)
    one = Annotated[str, bounds]
    several = Annotated[list[one], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]
    description = Field(description=f"A text, or up to {MAX_TEXTS} texts", examples=["I was charged twice for this"])
    text = Annotated[several, BeforeValidator(as_list, json_schema_input_type=one | several), description]
    return create_model("ClassifyRequest", __base__=ClassifyRequest, __doc__=ClassifyRequest.__doc__, text=(text, ...))


class LabelProbability(BaseModel):
    """A label of the model."""

    label: str
    probability: float


class TextLabels(BaseModel):
    """What the model says of a text."""

    label: Annotated[str | None, Field(description="The decision; null where a text can have several labels")]
    labels: Annotated[list[str], Field(description="The same as a list, where a text can have several or no labels")]
    probabilities: Annotated[list[LabelProbability], Field(description="Likeliest first")]


class LabelDecision(BaseModel):
    """How probabilities become labels; chosen on the validation split when the model was trained."""

    by: Annotated[str, Field(description="f1, cost or argmax: what the thresholds were chosen by")]
    thresholds: Annotated[
        dict[str, float],
        Field(description="A label with a threshold is chosen at or above it; without, the likeliest of the others is"),
    ]
    costs: Annotated[
        dict[str, dict[str, float]],
        Field(description="Of each answer for each true label; with them, the label of the least expected cost"),
    ]
    temperature: Annotated[float, Field(description="By which logits were divided, to calibrate the probabilities")]
    multi_label: Annotated[bool, Field(description="Whether a text can have several labels")]


class ClassifyAnswer(BaseModel):
    """One result for each text, in order."""

    results: list[TextLabels]
    decision: LabelDecision
    usage: TokensRead
    model: Annotated[str, Field(description="The model's version")]
    data: Annotated[str | None, Field(description="The hash of the data it was trained on, where known")]
    engine: str


def decision_of(engine: "EncoderEngine") -> Decision:
    """Return how a loaded model decides, by its task.json; a model without one takes the likeliest label."""
    settings = engine.settings
    is_multi_label = bool(settings.get("multi_label", engine.is_multi_label))
    default = dict.fromkeys(engine.labels, 0.5) if is_multi_label else {}
    thresholds = {**default, **settings.get("thresholds", {})}
    return Decision.from_task({**settings, "multi_label": is_multi_label, "thresholds": thresholds}, engine.labels)


def results_of(decision: Decision, logits: "Sequence[Logits]", top_k: int | None = None) -> list[TextLabels]:
    """Return what the model says of each text; decided by the probabilities as they are sent."""
    shares = probabilities(np.stack(logits), decision.temperature, multi_label=decision.multi_label)  # (texts, labels)
    shares = shares.round(DIGITS)
    results = []
    for row, decided in zip(shares, decide(shares, decision), strict=True):
        chosen: Any = np.flatnonzero(decided) if decision.multi_label else [decided]
        labels = [decision.labels[at] for at in chosen]
        listed = [
            LabelProbability(label=decision.labels[at], probability=float(row[at]))
            for at in np.argsort(-row, kind="stable")[:top_k]
        ]
        results.append(
            TextLabels(label=None if decision.multi_label else labels[0], labels=labels, probabilities=listed)
        )
    return results


def _check(decision: Decision) -> None:
    """Raise EngineError for a decision that does not fit the model's labels."""
    cost_matrix(decision.costs, decision.labels)
    unknown = sorted(set(decision.thresholds) - set(decision.labels))
    if unknown or not decision.temperature > 0 or (not decision.multi_label and len(decision.thresholds) > 1):
        raise EngineError(
            f"{task_json.NAME} does not fit the labels in config.json: expected a temperature above 0, and"
            f" thresholds of at most one label, or of several for several labels; found temperature"
            f" {decision.temperature}, and thresholds of {', '.join(map(repr, unknown or decision.thresholds))}"
        )


class Classify:
    """See `serving.tasks.ServingTask`."""

    service_name = "classifier"
    title = "Text classification"
    description = "A fine-tuned classifier behind HTTP: POST a text to /classify to get its label."
    tag = ("Classification", "Classify texts with the served models.")
    ability = "classify"
    routes = ("/classify",)
    other_routes = ("/classify/",)

    def unsuitable_reason(self, folder: Path) -> str:
        """Return why the model is no classifier."""
        if reason := encoding.architecture_reason(folder, "ForSequenceClassification", "classification"):
            return reason
        if not task_json.exists(folder) and encoding.outputs_of(folder) < 2:
            return "holds a model with one output, which scores but does not classify"
        return ""

    def make_engine(self, folder: Path, settings: EngineSettings) -> "EncoderEngine":
        """Return the engine; raises EngineError where task.json does not fit the model."""
        engine = encoding.make_engine(folder, "AutoModelForSequenceClassification", settings)
        try:
            _check(decision_of(engine))
        except BaseException:
            engine.close()
            raise
        return engine

    async def smoke_test(self, engine: "EncoderEngine") -> None:
        """Classify a few texts; raises RefusedError for broken weights."""
        for logits in await engine.run(engine.encode(_SMOKE_TEST_TEXTS)):
            if logits.shape != (len(engine.labels),) or not np.isfinite(logits).all():
                raise RefusedError("its smoke test gave no finite number for each label: broken weights")

    def routers(self, served: "ServedModel[EncoderEngine]", settings: Service) -> Sequence[APIRouter]:
        """Return /classify."""
        return (_routes(served, settings),)

    def page(self, settings: Service) -> HTMLResponse:
        """Return the playground."""
        return playground.panel("classify", classify_request(settings))


TASK = Classify()


def _routes(served: "ServedModel[EncoderEngine]", settings: Service) -> APIRouter:
    routes = APIRouter(route_class=BoundedRoute)
    requests = EncoderRequests(settings)
    body_type = classify_request(settings)

    @routes.post(
        "/classify",
        summary="Classify texts",
        response_model=ClassifyAnswer,
        responses={**read_texts(), **errors_of(404, 504)},
    )
    @routes.post("/classify/", include_in_schema=False)
    async def classify(
        body: Annotated[ClassifyRequest, parsed(body_type)], request: Request, resources: RequestResources
    ) -> Response:
        """Say which label each text has, with the probabilities of all labels."""
        loaded: LoadedModel[Any] = await resources.enter_async_context(served.acquire(body.model))
        encoded = await requests.encode(loaded.engine, body.text, "text", truncate=body.truncate)
        logits = await requests.logits(request, loaded, encoded)
        decision = decision_of(loaded.engine)
        answer = ClassifyAnswer(
            results=results_of(decision, logits, body.top_k),
            decision=LabelDecision(
                by=decision.by,
                thresholds=dict(decision.thresholds),
                costs={true: dict(costs) for true, costs in decision.costs.items()},
                temperature=decision.temperature,
                multi_label=decision.multi_label,
            ),
            usage=encoding.usage(encoded),
            model=loaded.version,
            data=loaded.data,
            engine=loaded.engine.name,
        )
        return encoding.answer(answer, loaded, encoded)

    return routes
