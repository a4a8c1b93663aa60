"""A client with curl: a process for each connection. It asks for "100 Continue" before it sends 1 MB or more."""

import subprocess

from tests.strangers.task import TIMEOUT, Task


def main() -> None:
    """Make the requests and print what came of them."""
    task = Task.given()

    def connection(number: int) -> None:
        same = ["silent", f'url = "{task.url}"', f'data-binary = "@{task.body_file}"', f"max-time = {TIMEOUT}"]
        same += ['output = "/dev/null"', r'write-out = "%{http_code} %{exitcode}\n"']
        each = [
            "\n".join([*same, *(f'header = "{name}: {value}"' for name, value in headers.items())])
            for headers in task.headers(number)
        ]
        command = ["curl", "--config", "-"]
        done = subprocess.run(command, input="\nnext\n".join(each), capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            status, exit_code = line.split()
            if exit_code == "0":
                task.answered(int(status))
            else:
                task.unanswered(f"exit code {exit_code}")

    task.on_threads(connection)


if __name__ == "__main__":
    main()
