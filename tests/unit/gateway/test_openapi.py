"""What /openapi.json says, beside what is served."""

import re

import jsonschema
import pytest

from tests.unit.gateway.asking import CHAT, TEXT
from tests.unit.gateway.scripted import QUESTION, serving


async def test_schema_tells_of_bodies_and_errors() -> None:
    async with serving() as running:
        schema = (await running.http.get("/openapi.json")).json()
    for path, name in ((CHAT, "ChatRequest"), (TEXT, "CompletionRequest")):
        operation = schema["paths"][path]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert body == {"$ref": f"#/components/schemas/{name}"}
        fields = schema["components"]["schemas"][name]["properties"]
        assert {"type": "null"} in fields["temperature"]["anyOf"]
        assert {"200", "400", "404", "413", "429", "503"} <= set(operation["responses"])
        assert "422" not in operation["responses"]
    assert "Error" in schema["components"]["schemas"]


async def test_schema_of_a_header_is_that_of_the_field_it_stands_for() -> None:
    async with serving() as running:
        schema = (await running.http.get("/openapi.json")).json()
    for path in (CHAT, TEXT):
        found = {each["name"]: each["schema"] for each in schema["paths"][path]["post"]["parameters"]}
        assert found["X-Trivium-Threshold"] == {"type": "number", "minimum": 0, "maximum": 3e38}
        assert found["X-Trivium-Run-Ahead-Depth"]["type"] == "integer"
        assert schema["components"]["schemas"]["LossPolicy"]["enum"] == ["wait", "slm_only", "fail"]
        assert found["X-Trivium-LLM-Loss-Policy"] == {"$ref": "#/components/schemas/LossPolicy"}
        assert re.fullmatch(found["Last-Event-ID"]["pattern"], "aB1:20")
        assert not re.search(found["Last-Event-ID"]["pattern"], "x")


async def test_schema_of_a_stream_is_that_of_its_events() -> None:
    async with serving() as running:
        schema = (await running.http.get("/openapi.json")).json()
        stream = (await running.http.post(CHAT, json=QUESTION | {"stream": True})).text
    described = schema["paths"][CHAT]["post"]["responses"]["200"]["content"]["text/event-stream"]["itemSchema"]
    events = [dict(line.split(": ", 1) for line in event.split("\n")) for event in stream.rstrip().split("\n\n")]
    assert any("id" in event for event in events)
    for event in events:
        jsonschema.validate(event, described)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"data": "{}", "id": "1"}, described)
