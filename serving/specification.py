"""The OpenAPI specification at /docs.json: BentoML's, with our title, routes first, and where keys are required."""

from typing import Any

import attrs

from serving import access
from serving.bentoml_internals import OpenAPISpecification
from serving.tasks import ServingTask

VERSION = "1.0"  # of the routes and their bodies; every answer has the model's version


def customize(specification: OpenAPISpecification, task: ServingTask[Any]) -> OpenAPISpecification:
    """Return BentoML's specification with the task's title and tag; FastAPI's part of it is in OpenAPI 3.1."""
    infrastructure = [tag for tag in specification.tags if tag.name == "Infrastructure"]
    name, description = task.tag
    tag = attrs.evolve(infrastructure[0], name=name, description=description)
    return attrs.evolve(
        specification,
        openapi="3.1.0",
        info=attrs.evolve(specification.info, title=task.title, version=VERSION, contact=None),
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
