"""Download the weights of a published model."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from augu_api.detection import ModelUnavailable
from augu_api.detection.catalogue import Model, sha256_of

TIMEOUT = 30  # seconds without a byte
BLOCK = 1 << 20

Progress = Callable[[int, int], None]
"""Called after each block with the bytes so far and in all."""


def pull(model: Model, base_url: str, progress: Progress) -> None:
    """Download the weights of `model` from `base_url`, resuming a broken download.

    The file gets its name only when it is complete and its sha256 is right. Raises ModelUnavailable.
    """
    model.folder.mkdir(parents=True, exist_ok=True)
    part = model.weights.with_name(f"{model.file}.part")
    try:
        _download(f"{base_url}/{model.file}", part, progress)
    except (OSError, http.client.HTTPException) as error:
        raise ModelUnavailable(
            f"{base_url}/{model.file} could not be downloaded: {error}. Run the command again to resume, "
            f"or download the file by other means and put it at {model.weights}"
        ) from error
    if not sha256_of(part).startswith(model.sha256):
        part.unlink()
        raise ModelUnavailable(f"{base_url} returned a different file: its sha256 does not start with {model.sha256}.")
    part.replace(model.weights)


def _download(url: str, part: Path, progress: Progress) -> None:
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"})  # noqa: S310 - http(s) by Settings
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310 - http(s) by Settings  # nosec B310
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing is left to send
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        there = file.tell()
        total = there + int(response.headers.get("Content-Length") or 0)
        while block := response.read(BLOCK):
            file.write(block)
            there += len(block)
            progress(there, total)
    if there < total:
        raise OSError("the connection broke")
