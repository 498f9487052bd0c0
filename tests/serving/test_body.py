"""Bodies made to be slow: what counts the values of a body, and how many errors one can cause."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from starlette.testclient import TestClient

from pipeline.params import Service
from serving import body
from serving.errors import ApiError
from serving.openai_schema import completion_request
from serving.schema import generate_request
from tests.serving.conftest import service_settings

_JSON = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a,:[]{}"\\\n\N{GRINNING FACE}'), max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=5),
    max_leaves=30,
)


def values(content: Any) -> int:
    """Return how many commas a JSON text of `content` has outside of strings."""
    inner = list(content.values()) if isinstance(content, dict) else content if isinstance(content, list) else []
    return max(0, len(inner) - 1) + sum(values(one) for one in inner)


def nested(content: Any) -> int:
    """Return how many lists, objects and fields it has."""
    if isinstance(content, dict):
        return 1 + len(content) + sum(nested(one) for one in content.values())
    return 1 + sum(nested(one) for one in content) if isinstance(content, list) else 0


@given(content=_JSON, part=st.integers(1, 40), most=st.integers(1, 6))
def test_values_are_counted_outside_of_strings_wherever_a_part_of_the_body_ends(
    content: Any, part: int, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "_PART", part)
        patch.setattr(body, "MAX_VALUES", most)
        patch.setattr(body, "MAX_NESTED", most)
        check = body.check_value_count(json.dumps(content, ensure_ascii=False).encode())
        if values(content) < most and nested(content) <= most:
            asyncio.run(check)
        else:
            with pytest.raises(ApiError):
                asyncio.run(check)


HOSTILE: dict[str, Any] = {
    "lists of lists of no ids": {"prompt": [["x"] * 100] * 64},
    "a list of no texts": {"prompt": ["", *[1] * 5_000]},
    "ids that are none": {"prompt": [1, *["x"] * 5_000]},
    "stop strings that are none": {"prompt": "x", "stop": [1] * 5_000},
    "unknown fields": {f"field{number}": 1 for number in range(500)},
    "unknown fields further in": {"prompt": "x", "stream_options": {str(number): 1 for number in range(500)}},
}


@pytest.mark.parametrize("make_model", [generate_request, completion_request])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_body_makes_many_errors(make_model: Callable[[Service], type[BaseModel]], name: str) -> None:
    model = make_model(service_settings())
    with pytest.raises(ValidationError) as refused:
        model.model_validate(HOSTILE[name])
    assert refused.value.error_count() <= 3


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_a_body_with_too_many_values_is_refused_before_it_is_parsed(client: TestClient, path: str) -> None:
    for content in ({"prompt": [1] * 100_001}, {"prompt": [[]] * 1_001}, dict.fromkeys(map(str, range(1_001)))):
        answer = client.post(path, json=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_values")


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_at_most_ten_errors_are_reported(client: TestClient, path: str) -> None:
    twenty = client.post(path, json={"prompt": "x", **{f"field{number}": 1 for number in range(12)}})
    assert twenty.json()["error"]["message"].count("unknown field") == 10
    many = client.post(path, json={f"field{number}": 1 for number in range(500)}).json()["error"]
    assert (many["code"], many["param"]) == ("too_many_fields", None)
