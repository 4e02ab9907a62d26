"""What happens to one call? mitmproxy's public API only."""
