"""A client with httpx: one Client for all connections."""

import httpx

from tests.strangers.task import TIMEOUT, Task


def main() -> None:
    """Make the requests and print what came of them."""
    task = Task.given()
    body = task.body_file.read_bytes()
    with httpx.Client(timeout=TIMEOUT) as client:

        def connection(number: int) -> None:
            for headers in task.headers(number):
                try:
                    task.answered(client.post(task.url, content=body, headers=headers).status_code)
                except httpx.HTTPError as error:
                    task.unanswered(error)

        task.on_threads(connection)


if __name__ == "__main__":
    main()
