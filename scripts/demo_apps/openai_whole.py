"""A question a line in, an answer a line out, with the official openai SDK. It knows nothing of any proxy."""

import sys

from openai import OpenAI

client = OpenAI()
print("ready", flush=True)
for line in sys.stdin:
    answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": line.strip()}])
    print(answer.choices[0].message.content, flush=True)
