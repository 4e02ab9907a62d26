"""A question a line in, an answer a line out as it is generated, with the official openai SDK."""

import sys

from openai import OpenAI

client = OpenAI()
print("ready", flush=True)
for line in sys.stdin:
    messages = [{"role": "user", "content": line.strip()}]
    for chunk in client.chat.completions.create(model="gpt-4o", messages=messages, stream=True):
        for choice in chunk.choices:
            print(choice.delta.content or "", end="")
    print(flush=True)
