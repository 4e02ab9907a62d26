"""Is this provider well? Outcomes, circuits, cooldowns, what limits say.

Pure: no mitmproxy, no clock, no I/O.
"""
