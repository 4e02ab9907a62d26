"""Asks each provider for its list of models: whether its address and its key are good, which servers of this machine
answer, and what they have.

Network, but no proxy and no circuit. No key appears in what comes back, nor anything that a provider said.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus

import certifi

from sidestep.config import catalog
from sidestep.config.settings import Provider
from sidestep.credentials import credential_fields

SECONDS = 10.0
LOCAL_SECONDS = 1.0
"""For a server of this machine, which is not waited for: it answers at once or is none."""
AT_ONCE = 16
MODELS_BYTES = 1 << 23
"""Longer lists are not read to their end."""
_LIST = {"openai": "/models", "anthropic": "/v1/models", "gemini": "/v1beta/models"}
"""Where each dialect lists models, after the base URL."""
_VERSION = ("anthropic-version", "2023-06-01")


@dataclass(frozen=True, slots=True)
class Probe:
    """`ok` is None where nothing was asked, or where the answer says nothing of address and key."""

    provider: str
    dialect: str
    ok: bool | None
    status: int | None
    text: str


def probe(
    providers: Iterable[Provider], seconds: float = SECONDS, tell: Callable[[str], object] = lambda _: None
) -> list[Probe]:
    """What each provider answers, in their order; all are asked at once. `tell` is called with each name as its answer
    is there."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())

    def one(provider: Provider) -> Probe:
        answer = _probe(provider, context, seconds)
        tell(provider.name)
        return answer

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, providers))


def models_of(providers: Iterable[Provider], seconds: float = LOCAL_SECONDS) -> dict[str, tuple[str, ...] | None]:
    """The models of those servers of this machine that answer, by their names; None for one that is not ready yet. No
    proxy is asked for them."""
    context = ssl.create_default_context()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = {p.name: pool.submit(_ask, p, context, seconds, urllib.request.ProxyHandler({})) for p in providers}
        answers = {name: future.result() for name, future in asked.items()}
    found: dict[str, tuple[str, ...] | None] = {}
    for name, answer in answers.items():
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            found[name] = None
        elif answer.status == HTTPStatus.OK and (models := _models(answer.body)) is not None:
            found[name] = tuple(models)
    return found


@dataclass(frozen=True, slots=True)
class _Answer:
    """`status` is None where none came, and `why` says why not."""

    status: int | None
    body: bytes = b""
    why: str = ""


def _probe(provider: Provider, context: ssl.SSLContext, seconds: float) -> Probe:
    if provider.api_key is None and provider.auth != "none":
        return Probe(provider.name, provider.dialect, None, None, "not asked: it takes the app's own credential")
    answer = _ask(provider, context, seconds)
    ok, text = (False, answer.why) if answer.status is None else _judge(provider, answer.status, answer.body)
    return Probe(provider.name, provider.dialect, ok, answer.status, text)


def _ask(provider: Provider, context: ssl.SSLContext, seconds: float, *handlers: urllib.request.BaseHandler) -> _Answer:
    base = provider.base_url
    # Azure lists its models beside its deployments, not below one of them.
    url = str(base).partition("/deployments/")[0] + _LIST[provider.dialect] + (f"?{base.query}" if base.query else "")
    request = urllib.request.Request(url, headers={"accept": "application/json"})  # noqa: S310  # http and https
    if provider.dialect == "anthropic":
        request.add_header(*_VERSION)
    for name, value in credential_fields(provider):
        # Unredirected, and so not shown to another host: `urllib` gives the other headers to proxies, too.
        request.add_unredirected_header(name.decode("latin-1"), value.decode("latin-1"))
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect, *handlers)
    end = time.monotonic() + seconds
    try:
        with opener.open(request, timeout=seconds) as answer:
            return _Answer(answer.status, _read(answer, end))
    except urllib.error.HTTPError as e:
        with e:
            return _Answer(e.code)
    except (OSError, ValueError, http.client.HTTPException) as e:
        # Their texts may quote a header, and with it a key: only what the system says of a connection is told.
        return _Answer(None, why=_reason(e))


def _judge(provider: Provider, status: int, body: bytes) -> tuple[bool | None, str]:
    if 200 <= status < 300:
        models = _models(body)
        if models is None:
            return False, f"HTTP {status}, but no list of models"
        return True, f"{len(models)} model{'' if len(models) == 1 else 's'}"
    text = f"HTTP {status}"
    if status in {s.value for s in HTTPStatus}:
        text += f" {HTTPStatus(status).phrase}"
    if status in (401, 403) and provider.api_key is not None:
        text += ": the key is refused"
    elif status in (404, 405):
        entry = catalog.entry_of(provider.name)
        if entry is not None and entry.base_urls.get(provider.dialect) == str(provider.base_url):
            # The address is known to be right: not every provider of a dialect lists its models.
            return None, f"{text}: it answers, and has no list of models"
        text += ": is base_url right?"
    elif 300 <= status < 400:
        text += ": is base_url right? A key follows no redirect"
    return False, text


def _read(answer: http.client.HTTPResponse, end: float) -> bytes:
    """The body. TimeoutError: it drips."""
    pieces: list[bytes] = []
    size = 0
    while size < MODELS_BYTES and (piece := answer.read1(1 << 16)):
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > end:
            raise TimeoutError
    return b"".join(pieces)


def _models(body: bytes) -> list[str] | None:
    """The names of the models that it lists, each an empty one that says none; None: it is no such list."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    models = found.get("data", found.get("models")) if isinstance(found, dict) else found
    if not isinstance(models, list):
        return None
    names = (m.get("id", m.get("name")) if isinstance(m, dict) else None for m in models)
    return [name if isinstance(name, str) else "" for name in names]


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    match reason:
        case TimeoutError():
            return "no answer in time"
        case ssl.SSLCertVerificationError():
            return f"TLS: {reason.verify_message}"
        case ssl.SSLError():
            return f"TLS: {reason.reason or 'no agreement'}"
        case OSError(strerror=str(text)) if text:
            return text
        case _:
            return f"no HTTP answer ({type(reason).__name__})"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None
