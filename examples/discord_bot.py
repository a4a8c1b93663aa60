"""A Discord bot: `!objects` with a photo attached is answered with its boxes drawn, `!objects names` with their names.

Needs discord.py, Pillow, and augu-api or a copy of augu_api/client.py. Give the bot the "Message Content Intent" on
Discord's page for developers, set AUGU_URL, AUGU_TOKEN and DISCORD_TOKEN, then run `python examples/discord_bot.py`.
"""

import asyncio
import os
from io import BytesIO
from typing import Any, Literal

import discord
from discord.ext import commands
from PIL import Image, ImageOps

from augu_api.client import CallFailed, Client

MAX_PIXELS = 50_000_000  # anybody may send anything
SIDE = 1280  # pixels; the PNG of a whole photo would be larger than the service takes


def opened(file: bytes) -> Image.Image:
    """The photo as it is shown, made smaller if it is large."""
    image = Image.open(BytesIO(file), formats=("JPEG", "PNG", "WEBP"))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError("too many pixels")
    image.thumbnail((SIDE, SIDE))
    return ImageOps.exif_transpose(image).convert("RGB")


def described(client: Client, image: Image.Image) -> str:
    """What is in the photo, in words."""
    found = client.objects(image).objects
    return ", ".join(f"{item.name} ({item.score:.0f} %)" for item in found) or "Nothing that I know."


def make_bot(client: Client, **options: Any) -> commands.Bot:
    """The bot, which asks this client; the options are those of discord.py."""
    intents = discord.Intents.default()
    intents.message_content = True
    bot = commands.Bot("!", intents=intents, **options)

    @bot.command()
    async def objects(
        context: commands.Context[commands.Bot],
        photo: discord.Attachment | None,
        how: Literal["boxes", "names"] = "boxes",
    ) -> None:
        if photo is None:
            await context.reply("Attach a photo.")
            return
        try:
            image = await asyncio.to_thread(opened, await photo.read())
            if how == "names":
                await context.reply(await asyncio.to_thread(described, client, image))
            else:
                picture = await asyncio.to_thread(client.annotated, image)
                await context.reply(file=discord.File(BytesIO(picture), "objects.png"))
        except CallFailed as failure:
            await context.reply(f"Not now: {failure.error}.")
        except (OSError, ValueError):
            await context.reply("This is no photo that I can open.")

    return bot


if __name__ == "__main__":
    make_bot(Client(os.environ["AUGU_URL"], os.environ["AUGU_TOKEN"])).run(os.environ["DISCORD_TOKEN"])
