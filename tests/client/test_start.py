"""Starting a daemon on demand."""

import os
import tempfile

import pytest

from sampan.client.failures import ConnectionFailed
from sampan.client.hosts import Host
from sampan.client.start import ensure_daemon


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_hears_of_the_socket_and_not_of_directories():
    with tempfile.TemporaryDirectory() as folder:
        host = Host(f"unix://{folder}/s", own=True, run_dir=folder, state_dir=f"{folder}/state")
        refused = ConnectionFailed("permission denied")
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.setresuid(65534, 65534, 65534)
            try:
                ensure_daemon(host, refused)
            except Exception as failure:
                os.write(writer, f"{type(failure).__name__} {failure}".encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader) as said:
            assert said.read() == "ConnectionFailed permission denied"
