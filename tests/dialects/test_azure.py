"""Calls to deployments at Azure: which model they ask for, and what they are elsewhere."""

from __future__ import annotations

import json

import pytest

from sidestep.dialects import DIALECTS
from sidestep.dialects.openai import OPERATIONS

OPENAI = DIALECTS["openai"]
JSON = "application/json"
FORM_TYPE = "multipart/form-data; boundary=b1"
FORM = b'--b1\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--b1--\r\n'
HERE = "/openai/deployments/d"


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize("before", ["", "/deployments/d", "/openai/deployments/my%20d"])
def test_a_deployments_operations_are_the_usual_ones(before: str, operation: str) -> None:
    """Whatever of the path the intercept has taken."""
    assert OPENAI.operation("POST", f"{before}/{operation}") == operation


@pytest.mark.parametrize(
    "tail",
    [
        "/deployments/d",
        "/deployments/d/",
        "/deployments//chat/completions",
        "/deployments/a/b/chat/completions",
        "/other/deployments/d/chat/completions",
        "/openai/chat/completions",
        "/deployments/d/models",
        "/deployments/d/deployments/e/chat/completions",
    ],
)
def test_other_paths_are_none(tail: str) -> None:
    assert OPENAI.operation("POST", tail) is None


@pytest.mark.parametrize(
    ("base", "tail", "body", "model", "unnamed"),
    [
        ("/openai", "/deployments/my%20d/chat/completions", {}, "my d", True),
        ("", "/openai/deployments/d/chat/completions", {"model": ""}, "d", True),
        ("", "/openai/deployments/d/chat/completions", {"model": None}, "d", True),
        ("/openai/deployments/d", "/chat/completions", {}, "d", True),
        ("/openai/deployments/d", "/chat/completions", {"model": "gpt-4o"}, "gpt-4o", False),
        ("/openai", "/deployments/d/chat/completions", {"model": "gpt-4o"}, "gpt-4o", False),
        ("/openai/v1", "/chat/completions", {}, None, False),
        ("/deployments/d/v1", "/chat/completions", {}, None, False),
    ],
)
def test_the_deployment_names_the_model_where_the_body_does_not(
    base: str, tail: str, body: dict[str, str | None], model: str | None, unnamed: bool
) -> None:
    """As the SDK does it: there the body says the deployment as well, unless the app has said another model."""
    call = OPENAI.read("chat/completions", tail, "", JSON, json.dumps(body).encode(), base)
    assert (call.model, call.unnamed) == (model, unnamed)


def test_a_body_that_cannot_be_read_asks_for_nothing_that_is_known() -> None:
    """Nor whether it is to be streamed."""
    call = OPENAI.read("chat/completions", HERE + "/chat/completions", "", JSON, b"\xff")
    assert (call.model, call.unnamed) == (None, False)


def test_a_body_that_names_no_model_gets_one() -> None:
    """JSON and forms; the path its other deployment, where it stays."""
    tail = "/deployments/d/chat/completions"
    call = OPENAI.read("chat/completions", tail, "", JSON, b'{"n": 1.0}', "/openai")
    assert OPENAI.rewrite(call, tail, JSON, b'{"n": 1.0}', "my m", ()) == (
        "/deployments/my%20m/chat/completions",
        b'{"n":1.0,"model":"my m"}',
    )
    assert OPENAI.rewrite(call, tail, JSON, b'{"n": 1.0}', None, ()) == (tail, b'{"n": 1.0}')
    tail = "/deployments/d/audio/transcriptions"
    call = OPENAI.read("audio/transcriptions", tail, "", FORM_TYPE, FORM, "/openai")
    assert (call.model, call.unnamed) == ("d", True)
    _, body = OPENAI.rewrite(call, tail, FORM_TYPE, FORM, "whisper-1", ())
    assert body == b'--b1\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n' + FORM
    assert OPENAI.read("audio/transcriptions", "/x", "", FORM_TYPE, body).model == "whisper-1"


@pytest.mark.parametrize(
    ("base", "alike", "tail", "query"),
    [
        ("/openai", True, HERE + "/chat/completions", "api-version=1&b=2"),
        ("/v1", False, "/chat/completions", "b=2"),
        ("/openai/deployments/e", False, "/chat/completions", "api-version=1&b=2"),
    ],
)
def test_what_it_is_called_elsewhere(base: str, alike: bool, tail: str, query: str) -> None:
    """With Azure's version only where deployments are."""
    found = OPENAI.address_at("x", base, HERE + "/chat/completions", "api-version=1&b=2", alike=alike)
    assert found == (tail, query)


@pytest.mark.parametrize("model", ["../../admin", "..", "..\\x", "%2e%2e/x", "a/../../b", "m?x=1"])
def test_a_model_that_would_lead_out_of_a_base_url_is_none(model: str) -> None:
    """Its name elsewhere takes the deployment's place in the path."""
    body = json.dumps({"model": model, "messages": []}).encode()
    for tail, unread in ((f"{HERE}/chat/completions", "its model is no name"), ("/chat/completions", "")):
        call = OPENAI.read("chat/completions", tail, "", "application/json", body)
        assert (call.model, call.unread) == (None if unread else model, unread)
