"""The OpenAPI specification at /docs.json: BentoML's, with our title, routes first, and where keys are required."""

from typing import Any

import attrs

from serving import access
from serving.bentoml_internals import OpenAPISpecification
from serving.tasks import causal_lm


def customize(specification: OpenAPISpecification) -> OpenAPISpecification:
    """Return BentoML's specification with our title, version and tag; FastAPI's part of it is in OpenAPI 3.1."""
    infrastructure = [tag for tag in specification.tags if tag.name == "Infrastructure"]
    tag = attrs.evolve(infrastructure[0], name=causal_lm.TAG, description="Generate text with the served models.")
    return attrs.evolve(
        specification,
        openapi="3.1.0",
        info=attrs.evolve(specification.info, title=causal_lm.TITLE, version=causal_lm.VERSION, contact=None),
        tags=[tag, *infrastructure],
    )


class ServedSpecification:
    """A specification rendered once: that takes 60 ms, and anyone may request it."""

    def __init__(self, specification: OpenAPISpecification, requires_key: bool) -> None:
        """Render `specification`; with `requires_key` it says so, and Swagger's page asks for one."""
        self._content: dict[str, Any] = specification.asdict()
        if requires_key:
            self._content["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            self._content["security"] = [{"key": []}]
            for path in filter(access.is_open, self._content["paths"]):
                for operation in self._content["paths"][path].values():
                    operation["security"] = []

    def asdict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return self._content
