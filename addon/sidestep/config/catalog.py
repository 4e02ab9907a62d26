"""The built-in catalog: base URLs, keys and model names of well-known providers, as data.

Pure: no environment, no I/O, no choice of a provider to ask. Each entry names the page of the provider's own
documentation that states its base URL and how it takes a key.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from sidestep.config.model_names import OPEN_WEIGHTS, OPENAI_FAMILIES, OPENROUTER_CLAUDE, OPENROUTER_MODELS

OFFICIAL = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}
"""The base URL that each dialect's official SDK calls by default."""

CHATGPT = "https://chatgpt.com/backend-api/codex"
"""The base URL of Codex with a ChatGPT login: the Responses API, for a plan's token, which `api.openai.com` refuses
(as public clients call it)."""

CODE_ASSIST = "https://cloudcode-pa.googleapis.com"
"""The base URL of Gemini CLI with a Google login (as its public code calls it): see `dialects/code_assist.py`."""

PLANS = {"chatgpt": ("openai", CHATGPT), "code-assist": ("gemini", CODE_ASSIST)}
"""Providers of plans at an address of their own: the dialect, and the base URL. Each has a route, whose calls may go on
to all others of the dialect that have a key."""

OFFICIAL_ISSUERS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
"""Whose signature the reasoning bears that comes from there."""

_ISSUERS = (
    ("anthropic", "api.anthropic.com", "anthropic"),
    # Values work across the Claude API, Amazon Bedrock and Google Cloud (Anthropic's page on extended thinking).
    ("anthropic", "*.amazonaws.com", "anthropic"),
    ("anthropic", "*.api.aws", "anthropic"),
    ("anthropic", "*aiplatform.googleapis.com", "anthropic"),
    ("anthropic", "openrouter.ai", "anthropic"),
    ("gemini", "generativelanguage.googleapis.com", "google"),
    # Google's two platforms do not take each other's signatures.
    ("gemini", "*aiplatform.googleapis.com", "google-vertex"),
    ("gemini", "cloudcode-pa.googleapis.com", "google-code-assist"),
    ("openai", "api.openai.com", "openai"),
    # What an account of the one has sealed no account of the other can read.
    ("openai", "chatgpt.com", "chatgpt"),
    ("openai", "openrouter.ai", "openrouter"),
    ("*", "api.deepseek.com", "deepseek"),
    ("*", "api.moonshot.*", "moonshot"),
    ("*", "api.kimi.com", "moonshot"),
    ("*", "api.z.ai", "zai"),
    ("*", "open.bigmodel.cn", "zai"),
    ("*", "api.minimax*", "minimax"),
)
"""Dialect and host as globs → whose reasoning is honoured there."""
_AZURE = ("*.openai.azure.com", "*.services.ai.azure.com", "*.cognitiveservices.azure.com")
"""What one resource has sealed, no other one can read."""

AUTH_BY_DIALECT = {"openai": "bearer", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}


@lru_cache(maxsize=1024)
def issuer_at(dialect: str, host: str) -> str | None:
    """Whose sealed reasoning is honoured at a host; None: it is not known."""
    for of, glob, issuer in _ISSUERS:
        if fnmatch.fnmatchcase(dialect, of) and fnmatch.fnmatchcase(host, glob):
            return issuer
    return host if is_azure(host) else None


def is_azure(host: str) -> bool:
    """Whether it is a resource of Azure's, where an API has two layouts: `/openai/v1`, and one path a deployment."""
    return any(fnmatch.fnmatchcase(host, glob) for glob in _AZURE)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How a provider speaks one dialect. `source` is the page of its documentation that says so.

    `models` and `only` are as in the configuration: what is asked for → what it is called here, and what it may be
    asked for at all. An empty `auth` is the dialect's.
    """

    base_url: str
    source: str
    auth: str = ""
    models: tuple[tuple[str, str], ...] = ()
    only: tuple[str, ...] | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One provider, with an endpoint for each dialect that it speaks: one key serves them all. `env`: names of the
    environment variables with that key, the first that is set counts.

    `takes_key`: it is never asked with the app's own credential, even where the app addresses it. A local one has no
    `env`.
    """

    env: tuple[str, ...]
    endpoints: Mapping[str, Endpoint]
    takes_key: bool = False

    @property
    def base_urls(self) -> dict[str, str]:
        return {dialect: endpoint.base_url for dialect, endpoint in self.endpoints.items()}

    @property
    def is_local(self) -> bool:
        """Whether it is a server of this machine."""
        return not self.env and not self.is_plan

    @property
    def is_plan(self) -> bool:
        """Whether it is asked with the app's own credential alone, and by its own address."""
        return any(base in self.base_urls.values() for _, base in PLANS.values())


