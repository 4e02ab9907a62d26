"""Chains of providers for people with a plan: the vendor's own host for the plan's login, the same vendor with a key,
another provider, a server of this machine. Each is strict (`support.strict`), and can be switched off amid a session.

All are found by the names of the real hosts, without any configuration: a company's proxy leads there.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from support.corporate import ConnectProxy
from support.internet import Internet
from support.provider import Behaviour, Provider, Seen
from support.sessions import DULL
from support.strict import GPT, Claude, CodeAssist, Gemini, Seal, Stateless, Strict, Vertex

MODEL_HERE = "qwen3-coder:30b"
ACCOUNT = "account-CANARY-0123456789"
UNIFIED = "anthropic-ratelimit-unified"


def _jwt(**claims: Any) -> str:
    """A token in the form of a login's. Nobody has signed it."""
    parts = ({"alg": "RS256", "typ": "JWT"}, {"exp": int(time.time()) + 864_000, **claims})
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts), "c2ln"])


_OF_OPENAI = {"chatgpt_plan_type": "plus", "chatgpt_account_id": ACCOUNT, "chatgpt_user_id": "user-CANARY"}
CHATGPT_LOGIN = _jwt(email="me@example.com", **{"https://api.openai.com/auth": _OF_OPENAI})
LOGINS = {
    "anthropic": "sk-ant-oat01-PLAN-CANARY-0123456789",
    "openai": CHATGPT_LOGIN,
    "gemini": "ya29.PLAN-CANARY-0123456789",
}
"""What each plan's program is logged in with."""


@dataclass(frozen=True)
class Link:
    """One who may answer. `name`: as Sidestep calls it; `host`: empty on this machine; `variable`: where its key is,
    empty for the plan itself; `off`: how it refuses once it is switched off. Seals bear `issuer`."""

    name: str
    host: str
    kind: type[Strict]
    issuer: str
    variable: str = ""
    off: Behaviour = field(default_factory=lambda: Behaviour(status=402, message="Insufficient credits"))

    @property
    def key(self) -> str:
        return f"key-of-{self.name}-CANARY-0123456789" if self.variable else ""


def claude_used_up(until: float) -> Behaviour:
    """A window of five hours, until then (seconds since 1970); that of a week is not."""
    told: dict[str, object] = {"status": "rejected", "reset": int(until), "representative-claim": "five_hour"}
    told |= {"5h-status": "rejected", "5h-utilization": 1.0, "5h-reset": int(until)}
    told |= {"7d-status": "allowed", "7d-utilization": 0.4, "7d-reset": int(until) + 400_000}
    headers = {f"{UNIFIED}-{name}": str(value) for name, value in told.items()}
    return Behaviour(status=429, code="rate_limit_error", headers=headers)


def chatgpt_used_up(until: float) -> Behaviour:
    error = {"type": "usage_limit_reached", "message": "The usage limit has been reached", "plan_type": "plus"}
    told = {"used-percent": "100", "window-minutes": "300", "reset-at": str(int(until))}
    headers = {f"x-codex-primary-{name}": value for name, value in told.items()}
    return Behaviour(
        status=429, body=json.dumps({"error": {**error, "resets_at": int(until)}}).encode(), headers=headers
    )


def google_used_up(until: float) -> Behaviour:
    kinds = "type.googleapis.com/google.rpc."
    reset = {"quotaResetDelay": f"{until - time.time():.3f}s", "model": "gemini-3-pro-preview"}
    details = [
        {"@type": f"{kinds}ErrorInfo", "reason": "QUOTA_EXHAUSTED", "metadata": reset},
        {"@type": f"{kinds}RetryInfo", "retryDelay": f"{until - time.time():.3f}s"},
    ]
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You have exhausted your capacity on this model."}
    return Behaviour(status=429, body=json.dumps({"error": {**error, "details": details}}).encode())


USED_UP: dict[str, Callable[[float], Behaviour]] = {
    "anthropic": claude_used_up,
    "openai": chatgpt_used_up,
    "gemini": google_used_up,
}

CREDIT = Behaviour(
    status=400, code="invalid_request_error", message="Your credit balance is too low to access the Anthropic API."
)
QUOTA = Behaviour(status=429, code="insufficient_quota", message="You exceeded your current quota.")
CHAINS = {
    "anthropic": (
        Link("anthropic", "api.anthropic.com", Claude, "anthropic"),
        Link("anthropic-key", "api.anthropic.com", Claude, "anthropic", "SIDESTEP_ANTHROPIC_API_KEY", CREDIT),
        Link("openrouter", "openrouter.ai", Claude, "anthropic", "SIDESTEP_OPENROUTER_API_KEY"),
        Link("ollama", "", Claude, "ollama"),
    ),
    "openai": (
        Link("chatgpt", "chatgpt.com", GPT, "chatgpt"),
        Link("openai-key", "api.openai.com", GPT, "openai", "SIDESTEP_OPENAI_API_KEY", QUOTA),
        Link("openrouter", "openrouter.ai", Stateless, "openrouter", "SIDESTEP_OPENROUTER_API_KEY"),
        Link("ollama", "", Stateless, "ollama"),
    ),
    "gemini": (
        Link("code-assist", "cloudcode-pa.googleapis.com", CodeAssist, "code-assist"),
        Link("gemini-key", "generativelanguage.googleapis.com", Gemini, "google", "SIDESTEP_GEMINI_API_KEY"),
        Link("vertex", "aiplatform.googleapis.com", Vertex, "vertex", "SIDESTEP_VERTEX_API_KEY"),
    ),
}
"""In the order in which they are asked. No server of this machine speaks Gemini's dialect."""

