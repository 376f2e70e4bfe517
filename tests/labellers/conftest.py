"""Every test labels in a folder of its own, with quick waits and a key that must turn up nowhere."""

from pathlib import Path

import pytest

from tests.labellers.server import Script, Server

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("LABELS_BACKOFF", "0.02")
    monkeypatch.setenv("LABELS_TIMEOUT", "1.5")  # a busy machine is no fault; less than `stormy` hangs
    monkeypatch.setenv("LABELS_POLL", "0.05")
    return tmp_path


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch):
    """Starts servers and points the client at the last one."""
    running: list[Server] = []

    def start(script: Script) -> Server:
        server = Server(script).__enter__()
        running.append(server)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        return server

    yield start
    for server in running:
        server.__exit__()
