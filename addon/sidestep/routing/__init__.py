"""Which provider is asked next? Routes, the engine's knowledge, one exchange, strategies.

Pure: no mitmproxy; `now` is an argument.
"""
