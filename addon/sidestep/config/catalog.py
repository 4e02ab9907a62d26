"""The built-in catalog: base URLs, keys and model names of well-known providers, as data.

Pure: no environment, no I/O, no choice of a provider to ask. Each entry names the page of the provider's own
documentation that states its base URL and how it takes a key.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

OFFICIAL = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}
"""The base URL that each dialect's official SDK calls by default."""

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
    ("openai", "api.openai.com", "openai"),
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


_NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Entry:
    """One provider. `env`: names of the environment variables with its key, the first that is set counts.

    `models` and `only` are as in the configuration: what is asked for → what it is called here, and what it may be
    asked for at all. An empty `auth` is the dialect's. A local one has no `env` and is never added by itself.
    """

    dialect: str
    base_url: str
    env: tuple[str, ...]
    source: str
    auth: str = ""
    models: tuple[tuple[str, str], ...] = ()
    only: tuple[str, ...] | None = None
    issuer: str | None = None
    context_window: Mapping[str, int] = field(default=_NONE)


_OPENAI_FAMILIES = ("gpt-*", "chatgpt-*", "o1*", "o3*", "o4*")

_CLAUDE_FAMILIES = ("opus", "sonnet", "haiku", "fable", "mythos")
_CLAUDE_MINORS = ((4, 1), (4, 5), (4, 6), (4, 7), (4, 8), (5, 1), (5, 2), (5, 5))

# OpenRouter writes a version with a dot and without a date: claude-opus-4-1-20250805 is anthropic/claude-opus-4.1.
_OPENROUTER_CLAUDE = (
    *((f"claude-3-{v}-sonnet*", f"anthropic/claude-3.{v}-sonnet") for v in (7, 5)),
    ("claude-3-5-haiku*", "anthropic/claude-3.5-haiku"),
    *((f"claude-3-{family}*", f"anthropic/claude-3-{family}") for family in ("opus", "sonnet", "haiku")),
    *(
        (f"claude-{family}-{major}-{rest}", f"anthropic/claude-{family}-{major}")
        for family in _CLAUDE_FAMILIES
        for major in (4, 5)
        for rest in ("0", "20*", "latest")
    ),
    *(
        (f"claude-{family}-{major}-{minor}{rest}", f"anthropic/claude-{family}-{major}.{minor}")
        for family in _CLAUDE_FAMILIES
        for major, minor in _CLAUDE_MINORS
        for rest in ("-20*", "-latest")
    ),
    *(
        (f"claude-{family}-{major}-*", f"anthropic/claude-{family}-{major}.*")
        for family in _CLAUDE_FAMILIES
        for major in (4, 5)
    ),
    ("claude-*", "anthropic/claude-*"),
)
_OPENROUTER_MODELS = (
    *((glob, "openai/" + glob.replace("*", "") + "*") for glob in _OPENAI_FAMILIES),
    *_OPENROUTER_CLAUDE,
    *((f"gemini-2.0-{kind}", f"google/gemini-2.0-{kind}-001") for kind in ("flash", "flash-lite")),
    *((f"gemini-1.5-{kind}", f"google/gemini-{kind}-1.5") for kind in ("flash", "pro")),
    ("gemini-*", "google/gemini-*"),
)

# Open weights have no common names: these are the families' own, and `maker/model` as on Hugging Face.
_OPEN_WEIGHTS = ("*/*", "llama*", "qwen*", "deepseek*", "mixtral*", "gemma*", "kimi*", "gpt-oss*")

