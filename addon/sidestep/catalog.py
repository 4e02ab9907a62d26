"""The built-in catalog: base URLs, keys and model names of well-known providers, as data.

Pure. Each entry names the page of the provider's own documentation that it was read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OFFICIAL = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}
"""The base URL that each dialect's official SDK calls by default."""

AUTH_BY_DIALECT = {"openai": "bearer", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One provider. `env`: names of the environment variables with its key, the first that is set counts."""

    dialect: str
    base_url: str
    env: tuple[str, ...]
    source: str
    auth: str = ""
    models: tuple[tuple[str, str], ...] = ()
    only: tuple[str, ...] | None = None
    issuer: str | None = None
    context_window: Mapping[str, int] = field(default_factory=dict)


_OPENAI_FAMILIES = ("gpt-*", "chatgpt-*", "o1*", "o3*", "o4*")

_OPENROUTER_MODELS = tuple((glob, "openai/" + glob.replace("*", "*")) for glob in _OPENAI_FAMILIES)

_OPENROUTER_CLAUDE = (
    ("claude-opus-4-1*", "anthropic/claude-opus-4.1"),
    ("claude-opus-4-5*", "anthropic/claude-opus-4.5"),
    ("claude-sonnet-4-5*", "anthropic/claude-sonnet-4.5"),
    ("claude-haiku-4-5*", "anthropic/claude-haiku-4.5"),
    ("claude-3-7-sonnet*", "anthropic/claude-3.7-sonnet"),
    ("claude-3-5-sonnet*", "anthropic/claude-3.5-sonnet"),
    ("claude-3-5-haiku*", "anthropic/claude-3.5-haiku"),
    ("claude-opus-4-0", "anthropic/claude-opus-4"),
    ("claude-opus-4-2*", "anthropic/claude-opus-4"),
    ("claude-sonnet-4-0", "anthropic/claude-sonnet-4"),
    ("claude-sonnet-4-2*", "anthropic/claude-sonnet-4"),
    ("claude-*", "anthropic/claude-*"),
)

# A provider that does not serve OpenAI's own models is asked for its own kinds only.
_OPEN_WEIGHTS = (
    "*/*",
    "llama*",
    "meta-llama*",
    "qwen*",
    "deepseek*",
    "mixtral*",
    "gemma*",
    "kimi*",
    "gpt-oss*",
)

CATALOG: dict[str, Entry] = {
    "openai": Entry(
        "openai", OFFICIAL["openai"], ("OPENAI_API_KEY",), "https://platform.openai.com/docs/api-reference"
    ),
    "anthropic": Entry(
        "anthropic",
        OFFICIAL["anthropic"],
        ("ANTHROPIC_API_KEY",),
        "https://docs.claude.com/en/api/overview",
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
        models=(*_OPENROUTER_MODELS, *_OPENROUTER_CLAUDE, ("gemini-*", "google/gemini-*")),
    ),
    "openrouter-anthropic": Entry(
        "anthropic",
        "https://openrouter.ai/api",
        ("OPENROUTER_API_KEY",),
        "https://openrouter.ai/docs/guides/guides/claude-code-integration",
        auth="bearer",
        models=_OPENROUTER_CLAUDE,
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
        "https://api.together.xyz/v1",
        ("TOGETHER_API_KEY",),
        "https://docs.together.ai/docs/openai-api-compatibility",
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
        "https://api.deepseek.com/v1",
        ("DEEPSEEK_API_KEY",),
        "https://api-docs.deepseek.com/",
        only=("deepseek*",),
    ),
    "deepseek-anthropic": Entry(
        "anthropic",
        "https://api.deepseek.com/anthropic",
        ("DEEPSEEK_API_KEY",),
        "https://api-docs.deepseek.com/guides/anthropic_api",
        only=("deepseek*",),
    ),
    "mistral": Entry(
        "openai",
        "https://api.mistral.ai/v1",
        ("MISTRAL_API_KEY",),
        "https://docs.mistral.ai/api/",
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
    "anthropic-openai": Entry(
        "openai",
        "https://api.anthropic.com/v1",
        ("ANTHROPIC_API_KEY",),
        "https://docs.claude.com/en/api/openai-sdk",
        only=("claude*",),
    ),
    "xai": Entry(
        "openai",
        "https://api.x.ai/v1",
        ("XAI_API_KEY",),
        "https://docs.x.ai/docs/api-reference",
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
        "https://platform.moonshot.ai/docs/introduction",
        only=("kimi*", "moonshot*"),
    ),
    "moonshot-anthropic": Entry(
        "anthropic",
        "https://api.moonshot.ai/anthropic",
        ("MOONSHOT_API_KEY",),
        "https://platform.moonshot.ai/docs/guide/agent-support",
        auth="bearer",
        only=("kimi*",),
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
        "https://lmstudio.ai/docs/app/api/endpoints/openai",
        auth="none",
    ),
}
