"""A question a line in, an answer a line out as it is generated, with the official anthropic SDK."""

import sys

from anthropic import Anthropic

client = Anthropic()
print("ready", flush=True)
for line in sys.stdin:
    with client.messages.stream(
        model="claude-opus-4-6", max_tokens=200, messages=[{"role": "user", "content": line.strip()}]
    ) as stream:
        for text in stream.text_stream:
            print(text, end="")
    print(flush=True)
