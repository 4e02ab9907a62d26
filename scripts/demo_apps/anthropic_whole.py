"""A question a line in, an answer a line out, with the official anthropic SDK. It knows nothing of any proxy."""

import sys

from anthropic import Anthropic

client = Anthropic()
print("ready", flush=True)
for line in sys.stdin:
    messages = [{"role": "user", "content": line.strip()}]
    answer = client.messages.create(model="claude-opus-4-6", max_tokens=200, messages=messages)
    print(answer.content[0].text, flush=True)
