"""Where an agent's session takes place: its own provider and one that may stand in, both strict, at the hosts of the
real ones. All else that agents call is not found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from support.calls import APP_KEY
from support.corporate import ConnectProxy
from support.internet import Internet
from support.provider import Behaviour, Provider
from support.strict import GPT, Azure, Claude, DeepSeek, Gemini, Seal, Stateless, Strict, Vertex

OTHER_KEY = "key-of-the-other-provider-0123456789"
DULL = ("chatgpt.com", "ab.chatgpt.com", "github.com", "api.github.com", "play.googleapis.com")
"""What agents call beside: a quick no is better than names that are not found."""


@dataclass(frozen=True)
class Side:
    """One provider: where it is, what it is like, whose seals it makes. `toml`: how a configuration names it, where the
    environment's keys are not enough."""

    host: str
    kind: type[Strict]
    issuer: str
    toml: str = ""


OWN = {
    "anthropic": Side("api.anthropic.com", Claude, "anthropic", 'name = "anthropic"'),
    "openai": Side("api.openai.com", GPT, "openai", 'name = "openai"'),
    "gemini": Side("generativelanguage.googleapis.com", Gemini, "google", 'name = "gemini"'),
}
_MINE = 'name = "mine"\ndialect = "{}"\nbase_url = "https://{}"\napi_key = "{}"'
STAND_INS = {
    "openrouter with Claude": Side("openrouter.ai", Claude, "anthropic"),
    "deepseek-anthropic": Side(
        *("api.deepseek.com", DeepSeek, "deepseek"),
        'name = "deepseek-anthropic"\nmodels = { "claude-*" = "deepseek-chat" }',
    ),
    "a gateway": Side(
        *("gateway.test", Claude, "gateway.test"), _MINE.format("anthropic", "gateway.test/anthropic", OTHER_KEY)
    ),
    "openrouter": Side("openrouter.ai", Stateless, "openrouter"),
    "azure": Side(
        *("east.openai.azure.com", Azure, "azure"),
        _MINE.format("openai", "east.openai.azure.com/openai/v1", OTHER_KEY) + '\nauth = "api-key"',
    ),
    "vertex": Side("aiplatform.googleapis.com", Vertex, "vertex"),
}
"""By what they are called in the catalog, or by us. None has an issuer written by hand."""
KEYS = {
    **dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "CODEX_API_KEY"), APP_KEY),
    **dict.fromkeys(("OPENROUTER_API_KEY", "DEEPSEEK_API_KEY", "GOOGLE_VERTEX_API_KEY"), OTHER_KEY),
}

QUOTA = {
    "anthropic": Behaviour(status=429, code="rate_limit_error", headers={"retry-after": "3600"}),
    "openai": Behaviour(status=429, code="insufficient_quota", message="You exceeded your current quota."),
    "gemini": Behaviour(status=429, code="RESOURCE_EXHAUSTED", message="You exceeded your current quota."),
}
FAULTS: dict[str, Callable[[str], Behaviour]] = {
    "503": lambda dialect: Behaviour(status=503),
    "529": lambda dialect: Behaviour(status=529, code="overloaded_error", message="Overloaded"),
    "429": lambda dialect: QUOTA[dialect],
    "reset": lambda dialect: Behaviour(reset=True),
    "dies": lambda dialect: Behaviour(cut_after=0, cut_by="close"),
    "refused": lambda dialect: Behaviour(reset=True),
}
"""How the first provider fails. `dies`: amid its stream, or its body, before any content; `refused`: nobody listens any
more."""


class Place:
    """Use as a context manager. `a` fails as told once it has given two good answers, `b` may stand in. `env`: what a
    program needs to find and trust both, and all keys; `config`: what Sidestep needs beside, None where the keys say
    all."""

    def __init__(self, folder: Path, dialect: str, stand_in: str, fault: str) -> None:
        own, other = OWN[dialect], STAND_INS[stand_in]
        shape = "gAAAA" if dialect == "openai" else ""
        self.config = f"[[providers]]\n{own.toml}\n[[providers]]\n{other.toml}\n" if other.toml else None
        self.a, self.b = own.kind("a", Seal(own.issuer, shape)), other.kind("b", Seal(other.issuer, shape))
        self.a.fault = FAULTS[fault](dialect)
        internet = Internet(folder)
        self._own = Provider("a", tls=internet.tls(own.host))
        self._other = Provider("b", tls=internet.tls(other.host))
        self._dull = Provider("d", tls=internet.tls(*DULL))
        self._own.chooser, self._other.chooser = self.a, self.b
        self._dull.default = Behaviour(status=404)
        self._refuses = fault == "refused"
        if self._refuses:
            self.a.then = lambda: threading.Thread(target=self._own.refuse).start()
        self._hosts = {own.host: self._own, other.host: self._other, **dict.fromkeys(DULL, self._dull)}
        self.trusted = folder / "internet-ca.pem"
        internet.options()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for provider in (self._own, self._other, self._dull):
            self._stack.enter_context(provider)
        names = {f"{host}:443": ("127.0.0.1", provider.port) for host, provider in self._hosts.items()}
        self.way = self._stack.enter_context(ConnectProxy(names=names, alone=True))
        self.env = {**KEYS, "HTTPS_PROXY": self.way.url, "SSL_CERT_FILE": str(self.trusted)}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def heal(self) -> None:
        """The first provider is well again."""
        if self._refuses:
            self._own.listen_again()
        self.a.fault = None

    @property
    def astray(self) -> list[str]:
        """The requests that reached a provider with another one's key."""
        asked = [(seen, OTHER_KEY) for seen in self._own.requests] + [(seen, APP_KEY) for seen in self._other.requests]
        return [seen.path for seen, key in asked if key.encode() in seen.raw_head + seen.body]
