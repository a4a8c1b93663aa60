"""Examples that operations share. Tests send each request as it is, and compare each reply with the service's."""

import base64
from pathlib import Path

from augu_api.web.envelope import FULL, Failure

SIGN = base64.b64encode(Path(__file__).with_name("assets").joinpath("sign.png").read_bytes()).decode()
SIGN_FILE = {"sign": {"externalValue": "assets/sign.png"}}

TOKEN = {"token": Failure(401)}
BAN = {
    "ban": Failure(403, message="You are banned."),
    "ban for a while": Failure(403, message="You are banned for another 412 seconds."),
}
FLAGS = {
    "flags": Failure(
        403,
        message="You do not have the flag required to access this endpoint. "
        "Please refer to the documentation at http://localhost/docs for more information.",
        details={
            "flags": ["Missing: IMAGES_OBJECTS, EXPERIMENTAL. The operator of this service can grant what is missing."]
        },
    )
}
QUOTA = {"quota": Failure(429, message="You have made too many requests. Please wait 42 seconds.")}
ADMISSION = {"admission": FULL}
UNAVAILABLE = {"unavailable": Failure(503)}
