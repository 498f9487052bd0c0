"""BentoML's log with request ids; with LOG_FORMAT=json each line is a JSON object."""

import json
import logging
import os
import traceback
from typing import Any

from serving.telemetry import request_id


class _RequestIdFilter(logging.Filter):
    """Adds the request's id to BentoML's lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        if request := request_id():
            record.trace_msg = f"{getattr(record, 'trace_msg', '')} (request={request})"
        return True


class JsonLines(logging.Formatter):
    """One JSON object for each line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line)


def configure_logging() -> None:
    """Add request ids to BentoML's log; LOG_FORMAT=json makes its lines JSON objects."""
    for name in ("opentelemetry.baggage", "opentelemetry.trace"):
        logging.getLogger(name).setLevel(logging.ERROR)  # their warnings quote headers, also of callers without a key
    names = ("bentoml", "circus", "uvicorn.error", None)
    for handler in {handler for name in names for handler in logging.getLogger(name).handlers}:
        handler.addFilter(_RequestIdFilter())
        if os.environ.get("LOG_FORMAT") == "json":
            handler.setFormatter(JsonLines())
