import pytest
from fakedaemon import FakeDaemon


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A fake daemon that the command line talks to."""
    for name in ("DOCKER_HOST", "SAMPAN_RUN_DIR", "SAMPAN_STATE_DIR", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SAMPAN_HOST", f"unix://{tmp_path}/s")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TZ", "UTC")
    daemon = FakeDaemon(tmp_path / "s")
    yield daemon
    daemon.close()


@pytest.fixture
def cli(fake, capsys):
    """Run a command line in this process: ``(exit code, stdout, stderr)``."""
    from sampan.cli.main import main

    def run(*words):
        code = main(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
