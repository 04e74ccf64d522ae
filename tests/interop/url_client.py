"""Asks by clients of others that put their key in the path (Telegram's bots) or in the query (Google Maps). Prints what came of it."""

import asyncio
import json
import sys

import googlemaps
import telegram

base, key, place = sys.argv[1:]


async def bot(token, ask):
    async with telegram.Bot(token=token, base_url=f"{base}/bot") as it:
        return await ask(it)


def maps(key):
    return googlemaps.Client(key=key, base_url=base)


asks = {
    "path": {
        "asked": lambda: asyncio.run(bot(key, lambda it: it.get_me())).username,
        "refused": lambda: asyncio.run(bot(key, lambda it: it.get_webhook_info())).url,
        "unknown": lambda: asyncio.run(bot("AIza" + "x" * 30, lambda it: it.get_me())).username,
    },
    "query": {
        "asked": lambda: maps(key).geocode("Carfax, Oxford")[0]["place_id"],
        "refused": lambda: maps(key).elevation((1, 2)),
        "unknown": lambda: maps("AIza" + "x" * 30).geocode("Carfax, Oxford"),
    },
}
told = {}
for name, ask in asks[place].items():
    try:
        told[name] = ask()
    except (telegram.error.TelegramError, googlemaps.exceptions.HTTPError) as error:
        told[name] = [type(error).__name__, str(error)]
print(json.dumps(told))
