"""What a baked image is called: by the hash of all that goes into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path


def image_key(base: str, packages: Sequence[str], files: Sequence[Path], inputs: dict[str, str]) -> str:
    """Of all that goes into an image: the same content is the same image, whoever asks for it."""
    content = {
        "base": base,
        "packages": sorted(set(packages)),
        "files": [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files],
        "inputs": dict(sorted(inputs.items())),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def image_name(template: str, key: str) -> str:
    return f"{template}-{key[:16]}"
