"""What was wished? Settings, the file that they come from, the catalog of providers. No mitmproxy."""
