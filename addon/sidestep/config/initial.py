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
local = true                    # servers of this machine that answer (Ollama, LM Studio, llama.cpp, vLLM), asked last

# A name from the catalog (`sidestep providers`) fills in all the rest, for each dialect that the provider speaks.
"""

_TAIL = """
# A provider that is not in the catalog:
# [[providers]]
# name = "azure-east"
# dialect = "openai"            # or "anthropic", "gemini": what its API speaks
# base_url = "https://example.openai.azure.com/openai/v1"   # or one a dialect: base_urls = { openai = "…" }
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
    set, in every dialect that they speak."""
    parts = [_HEAD]
    for name, base in (*catalog.OFFICIAL.items(), *((plan, base) for plan, (_, base) in catalog.PLANS.items())):
        own = "key" if name in catalog.OFFICIAL else "plan"
        parts.append(
            f'\n[[providers]]\nname = "{name}"{" " * (18 - len(name))}# calls to {base}, with the app\'s own {own}\n'
        )
    keyed: set[str] = set()
    for name, entry in catalog.CATALOG.items():
        variable = keys.variable_of(name, entry, env)
        if name in catalog.OFFICIAL or variable is None or not _can_be_sent(env[variable]):
            continue
        keyed.update(entry.endpoints)
        parts.append(f'\n[[providers]]\nname = "{name}"{" " * max(1, 18 - len(name))}# {", ".join(entry.endpoints)}\n')
        parts.append(f'api_key = "${{{variable}}}"\n')
    for dialect in catalog.OFFICIAL:
        if dialect not in keyed:
            names = [
                f"{name} ({' or '.join(entry.env)})"
                for name, entry in catalog.CATALOG.items()
                if dialect in entry.endpoints and entry.env and name not in catalog.OFFICIAL
            ]
            parts.append(
                f"\n# No key of another {dialect} provider is set. Some that could stand in: {', '.join(names[:4])}\n"
            )
    parts.append(_TAIL)
    return "".join(parts)


def _can_be_sent(key: str) -> bool:
    """Whether a key fits into a header: others would make the file one that does not pass its check."""
    return key.strip().isascii() and key.strip().isprintable()
