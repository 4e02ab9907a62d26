"""The API families that Sidestep speaks. It does not translate between them."""

from __future__ import annotations

from collections.abc import Mapping

from sidestep.dialects.anthropic import Anthropic
from sidestep.dialects.base import Dialect
from sidestep.dialects.gemini import Gemini
from sidestep.dialects.openai import OpenAI

DIALECTS: Mapping[str, Dialect] = {d.name: d for d in (OpenAI(), Anthropic(), Gemini())}
