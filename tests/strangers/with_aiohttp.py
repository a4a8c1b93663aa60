"""A client with aiohttp: one ClientSession for all connections."""

import asyncio

import aiohttp

from tests.strangers.task import CONNECTIONS, TIMEOUT, Task


async def main() -> None:
    """Make the requests and print what came of them."""
    task = Task.given()
    body = await asyncio.to_thread(task.body_file.read_bytes)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT)) as session:

        async def connection(number: int) -> None:
            for headers in task.headers(number):
                try:
                    async with session.post(task.url, data=body, headers=headers) as response:
                        await response.read()
                        task.answered(response.status)
                except (aiohttp.ClientError, TimeoutError) as error:
                    task.unanswered(error)

        await asyncio.gather(*(connection(number) for number in range(CONNECTIONS)))
    task.print()


if __name__ == "__main__":
    asyncio.run(main())