CATALOG: dict[str, Entry] = {
    "openai": Entry(
        "openai", OFFICIAL["openai"], ("OPENAI_API_KEY",), "https://platform.openai.com/docs/api-reference"
    ),
    "anthropic": Entry(
        "anthropic",
        OFFICIAL["anthropic"],
        ("ANTHROPIC_API_KEY",),
        "https://platform.claude.com/docs/en/api/overview",
        issuer="anthropic",
    ),
    "gemini": Entry(
        "gemini",
        OFFICIAL["gemini"],
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "https://ai.google.dev/gemini-api/docs/api-key",
        issuer="google",
    ),
    "openrouter": Entry(
        "openai",
        "https://openrouter.ai/api/v1",
        ("OPENROUTER_API_KEY",),
        "https://openrouter.ai/docs/quickstart",
        models=_OPENROUTER_MODELS,
        only=(*_OPENAI_FAMILIES, "claude-*", "gemini-*", "*/*"),
    ),
    "openrouter-anthropic": Entry(
        "anthropic",
        "https://openrouter.ai/api",
        ("OPENROUTER_API_KEY",),
        "https://openrouter.ai/docs/guides/coding-agents/claude-code-integration",
        auth="bearer",
        models=_OPENROUTER_CLAUDE,
        only=("claude-*", "*/*"),
        issuer="anthropic",
    ),
    "groq": Entry(
        "openai",
        "https://api.groq.com/openai/v1",
        ("GROQ_API_KEY",),
        "https://console.groq.com/docs/openai",
        only=(*_OPEN_WEIGHTS, "whisper-large*"),
    ),
    "together": Entry(
        "openai",
        "https://api.together.ai/v1",
        ("TOGETHER_API_KEY",),
        "https://docs.together.ai/docs/inference/openai-compatibility",
        only=("*/*",),
    ),
    "fireworks": Entry(
        "openai",
        "https://api.fireworks.ai/inference/v1",
        ("FIREWORKS_API_KEY",),
        "https://docs.fireworks.ai/tools-sdks/openai-compatibility",
        only=("accounts/*",),
    ),
    "deepseek": Entry(
        "openai",
        "https://api.deepseek.com",
        ("DEEPSEEK_API_KEY",),
        "https://api-docs.deepseek.com/",
        only=("deepseek*",),
    ),
    "deepseek-anthropic": Entry(
        "anthropic",
        "https://api.deepseek.com/anthropic",
        ("DEEPSEEK_API_KEY",),
        "https://api-docs.deepseek.com/guides/anthropic_api",
        # It takes claude-* too, and answers with a model of its own: whoever wants that says so in `only`.
        only=("deepseek*",),
        issuer="deepseek",
    ),
    "mistral": Entry(
        "openai",
        "https://api.mistral.ai/v1",
        ("MISTRAL_API_KEY",),
        "https://docs.mistral.ai/api",
        only=(
            "mistral*",
            "ministral*",
            "codestral*",
            "magistral*",
            "devstral*",
            "pixtral*",
            "open-mi*",
            "voxtral*",
        ),
    ),
    "gemini-openai": Entry(
        "openai",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "https://ai.google.dev/gemini-api/docs/openai",
        only=("gemini*", "gemma*"),
    ),
    "vertex": Entry(
        # In express mode, the one that takes a key. What it calls its paths is the dialect's business.
        "gemini",
        "https://aiplatform.googleapis.com",
        ("GOOGLE_VERTEX_API_KEY", "VERTEX_API_KEY"),
        "https://cloud.google.com/vertex-ai/generative-ai/docs/start/express-mode/vertex-ai-express-mode-api-reference",
        only=("gemini-[0-9]*",),
        issuer="google-vertex",
    ),
    "aihubmix-gemini": Entry(
        "gemini",
        "https://aihubmix.com/gemini",
        ("AIHUBMIX_API_KEY",),
        "https://docs.aihubmix.com/en/api/Gemini-Guides",
        only=("gemini*",),
    ),
    "anthropic-openai": Entry(
        "openai",
        "https://api.anthropic.com/v1",
        ("ANTHROPIC_API_KEY",),
        "https://platform.claude.com/docs/cli-sdks-libraries/libraries/openai-sdk",
        only=("claude*",),
    ),
    "xai": Entry(
        "openai",
        "https://api.x.ai/v1",
        ("XAI_API_KEY",),
        "https://docs.x.ai/api/integrations",
        only=("grok*",),
    ),
    "cerebras": Entry(
        "openai",
        "https://api.cerebras.ai/v1",
        ("CEREBRAS_API_KEY",),
        "https://inference-docs.cerebras.ai/resources/openai",
        only=_OPEN_WEIGHTS,
    ),
    "moonshot": Entry(
        "openai",
        "https://api.moonshot.ai/v1",
        ("MOONSHOT_API_KEY",),
        "https://platform.kimi.ai/docs/overview",
        only=("kimi*", "moonshot*"),
    ),
    "moonshot-anthropic": Entry(
        "anthropic",
        "https://api.moonshot.ai/anthropic",
        ("MOONSHOT_API_KEY",),
        "https://platform.moonshot.ai/docs/guide/agent-support",
        auth="bearer",
        only=("kimi*",),
        issuer="moonshot",
    ),
    "zai": Entry(
        "openai",
        "https://api.z.ai/api/paas/v4",
        ("ZAI_API_KEY",),
        "https://docs.z.ai/guides/develop/openai/python",
        only=("glm*",),
    ),
    "zai-anthropic": Entry(
        "anthropic",
        "https://api.z.ai/api/anthropic",
        ("ZAI_API_KEY",),
        "https://docs.z.ai/devpack/tool/claude",
        auth="bearer",
        only=("glm*",),
        issuer="zai",
    ),
    "nvidia": Entry(
        "openai",
        "https://integrate.api.nvidia.com/v1",
        ("NVIDIA_API_KEY",),
        "https://build.nvidia.com/",
        only=("*/*",),
    ),
    "perplexity": Entry(
        "openai",
        "https://api.perplexity.ai",
        ("PERPLEXITY_API_KEY",),
        "https://docs.perplexity.ai/docs/sonar/openai-compatibility",
        only=("sonar*",),
    ),
    "sambanova": Entry(
        "openai",
        "https://api.sambanova.ai/v1",
        ("SAMBANOVA_API_KEY",),
        "https://docs.sambanova.ai/cloud/docs/resources/glossary",
        only=("Meta-Llama*", "Llama-*", "DeepSeek*", "Qwen*", "MiniMax*", "gemma*", "gpt-oss*"),
    ),
    "deepinfra": Entry(
        "openai",
        "https://api.deepinfra.com/v1/openai",
        ("DEEPINFRA_TOKEN", "DEEPINFRA_API_KEY"),
        "https://docs.deepinfra.com/chat/overview",
        only=("*/*",),
    ),
    "hyperbolic": Entry(
        "openai",
        "https://api.hyperbolic.xyz/v1",
        ("HYPERBOLIC_API_KEY",),
        "https://docs.hyperbolic.ai/inference/text-apis",
        only=("*/*",),
    ),
    "ollama": Entry(
        "openai",
        "http://localhost:11434/v1",
        (),
        "https://docs.ollama.com/api/openai-compatibility",
        auth="none",
    ),
    "vllm": Entry(
        "openai",
        "http://localhost:8000/v1",
        (),
        "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
        auth="none",
    ),
    "lm-studio": Entry(
        "openai",
        "http://localhost:1234/v1",
        (),
        "https://lmstudio.ai/docs/api/openai-api",
        auth="none",
    ),
}