GOOGLE = ("oauth2.googleapis.com", "www.googleapis.com")
"""Whom Gemini CLI asks about its login."""


def _json(data: object) -> Behaviour:
    return Behaviour(body=json.dumps(data).encode())


def _google(seen: Seen) -> Behaviour:
    if seen.path == "/token":
        return _json({"access_token": LOGINS["gemini"], "expires_in": 3600, "token_type": "Bearer"})
    return _json({"email": "me@example.com", "id": "1", "aud": "x", "expires_in": 3600, "scope": "openid"})


def _beside(seen: Seen) -> Behaviour | None:
    """What the plans' hosts say to what is no call; None: nothing of that."""
    bare = seen.path.partition("?")[0]
    if bare == "/backend-api/wham/accounts/check":
        account = {"id": ACCOUNT, "name": "Me", "plan_type": "plus", "structure": "personal", "is_deactivated": False}
        account |= {"workspace_backend_origin": "https://chatgpt.com", "account_routing_override": "NO_CONSTRAINT"}
        return _json({"accounts": [account], "account_ordering": [ACCOUNT], "default_account_id": ACCOUNT})
    if bare.startswith("/v1internal:") and "enerateContent" not in bare:
        tier = {"id": "standard-tier", "name": "Standard"}
        loads = bare.endswith(":loadCodeAssist")
        return _json({"currentTier": tier, "cloudaicompanionProject": ACCOUNT} if loads else {})
    return None


def _frame(refusal: Behaviour) -> str:
    """The same over a WebSocket."""
    assert refusal.body is not None
    told = {"type": "error", "status": refusal.status, **json.loads(refusal.body), "headers": refusal.headers}
    return json.dumps(told)


