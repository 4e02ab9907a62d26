"""The content view `LLM`: a request or an answer of any dialect as a conversation, in mitmweb and mitmproxy."""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.contentviews import Contentview, Metadata

from sidestep.dialects.transcript import read

LARGE = 4 << 20
"""Chosen by itself only for bodies up to this size (bytes): it reads all of them."""


class LLM(Contentview):
    """Chosen by itself for what Sidestep has routed."""

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        found = read(data)
        if found is None:
            raise ValueError("no call to an LLM and no answer of one")
        return str(found)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        routed = metadata.flow is not None and "sidestep" in metadata.flow.metadata
        whole = isinstance(metadata.http_message, http.Message) and 0 < len(data) <= LARGE
        return 2.0 if routed and whole and read(data) is not None else -1.0
