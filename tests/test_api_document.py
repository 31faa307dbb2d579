"""The API's OpenAPI document says what the API does."""

from __future__ import annotations

from collections.abc import Iterator

import fakes
import pytest
from asgi import Client
from pydantic import TypeAdapter, ValidationError

from inference.api import create_app, schemas


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client(create_app(fakes.classifier()))
    yield made
    made.close()


def test_document_covers_every_path_and_status_and_its_examples_work(client: Client) -> None:
    document = client.get("/api/openapi.json").json()
    assert set(document["paths"]) == set(client.app.state.addresses) - {"/api/openapi.json"}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert {"200", "413", "500"} <= set(operation["responses"])
            for content in operation.get("requestBody", {}).get("content", {}).values():
                given = content.get("examples", {"": {"value": content.get("example")}})
                for example in given.values():
                    assert client.post(path, example["value"]).status == 200
    paths = {name: document["paths"][f"/api/{name}"] for name in ("predict", "explain", "ready")}
    description = paths["predict"]["post"]["responses"]["422"]["description"]
    assert "unreadable_text" in description and "cannot_explain" not in description
    assert "cannot_explain" in paths["explain"]["post"]["responses"]["422"]["description"]
    description = paths["ready"]["get"]["responses"]["503"]["description"]
    assert "not_ready" in description and "timed_out" not in description
    asked = document["components"]["schemas"]["PredictRequest"]["properties"]
    assert asked["tasks"]["anyOf"][0]["items"]["enum"] == ["sentiment", "emotion"]
    assert "security" not in document
    keyed = Client(create_app(fakes.classifier(), api_key="key"))
    document = keyed.get("/api/openapi.json", {"X-API-Key": "key"}).json()
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert document["paths"]["/api/live"]["get"]["security"] == []
    assert "401" in document["paths"]["/api/predict"]["post"]["responses"]
    keyed.close()


def test_document_and_classifier_agree_on_white_space() -> None:
    takes = TypeAdapter(schemas.Text)

    def taken(letter: str) -> bool:
        try:
            return bool(takes.validate_python(letter))
        except ValidationError:
            return False

    letters = [chr(code) for code in range(0x11000) if not 0xD800 <= code < 0xE000]
    assert [hex(ord(letter)) for letter in letters if taken(letter) != bool(letter.strip())] == []
