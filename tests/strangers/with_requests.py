"""A client with requests: a Session for each connection."""

import requests

from tests.strangers.task import TIMEOUT, Task


def main() -> None:
    """Make the requests and print what came of them."""
    task = Task.given()
    body = task.body_file.read_bytes()

    def connection(number: int) -> None:
        with requests.Session() as session:
            for headers in task.headers(number):
                try:
                    task.answered(session.post(task.url, data=body, headers=headers, timeout=TIMEOUT).status_code)
                except requests.RequestException as error:
                    task.unanswered(error)

    task.on_threads(connection)


if __name__ == "__main__":
    main()
