"""A question a line in, an answer a line out as it is generated, with the official openai SDK."""

import sys

from openai import OpenAI

client = OpenAI()
print("ready", flush=True)
for line in sys.stdin:
    chunks = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": line.strip()}], stream=True
    )
    for chunk in chunks:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="")
    print(flush=True)