class Vendors:
    """Use as a context manager. State: who is switched off, until when the plan's window is used up (seconds since
    1970), who answered which calls. `env`: what `sidestep run` needs to find and trust all of them, and the keys."""

    def __init__(self, folder: Path, dialect: str, *, sockets: bool = False) -> None:
        """`sockets`: Codex' plan takes WebSockets, and says in a frame that it is used up."""
        self.dialect = dialect
        self._sockets = sockets
        self.chain = CHAINS[dialect]
        self.resets_at = 0.0
        shape = "gAAAA" if dialect == "openai" else ""
        self.who = {link.name: link.kind(link.name, Seal(link.issuer, shape)) for link in self.chain}
        plan = self.who[self.chain[0].name]
        if sockets and isinstance(plan, GPT):
            plan.frames = []
        self.answers: dict[str, list[Seen]] = {link.name: [] for link in self.chain}
        self.strangers: list[str] = []
        """Calls with a credential that has no business where it came."""
        internet = Internet(folder)
        self._hosts: dict[str, Provider] = {}
        for host in {link.host for link in self.chain}:
            provider = self._hosts[host] = Provider(host or "local", tls=internet.tls(host) if host else None)
            provider.chooser = self._chooser([link for link in self.chain if link.host == host])
        dull = [host for host in DULL if host not in self._hosts]
        self._dull, self._google = Provider("dull", tls=internet.tls(*dull)), Provider("g", tls=internet.tls(*GOOGLE))
        self._dull.default = Behaviour(status=404)
        self._google.chooser = _google
        self._by_host = {
            **{host: p for host, p in self._hosts.items() if host},
            **dict.fromkeys(dull, self._dull),
            **dict.fromkeys(GOOGLE, self._google),
        }
        self.trusted = folder / "internet-ca.pem"
        internet.options()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for provider in {*self._by_host.values(), *self._hosts.values()}:
            self._stack.enter_context(provider)
        names = {f"{host}:443": ("127.0.0.1", provider.port) for host, provider in self._by_host.items()}
        self.way = self._stack.enter_context(ConnectProxy(names=names, alone=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def keys(self) -> dict[str, str]:
        """The keys for after the plan, and where the server of this machine is."""
        found = {link.variable: link.key for link in self.chain if link.variable}
        return found | ({"OLLAMA_HOST": f"127.0.0.1:{self._hosts[''].port}"} if "" in self._hosts else {})

    @property
    def env(self) -> dict[str, str]:
        return {**self.keys, "HTTPS_PROXY": self.way.url, "SSL_CERT_FILE": str(self.trusted)}

    def switch_off(self, name: str, *, after: int = 2, seconds: float = 0) -> None:
        """It refuses once it has given so many more good answers. `seconds`: after so long the plan's window begins
        anew, and the plan is well."""
        who = self.who[name]
        who.good = who.answered + after
        link = next(each for each in self.chain if each.name == name)
        if link is self.chain[0]:
            self.resets_at = float(int(time.time() + seconds))
            who.fault = USED_UP[self.dialect](self.resets_at)
            if self._sockets and isinstance(who, GPT):
                who.frames = [_frame(who.fault)]
        else:
            who.fault = link.off

    def wait_for_reset(self) -> None:
        """The window of the plan has begun anew."""
        time.sleep(max(0.0, self.resets_at - time.time()) + 0.5)

    def _chooser(self, links: list[Link]) -> Callable[[Seen], Behaviour]:
        by_key: Mapping[str, Link] = {
            link.key or ("" if not link.host else LOGINS[self.dialect]): link for link in links
        }

        def choose(seen: Seen) -> Behaviour:
            credential = (seen.header("authorization") or seen.header("x-api-key") or "").removeprefix("Bearer ")
            credential = credential or seen.header("x-goog-api-key") or ""
            if (link := by_key.get(credential)) is None:
                self.strangers.append(f"{seen.header('host')}{seen.path}")
                return Behaviour(status=401, code="authentication_error")
            if not link.host and seen.method == "GET":
                return Behaviour(body=json.dumps({"object": "list", "data": [{"id": MODEL_HERE}]}).encode())
            if (beside := _beside(seen)) is not None:
                return beside
            who = self.who[link.name]
            if link is self.chain[0] and who.fault is not None:
                # How long it takes still, some say instead of when.
                who.fault = USED_UP[self.dialect](self.resets_at) if time.time() < self.resets_at else None
                if self._sockets and isinstance(who, GPT):
                    who.frames = [_frame(who.fault)] if who.fault is not None else []
            if link.host == "api.anthropic.com" and seen.method == "POST" and not self._knows_model(seen):
                return Behaviour(status=404, code="not_found_error", message="no such model")
            told = who(seen)
            if told.status == 200:
                self.answers[link.name].append(seen)
                if link is self.chain[0] and self.dialect == "anthropic":
                    well = {"status": "allowed", "5h-status": "allowed", "5h-utilization": "0.5"}
                    well["5h-reset"] = str(int(time.time()) + 9_000)
                    told = replace(told, headers={**told.headers, **{f"{UNIFIED}-{k}": v for k, v in well.items()}})
            return told

        return choose

    @staticmethod
    def _knows_model(seen: Seen) -> bool:
        return "/v1/messages" not in seen.path or str(seen.json.get("model")).startswith("claude-")

    @property
    def astray(self) -> list[str]:
        """The requests that bear a credential, or an account, of another's."""
        found = [*self.strangers]
        plan = self.chain[0]
        secrets = {link.name: [link.key] for link in self.chain if link.key}
        secrets[plan.name] = [LOGINS[self.dialect], ACCOUNT]
        for host, provider in self._hosts.items():
            here = {link.name for link in self.chain if link.host == host}
            for seen in provider.requests:
                sent = seen.raw_head + seen.body
                others = {n for n, words in secrets.items() if any(w.encode() in sent for w in words)}
                if others - here or len(others) > 1:
                    found.append(f"{host or 'this machine'}{seen.path}: {', '.join(sorted(others))}")
        return found

    @property
    def refusals(self) -> list[str]:
        """What the strict ones would not take, but of their own."""
        return [f"{name}: {text}" for name, who in self.who.items() for text in who.refusals]


def log_in(dialect: str, home: Path) -> dict[str, str]:
    """Logs the plan's program in: its files below the home, and the variables that it needs beside."""
    login = LOGINS[dialect]
    if dialect == "anthropic":
        return {"CLAUDE_CODE_OAUTH_TOKEN": login}
    if dialect == "openai":
        tokens = {"id_token": login, "access_token": login, "refresh_token": "rt-CANARY", "account_id": ACCOUNT}
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        said = {"auth_mode": "chatgpt", "OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": stamp}
        _write(home / ".codex" / "auth.json", said)
        return {}
    expires = int(time.time() * 1000) + 3_600_000
    scope = "https://www.googleapis.com/auth/cloud-platform"
    said = {"access_token": login, "refresh_token": "1//CANARY", "scope": scope, "token_type": "Bearer"}
    _write(home / ".gemini" / "oauth_creds.json", {**said, "expiry_date": expires})
    _write(home / ".gemini" / "settings.json", {"security": {"auth": {"selectedType": "oauth-personal"}}})
    return {"GEMINI_CLI_TRUST_WORKSPACE": "true"}


def _write(file: Path, data: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data))
