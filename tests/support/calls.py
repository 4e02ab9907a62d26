"""The same call in four dialects, whole and streamed, through the official SDKs."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
from google import genai

from support.proxy import Mitmdump

APP_KEY = "sk-app-CANARY-0123456789"

APIS = ("chat", "responses", "messages", "gemini")
DIALECT = {"chat": "openai", "responses": "openai", "messages": "anthropic", "gemini": "gemini"}
OFFICIAL = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}


@cache
def _trusting(ca: Path) -> ssl.SSLContext:
    """Made once: reading certificates takes longer than a call."""
    return ssl.create_default_context(cafile=str(ca))


@dataclass
class Result:
    """What the app experienced."""

    text: str = ""
    error: Exception | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    pieces: int = 0
    version: str | None = None
    """The HTTP version that the app spoke, where the SDK tells."""
    finish: str | None = None
    """Why the answer ended, in the dialect's word; chat and Messages only."""

    @property
    def provider(self) -> str | None:
        return self.headers.get("x-sidestep-provider")

    @property
    def attempts(self) -> str | None:
        return self.headers.get("x-sidestep-attempts")


SDK_ERROR: dict[str, type[Exception]] = {
    "chat": openai.APIError,
    "responses": openai.APIError,
    "messages": anthropic.APIError,
    "gemini": genai.errors.APIError,
}
"""What the official SDK raises of its own, by API."""


class Client:
    """An app: the official SDKs behind a proxy, without retries of their own."""

    def __init__(
        self,
        proxy: Mitmdump,
        base_urls: dict[str, str] | None = None,
        timeout: float = 20,
        *,
        http2: bool = False,
    ) -> None:
        bases = {**OFFICIAL, **(base_urls or {})}
        context = _trusting(proxy.ca) if proxy.ca.exists() else True
        self.http = httpx2.Client(proxy=proxy.url, verify=context, timeout=timeout, http2=http2)
        self.http1 = httpx.Client(proxy=proxy.url, verify=context, timeout=timeout, http2=http2)
        self._bases, self._timeout = bases, timeout

    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=APP_KEY,
            base_url=self._bases["openai"],
            max_retries=0,
            http_client=self.http,
            timeout=self._timeout,
        )

    @cached_property
    def anthropic(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(
            api_key=APP_KEY,
            base_url=self._bases["anthropic"],
            max_retries=0,
            http_client=self.http,
            timeout=self._timeout,
        )

    @cached_property
    def gemini(self) -> genai.Client:
        options = genai.types.HttpOptions(base_url=self._bases["gemini"], httpx_client=self.http1)
        return genai.Client(api_key=APP_KEY, http_options=options)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.http1.close()
        if "gemini" in self.__dict__:
            self.gemini.close()

    def call(self, api: str, *, stream: bool, **more: Any) -> Result:
        """One call; an error of the SDK is part of the result."""
        result = Result()
        try:
            method: Callable[..., None] = getattr(self, f"_{api}")
            method(result, stream, **more)
        except (openai.APIError, anthropic.APIError, genai.errors.APIError, httpx.HTTPError, httpx2.HTTPError) as e:
            result.error = e
            response = getattr(e, "response", None)
            if response is not None:
                result.headers = {k.lower(): v for k, v in dict(response.headers).items()}
            result.status = getattr(e, "status_code", getattr(e, "code", None))
        return result

    def _note(self, result: Result, response: Any) -> None:
        result.status = getattr(response, "status_code", 200)
        result.headers = {k.lower(): v for k, v in dict(response.headers).items()}
        result.version = getattr(getattr(response, "http_response", None), "http_version", None)

    def _chat(self, result: Result, stream: bool, **more: Any) -> None:
        arguments: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **more}
        raw = self.openai.chat.completions.with_raw_response.create(stream=stream, **arguments)
        self._note(result, raw)
        answer: Any = raw.parse()
        if not stream:
            result.text = answer.choices[0].message.content
            result.finish = answer.choices[0].finish_reason
            return
        for chunk in answer:
            for choice in chunk.choices:
                result.text += choice.delta.content or ""
                result.finish = choice.finish_reason or result.finish
                result.pieces += 1

    def _responses(self, result: Result, stream: bool, **more: Any) -> None:
        raw = self.openai.responses.with_raw_response.create(
            **{"model": "gpt-4o", "input": "hi", "stream": stream, **more}
        )
        self._note(result, raw)
        answer: Any = raw.parse()
        if not stream:
            result.text = answer.output_text
            return
        for event in answer:
            if event.type == "response.output_text.delta":
                result.text += event.delta
                result.pieces += 1

    def _messages(self, result: Result, stream: bool, **more: Any) -> None:
        arguments: dict[str, Any] = {
            "model": "claude-opus-4-8",
            "max_tokens": 99,
            "messages": [{"role": "user", "content": "hi"}],
            **more,
        }
        raw = self.anthropic.messages.with_raw_response.create(stream=stream, **arguments)
        self._note(result, raw)
        answer: Any = raw.parse()
        if not stream:
            result.text = answer.content[0].text
            result.finish = answer.stop_reason
            return
        for event in answer:
            if event.type == "content_block_delta":
                result.text += event.delta.text
                result.pieces += 1
            elif event.type == "message_delta":
                result.finish = event.delta.stop_reason

    def _gemini(self, result: Result, stream: bool, **more: Any) -> None:
        arguments: dict[str, Any] = {"model": "gemini-2.5-pro", "contents": "hi", **more}
        if not stream:
            answer = self.gemini.models.generate_content(**arguments)
            self._note(result, answer.sdk_http_response)
            result.text = answer.text or ""
            return
        for chunk in self.gemini.models.generate_content_stream(**arguments):
            self._note(result, chunk.sdk_http_response)
            result.text += chunk.text or ""
            result.pieces += 1
