"""What well-known models are called, and what other providers call them, as data.

Pure. On the left is what apps ask for, as globs; `*` on the right stands for what the glob's own stood for.
"""

from __future__ import annotations

OPENAI_FAMILIES = ("gpt-*", "chatgpt-*", "o1*", "o3*", "o4*")

_CLAUDE_FAMILIES = ("opus", "sonnet", "haiku", "fable", "mythos")
_CLAUDE_MINORS = ((4, 1), (4, 5), (4, 6), (4, 7), (4, 8), (5, 1), (5, 2), (5, 5))

# OpenRouter writes a version with a dot and without a date: claude-opus-4-1-20250805 is anthropic/claude-opus-4.1.
OPENROUTER_CLAUDE = (
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
OPENROUTER_MODELS = (
    *((glob, "openai/" + glob.replace("*", "") + "*") for glob in OPENAI_FAMILIES),
    *OPENROUTER_CLAUDE,
    *((f"gemini-2.0-{kind}", f"google/gemini-2.0-{kind}-001") for kind in ("flash", "flash-lite")),
    *((f"gemini-1.5-{kind}", f"google/gemini-{kind}-1.5") for kind in ("flash", "pro")),
    ("gemini-*", "google/gemini-*"),
)

# Open weights have no common names: these are the families' own, and `maker/model` as on Hugging Face.
OPEN_WEIGHTS = ("*/*", "llama*", "qwen*", "deepseek*", "mixtral*", "gemma*", "kimi*", "gpt-oss*")

CHAT_FAMILIES = (*OPENAI_FAMILIES, "codex-*", "claude-*", "gemini-*")
"""Models that talk, as the official APIs call them. Where one cannot be had another one may do."""
