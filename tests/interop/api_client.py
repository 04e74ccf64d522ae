"""Asks by OpenAI's and Anthropic's own clients, which know of nothing but a base URL and a key. Prints what came of it."""

import json
import sys

import anthropic
import openai

base, key = sys.argv[1], sys.argv[2]
told = {}

client = openai.OpenAI(base_url=f"{base}/v1", api_key=key)
asked = {"model": "toy", "messages": [{"role": "user", "content": "hello"}]}
answer = client.chat.completions.create(**asked)
told["openai"] = answer.choices[0].message.content
pieces = client.chat.completions.create(**asked, stream=True)
told["openai_stream"] = [piece.choices[0].delta.content for piece in pieces]
told["openai_models"] = [model.id for model in client.models.list()]

client2 = anthropic.Anthropic(base_url=base, api_key=key)
asked2 = {"model": "toy", "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]}
told["anthropic"] = client2.messages.create(**asked2).content[0].text
with client2.messages.stream(**asked2) as stream:
    told["anthropic_stream"] = list(stream.text_stream)

for name, ask in {
    "openai_refused": lambda: client.files.list(),
    "openai_unknown": lambda: openai.OpenAI(base_url=f"{base}/v1", api_key="x" * 40).models.list(),
    "anthropic_refused": lambda: client2.beta.files.list(),
    "anthropic_unknown": lambda: anthropic.Anthropic(base_url=base, api_key="x" * 40).messages.create(**asked2),
}.items():
    try:
        ask()
        told[name] = "answered"
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        told[name] = [type(error).__name__, error.status_code, error.body]

print(json.dumps(told))
