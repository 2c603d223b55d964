"""The controller's log: one readable line per event, secrets masked, rotated."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

MASK = "•••"
SHORTEST_LINE = 16  # letters; of a value with several lines, such as a key: each line is a secret of its own
FILE_BYTES = 5_000_000
FILES_KEPT = 5


class Secrets:
    """Clear values this process has handled; whatever is logged loses them."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def remember(self, value: str) -> None:
        if len(value) >= 6:  # shorter ones would mask ordinary words
            self._values.add(value)
        self._values.update(line for line in value.splitlines() if len(line) >= SHORTEST_LINE)

    def masked(self, text: str) -> str:
        for value in self._values:
            if value in text:
                text = text.replace(value, MASK)
        return text


class MaskingFormatter(logging.Formatter):
    def __init__(self, secrets: Secrets) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return self._secrets.masked(super().format(record))


def start_logging(folder: Path, secrets: Secrets) -> None:
    """From now on everything goes to `controller.log` and to standard error."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    formatter = MaskingFormatter(secrets)
    to_file = logging.handlers.RotatingFileHandler(
        folder / "controller.log", maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8"
    )
    handlers: list[logging.Handler] = [to_file, logging.StreamHandler()]
    root = logging.getLogger()
    root.handlers.clear()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    for noisy in ("dbos", "alembic", "uvicorn", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # warns at each request of a stranger that is no HTTP
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # warns at each TLS connection that its peer closes
