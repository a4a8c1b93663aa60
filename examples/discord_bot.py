"""A Discord bot that replies to `!objects` and a photo with the boxes drawn, and to `!objects names` with the names.

Needs discord.py, Pillow, and either augu-api or a copy of augu_api/client.py. Enable the "Message Content Intent" of
the bot in Discord's developer portal, set AUGU_URL, AUGU_TOKEN and DISCORD_TOKEN, and run
`python examples/discord_bot.py`.
"""

import asyncio
import os
from io import BytesIO
from typing import Any, Literal

import discord
from discord.ext import commands
from PIL import Image, ImageOps

from augu_api.client import CallFailed, Client

MAX_PIXELS = 50_000_000  # anybody can post any file
MAX_SIDE = 1280  # pixels; the PNG of a full-size photo would exceed the service's limit

Context = commands.Context[commands.Bot]


def opened(file: bytes) -> Image.Image:
    """The photo, upright and not too large."""
    image = Image.open(BytesIO(file), formats=("JPEG", "PNG", "WEBP"))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError("too many pixels")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return ImageOps.exif_transpose(image).convert("RGB")


def described(client: Client, image: Image.Image) -> str:
    """The objects in the photo, in words."""
    found = client.objects(image).objects
    return ", ".join(f"{item.name} ({item.score:.0f} %)" for item in found) or "I found nothing that I know."


async def reply(context: Context, client: Client, photo: discord.Attachment, how: str) -> None:
    """Reply to a message with the objects in its photo."""
    try:
        image = await asyncio.to_thread(opened, await photo.read())
        if how == "names":
            await context.reply(await asyncio.to_thread(described, client, image))
        else:
            drawn = await asyncio.to_thread(client.annotated, image)
            await context.reply(file=discord.File(BytesIO(drawn), "objects.png"))
    except CallFailed as failure:
        await context.reply(f"That did not work: {failure.error}.")
    except (OSError, ValueError):
        await context.reply("I cannot open this photo.")


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


if __name__ == "__main__":
    make_bot(Client(os.environ["AUGU_URL"], os.environ["AUGU_TOKEN"])).run(os.environ["DISCORD_TOKEN"])
