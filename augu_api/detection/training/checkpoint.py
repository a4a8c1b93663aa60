"""The file from which an interrupted training run resumes."""

from pathlib import Path
from typing import Any

import torch

CHECKPOINT = "checkpoint.pth"


def save(content: dict[str, Any], path: Path) -> None:
    """Write the file; an interruption leaves the old one."""
    part = path.with_name(f"{path.name}.part")
    torch.save(content, part)
    part.replace(path)


def resume(path: Path, parts: dict[str, Any], device: torch.device) -> int:
    """Give each part its saved state, and return the step after which it was saved; 0 if there is no file."""
    if not path.exists():
        return 0
    saved = torch.load(path, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])
