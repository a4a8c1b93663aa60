"""`augu-api doctor`."""

import sys

import click

from augu_api.operating.cli.output import json_option, print_rows
from augu_api.operating.doctor import State, examine


@click.command("doctor")
@json_option
def doctor(*, as_json: bool) -> None:
    """Check this installation and say how to fix what is wrong; exits with 1 if there is a problem.

    Creates and changes nothing. Run it as the user that runs the service, with the same environment.
    """
    findings = list(examine())
    print_rows([finding._asdict() for finding in findings], as_json=as_json)
    if any(finding.state == State.PROBLEM for finding in findings):
        sys.exit(1)
