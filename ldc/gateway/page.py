"""The page's files: read once, each under its one path."""

import hashlib
from importlib.resources import files

from ldc.gateway.reply import Reply

_TYPES = {
    "css": "text/css;charset=UTF-8",
    "html": "text/html;charset=UTF-8",
    "js": "text/javascript;charset=UTF-8",
    "svg": "image/svg+xml",
    "txt": "text/plain;charset=UTF-8",
}

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser lets the page do: run and show its own files, and talk to its own gateway."""


class Page:
    """The files by path. Thread-safe, because nothing changes it."""

    def __init__(self) -> None:
        self.files: dict[str, Reply] = {}
        folder = files("ldc.gateway") / "static"
        for file in folder.iterdir():
            kind = _TYPES.get(file.name.rpartition(".")[2])
            if kind is not None:
                self._add(f"/{file.name}", file.read_bytes(), kind)
        if "/index.html" in self.files:
            self.files["/"] = self.files["/index.html"]

    def _add(self, path: str, body: bytes, kind: str) -> None:
        tag = hashlib.sha256(body).hexdigest()[:16]
        headers = {
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "Cross-Origin-Opener-Policy": "same-origin",
            "X-Frame-Options": "DENY",
            "Cache-Control": "no-cache",
            "ETag": f'"{tag}"',
        }
        self.files[path] = Reply(200, body, kind, headers)
