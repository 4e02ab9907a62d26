"""What `mitmdump -s addon/main.py` loads. Everything is in the package beside this file."""

from sidestep import Sidestep

addons = [Sidestep()]
