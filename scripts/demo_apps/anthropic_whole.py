"""A question a line in, an answer a line out, with the official anthropic SDK. It knows nothing of any proxy."""

import sys

from anthropic import Anthropic

client = Anthropic()
print("ready", flush=True)
for line in sys.stdin:
    answer = client.messages.create(
        model="claude-opus-4-6", max_tokens=200, messages=[{"role": "user", "content": line.strip()}]
    )
    print("".join(block.text for block in answer.content if block.type == "text"), flush=True)
