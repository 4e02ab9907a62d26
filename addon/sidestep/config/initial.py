"""Writes a first configuration from the keys that are in the environment.

Pure: no I/O; the keys' names appear in it, never the keys.
"""

from __future__ import annotations

from collections.abc import Mapping

from sidestep.config import catalog, keys

_HEAD = """\
# Where calls to LLM APIs may go. `sidestep check` says whether this file is good, `sidestep explain URL` where a call
# would go; a running proxy reads it again when it changes.

mode = "enforce"                # "observe": only look on and say what would be done; "off"
"""

_TAIL = """
# A provider that is not in the catalog (`sidestep providers`):
# [[providers]]
# name = "azure-east"
# dialect = "openai"            # or "anthropic", "gemini": what its API speaks
# base_url = "https://example.openai.azure.com/openai/v1"
# api_key = "${AZURE_KEY}"      # from the environment
# auth = "api-key"              # default: the dialect's own header
# models = { "gpt-4o" = "my-gpt4o" }

# Without routes each dialect has one: calls to its official address go to its providers in the order of this file.
# [[routes]]
# intercept = ["https://api.openai.com/v1"]
# providers = ["openai", "azure-east"]
# strategy = "priority"         # "weighted", "cheapest", "fastest"

[circuit]
failure_threshold = 3           # failures in a row that open a provider's circuit
open_seconds = 15               # until it is tried again

[attempts]
max = 6                         # for one request, over all providers
total_seconds = 600             # until something must have reached the app

[timeouts]
connect = 5
first_byte = 60
first_content = 300
idle = 60
"""


def configuration(env: Mapping[str, str]) -> str:
    """The text of a configuration: each dialect's own provider with the app's own credential, then all whose keys are
    set."""
    parts = [_HEAD]
    for dialect in catalog.OFFICIAL:
        others = [
            (name, variable)
            for name, entry in catalog.CATALOG.items()
            if entry.dialect == dialect and name not in catalog.OFFICIAL
            if (variable := next((v for v in entry.env if keys.is_set(env, v) and _can_be_sent(env[v])), None))
            is not None
        ]
        own = catalog.OFFICIAL[dialect]
        parts.append(f"\n# --- calls to {own}\n")
        parts.append(f'\n[[providers]]\nname = "{dialect}"{" " * max(1, 24 - len(dialect))}# with the app\'s own key\n')
        for name, variable in others:
            parts.append(f'\n[[providers]]\nname = "{name}"\napi_key = "${{{variable}}}"\n')
        if not others:
            names = [
                f"{name} ({' or '.join(entry.env)})"
                for name, entry in catalog.CATALOG.items()
                if entry.dialect == dialect and entry.env and name not in catalog.OFFICIAL
            ]
            parts.append("# No key for another one is set. Some that could stand in: " + ", ".join(names[:4]) + "\n")
    parts.append(_TAIL)
    return "".join(parts)


def _can_be_sent(key: str) -> bool:
    """Whether a key fits into a header: others would make the file one that does not pass its check."""
    return key.strip().isascii() and key.strip().isprintable()
