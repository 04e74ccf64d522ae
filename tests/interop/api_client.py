"""Asks by OpenAI's and Anthropic's own clients, which know of nothing but a base URL and a key. Prints what came of it."""

import json
import os
import sys

import anthropic
import openai

base, key = sys.argv[1], sys.argv[2]
# The URL of a proxy whose password is nobody's, for those who come through one: they show nothing else.
other_proxy = sys.argv[3] if len(sys.argv) > 3 else None
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



def of_nobody(ask):
    if other_proxy:
        os.environ["HTTPS_PROXY"] = os.environ["https_proxy"] = other_proxy
    return ask()


for name, ask in {
    "openai_refused": lambda: client.files.list(),
    "anthropic_refused": lambda: client2.beta.files.list(),
    "openai_unknown": lambda: of_nobody(
        lambda: openai.OpenAI(base_url=f"{base}/v1", api_key="x" * 40, max_retries=0).models.list()
    ),
    "anthropic_unknown": lambda: of_nobody(
        lambda: anthropic.Anthropic(base_url=base, api_key="x" * 40, max_retries=0).messages.create(**asked2)
    ),
}.items():
    try:
        ask()
        told[name] = "answered"
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        told[name] = [type(error).__name__, error.status_code, error.body]
    except (openai.APIConnectionError, anthropic.APIConnectionError) as error:
        told[name] = [type(error).__name__, str(error.__cause__)]

print(json.dumps(told))
