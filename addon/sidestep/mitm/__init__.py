"""What do we know of mitmproxy's inside? The only folder that touches it: open this at an upgrade."""
