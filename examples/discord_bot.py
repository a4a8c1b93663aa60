"""A Discord bot that replies to `!objects` and a photo with the boxes drawn, and to `!objects names` with the names.

Needs discord.py and augu-api, without its server. Enable the "Message Content Intent" of the bot in Discord's developer
portal, set AUGU_URL, AUGU_TOKEN and DISCORD_TOKEN, and run `python examples/discord_bot.py`.
"""

import asyncio
import logging
import os
import sys
from io import BytesIO
from typing import Any, Literal

import discord
from discord.ext import commands

from augu_api.client import CallFailed, Client, InvalidPhoto

SETTINGS = {
    "AUGU_URL": "the address of the service",
    "AUGU_TOKEN": "the token for the service",
    "DISCORD_TOKEN": "the bot's token from Discord's developer portal",
}
MAX_BYTES = 25_000_000
MAX_PIXELS = 50_400_000  # anybody can post any file

Context = commands.Context[commands.Bot]
log = logging.getLogger("discord.augu")


def described(client: Client, photo: bytes) -> str:
    """The objects in the photo, in words."""
    found = client.objects(photo).objects
    return ", ".join(f"{item.name} ({item.score:.0f} %)" for item in found) or "I found nothing that I know."


async def reply(context: Context, client: Client, photo: discord.Attachment, how: str) -> None:
    """Reply to a message with the objects in its photo."""
    if photo.size > MAX_BYTES:
        await context.reply("This file is too large.")
        return
    try:
        file = await photo.read()
        if how == "names":
            await context.reply(await asyncio.to_thread(described, client, file))
        else:
            drawn = await asyncio.to_thread(client.annotated, file)
            await context.reply(file=discord.File(BytesIO(drawn), "objects.png"))
    except InvalidPhoto as error:
        await context.reply(f"I cannot open this photo. {error}")
    except CallFailed as failure:
        log.warning("%s", failure)  # its message may have the address of the service, which is not for everybody
        await context.reply(f"That did not work: {failure.error}. {failure.reasons}".rstrip())


def make_bot(client: Client, **options: Any) -> commands.Bot:
    """The bot, with a client of the service and further options of discord.py."""
    intents = discord.Intents.default()
    intents.message_content = True
    bot = commands.Bot("!", intents=intents, **options)

    @bot.command()
    async def objects(
        context: Context, photo: discord.Attachment | None, how: Literal["boxes", "names"] = "boxes"
    ) -> None:
        if photo is None:
            await context.reply("Attach a photo.")
        else:
            await reply(context, client, photo, how)

    return bot


def main() -> None:
    """Run the bot. Ends with one line if a setting is missing or wrong."""
    missing = [f"{name} to {meaning}" for name, meaning in SETTINGS.items() if not os.environ.get(name)]
    if missing:
        sys.exit(f"Set {', '.join(missing)}.")
    try:
        client = Client(os.environ["AUGU_URL"], os.environ["AUGU_TOKEN"], max_decoded=MAX_PIXELS)
        make_bot(client).run(os.environ["DISCORD_TOKEN"])
    except (ValueError, discord.LoginFailure, discord.PrivilegedIntentsRequired) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
