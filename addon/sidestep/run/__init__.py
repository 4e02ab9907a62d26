"""`sidestep run`: a proxy of its own around one command. mitmproxy is a program here, not a library."""