def _local(port: int, openai: str, anthropic: str) -> Entry:
    """A server of this machine, without a key, at one port for both dialects; the pages that say so."""
    origin = f"http://localhost:{port}"
    return Entry(
        (),
        {
            "openai": Endpoint(f"{origin}/v1", openai, auth="none"),
            "anthropic": Endpoint(origin, anthropic, auth="none"),
        },
    )


def _with_keys(entries: dict[str, Entry]) -> dict[str, Entry]:
    """The vendors, then each of them again with a key of the user's own, for all its dialects, then the others."""
    vendors = {name: entries[name] for name in OFFICIAL}
    keyed: dict[str, Entry] = {}
    for name, entry in vendors.items():
        others = entries.get(f"{name}-openai")
        endpoints = {**entry.endpoints, **(others.endpoints if others is not None else {})}
        keyed[f"{name}-key"] = Entry((own_variable(name),), endpoints, takes_key=True)
    return {**vendors, **keyed, **entries}


def own_variable(name: str) -> str:
    """The variable that holds a key for Sidestep alone: what an app finds in its environment by the usual name may turn
    its plan off."""
    return f"SIDESTEP_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_API_KEY"


CATALOG = _with_keys(
    {
        "openai": Entry(
            ("OPENAI_API_KEY",),
            {"openai": Endpoint(OFFICIAL["openai"], "https://platform.openai.com/docs/api-reference")},
        ),
        "chatgpt": Entry((), {"openai": Endpoint(CHATGPT, "https://developers.openai.com/codex/auth")}),
        "code-assist": Entry(
            (),
            {
                "gemini": Endpoint(
                    CODE_ASSIST, "https://github.com/google-gemini/gemini-cli", issuer="google-code-assist"
                )
            },
        ),
        "anthropic": Entry(
            ("ANTHROPIC_API_KEY",),
            {
                "anthropic": Endpoint(
                    OFFICIAL["anthropic"], "https://platform.claude.com/docs/en/api/overview", issuer="anthropic"
                )
            },
        ),
        "gemini": Entry(
            ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            {"gemini": Endpoint(OFFICIAL["gemini"], "https://ai.google.dev/gemini-api/docs/api-key", issuer="google")},
        ),
        "openrouter": Entry(
            ("OPENROUTER_API_KEY",),
            {
                "openai": Endpoint(
                    "https://openrouter.ai/api/v1",
                    "https://openrouter.ai/docs/quickstart",
                    models=OPENROUTER_MODELS,
                    only=(*OPENAI_FAMILIES, "claude-*", "gemini-*", "*/*"),
                ),
                "anthropic": Endpoint(
                    "https://openrouter.ai/api",
                    "https://openrouter.ai/docs/guides/coding-agents/claude-code-integration",
                    auth="bearer",
                    models=OPENROUTER_CLAUDE,
                    only=("claude-*", "*/*"),
                    issuer="anthropic",
                ),
            },
        ),
        "groq": Entry(
            ("GROQ_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.groq.com/openai/v1",
                    "https://console.groq.com/docs/openai",
                    only=(*OPEN_WEIGHTS, "whisper-large*"),
                )
            },
        ),
        "together": Entry(
            ("TOGETHER_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.together.ai/v1",
                    "https://docs.together.ai/docs/inference/openai-compatibility",
                    only=("*/*",),
                )
            },
        ),
        "fireworks": Entry(
            ("FIREWORKS_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.fireworks.ai/inference/v1",
                    "https://docs.fireworks.ai/tools-sdks/openai-compatibility",
                    only=("accounts/*",),
                ),
                "anthropic": Endpoint(
                    "https://api.fireworks.ai/inference",
                    "https://docs.fireworks.ai/tools-sdks/anthropic-compatibility",
                    only=("accounts/*",),
                ),
            },
        ),
        "deepseek": Entry(
            ("DEEPSEEK_API_KEY",),
            {
                "openai": Endpoint("https://api.deepseek.com", "https://api-docs.deepseek.com/", only=("deepseek*",)),
                "anthropic": Endpoint(
                    "https://api.deepseek.com/anthropic",
                    "https://api-docs.deepseek.com/guides/anthropic_api",
                    # It takes claude-* too, and answers with a model of its own: whoever wants that says so in `only`.
                    only=("deepseek*",),
                    issuer="deepseek",
                ),
            },
        ),
        "mistral": Entry(
            ("MISTRAL_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.mistral.ai/v1",
                    "https://docs.mistral.ai/api",
                    only=(
                        *("mistral*", "ministral*", "codestral*", "magistral*", "devstral*"),
                        *("pixtral*", "open-mi*", "voxtral*"),
                    ),
                )
            },
        ),
        "gemini-openai": Entry(
            ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            {
                "openai": Endpoint(
                    "https://generativelanguage.googleapis.com/v1beta/openai",
                    "https://ai.google.dev/gemini-api/docs/openai",
                    only=("gemini*", "gemma*"),
                )
            },
        ),
        "vertex": Entry(
            ("GOOGLE_VERTEX_API_KEY", "VERTEX_API_KEY"),
            {
                # In express mode, the one that takes a key. What it calls its paths is the dialect's business.
                "gemini": Endpoint(
                    "https://aiplatform.googleapis.com",
                    "https://cloud.google.com/vertex-ai/generative-ai/docs/start/express-mode/"
                    "vertex-ai-express-mode-api-reference",
                    only=("gemini-[0-9]*",),
                    issuer="google-vertex",
                )
            },
        ),
        "aihubmix": Entry(
            ("AIHUBMIX_API_KEY",),
            {
                "gemini": Endpoint(
                    "https://aihubmix.com/gemini", "https://docs.aihubmix.com/en/api/Gemini-Guides", only=("gemini*",)
                ),
                "anthropic": Endpoint(
                    "https://aihubmix.com",
                    "https://docs.aihubmix.com/en/api/Claude-Code",
                    auth="bearer",
                    only=("claude-*",),
                ),
            },
        ),
        "anthropic-openai": Entry(
            ("ANTHROPIC_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.anthropic.com/v1",
                    "https://platform.claude.com/docs/cli-sdks-libraries/libraries/openai-sdk",
                    only=("claude*",),
                )
            },
        ),
        "xai": Entry(
            ("XAI_API_KEY",),
            # Its Messages API is deprecated.
            {"openai": Endpoint("https://api.x.ai/v1", "https://docs.x.ai/api/integrations", only=("grok*",))},
        ),
        "cerebras": Entry(
            ("CEREBRAS_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.cerebras.ai/v1",
                    "https://inference-docs.cerebras.ai/resources/openai",
                    only=OPEN_WEIGHTS,
                )
            },
        ),
        "moonshot": Entry(
            ("MOONSHOT_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.moonshot.ai/v1", "https://platform.kimi.ai/docs/overview", only=("kimi*", "moonshot*")
                ),
                "anthropic": Endpoint(
                    "https://api.moonshot.ai/anthropic",
                    "https://platform.moonshot.ai/docs/guide/agent-support",
                    auth="bearer",
                    only=("kimi*",),
                    issuer="moonshot",
                ),
            },
        ),
        "zai": Entry(
            ("ZAI_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.z.ai/api/paas/v4", "https://docs.z.ai/guides/develop/openai/python", only=("glm*",)
                ),
                "anthropic": Endpoint(
                    "https://api.z.ai/api/anthropic",
                    "https://docs.z.ai/devpack/tool/claude",
                    auth="bearer",
                    only=("glm*",),
                    issuer="zai",
                ),
            },
        ),
        "minimax": Entry(
            ("MINIMAX_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.minimax.io/v1",
                    "https://platform.minimax.io/docs/api-reference/text-openai-api",
                    only=("MiniMax*",),
                ),
                "anthropic": Endpoint(
                    "https://api.minimax.io/anthropic",
                    "https://platform.minimax.io/docs/api-reference/text-anthropic-api",
                    only=("MiniMax*",),
                    issuer="minimax",
                ),
            },
        ),
        "alibaba": Entry(
            ("DASHSCOPE_API_KEY",),
            {
                "openai": Endpoint(
                    "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
                    "https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope",
                    only=("qwen*",),
                ),
                "anthropic": Endpoint(
                    "https://dashscope-intl.aliyuncs.com/apps/anthropic",
                    "https://www.alibabacloud.com/help/en/model-studio/anthropic-api-messages",
                    only=("qwen*",),
                ),
            },
        ),
        "nvidia": Entry(
            ("NVIDIA_API_KEY",),
            {"openai": Endpoint("https://integrate.api.nvidia.com/v1", "https://build.nvidia.com/", only=("*/*",))},
        ),
        "perplexity": Entry(
            ("PERPLEXITY_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.perplexity.ai",
                    "https://docs.perplexity.ai/docs/sonar/openai-compatibility",
                    only=("sonar*",),
                )
            },
        ),
        "sambanova": Entry(
            ("SAMBANOVA_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.sambanova.ai/v1",
                    "https://docs.sambanova.ai/cloud/docs/resources/glossary",
                    only=("Meta-Llama*", "Llama-*", "DeepSeek*", "Qwen*", "MiniMax*", "gemma*", "gpt-oss*"),
                )
            },
        ),
        "deepinfra": Entry(
            ("DEEPINFRA_TOKEN", "DEEPINFRA_API_KEY"),
            {
                "openai": Endpoint(
                    "https://api.deepinfra.com/v1/openai", "https://docs.deepinfra.com/chat/overview", only=("*/*",)
                )
            },
        ),
        "hyperbolic": Entry(
            ("HYPERBOLIC_API_KEY",),
            {
                "openai": Endpoint(
                    "https://api.hyperbolic.xyz/v1", "https://docs.hyperbolic.ai/inference/text-apis", only=("*/*",)
                )
            },
        ),
        "ollama": _local(
            11434,
            "https://docs.ollama.com/api/openai-compatibility",
            "https://docs.ollama.com/api/anthropic-compatibility",
        ),
        "lm-studio": _local(
            1234, "https://lmstudio.ai/docs/api/openai-api", "https://lmstudio.ai/docs/developer/anthropic-compat"
        ),
        "llama.cpp": _local(
            8080,
            "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
            "https://huggingface.co/blog/ggml-org/anthropic-messages-api-in-llamacpp",
        ),
        "vllm": _local(
            8000,
            "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
            "https://docs.vllm.ai/en/stable/serving/integrations/claude_code/",
        ),
    }
)
"""Without a configuration they are asked in this order; those with several dialects have first the one that a plain
`base_url` stands for."""

ALIASES = {
    **{f"{name}-anthropic": (name, "anthropic") for name in ("openrouter", "deepseek", "moonshot", "zai")},
    "aihubmix-gemini": ("aihubmix", "gemini"),
}
"""Earlier names of single endpoints, which stay valid: the entry, and its dialect."""


def entry_of(name: str) -> Entry | None:
    """The entry of this name; one of an earlier name has that endpoint alone."""
    if name not in ALIASES:
        return CATALOG.get(name)
    of, dialect = ALIASES[name]
    entry = CATALOG[of]
    return replace(entry, endpoints={dialect: entry.endpoints[dialect]})


def variables_of(name: str, entry: Entry) -> tuple[str, ...]:
    """The environment variables that may hold its key, the first that is set counts."""
    if not entry.env or entry.takes_key:
        return entry.env
    return (own_variable(ALIASES[name][0] if name in ALIASES else name), *entry.env)
