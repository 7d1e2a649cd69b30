"""Standard input through a connection that takes it slowly."""

import os
import select
import socket
import subprocess
import sys

PUMP = "from sampan.cli.main import entry; entry()"


def test_no_input_is_lost_when_it_ends_while_the_connection_is_full(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        reader, writer = os.pipe()
        command = [sys.executable, "-c", PUMP, "-H", f"unix://{tmp_path}/s", "system", "dial-stdio"]
        process = subprocess.Popen(command, stdin=reader, stdout=subprocess.DEVNULL)
        os.close(reader)
        connection, _ = server.accept()
    os.set_blocking(writer, False)
    poller = select.poll()
    poller.register(writer, select.POLLOUT)
    sent = bytearray()
    # Nobody reads: the connection fills, then the pipe.
    while poller.poll(300):
        data = os.urandom(4096)
        sent += data[: os.write(writer, data)]
    os.close(writer)
    received = bytearray()
    with connection:
        while data := connection.recv(65536):
            received += data
    assert process.wait(30) == 0
    assert received == sent
