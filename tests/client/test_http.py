"""Requests and answers over a socket pair."""

import os
import socket
import threading
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.client.api import objects, target
from sampan.client.failures import ConnectionFailed
from sampan.client.http import Connection, FileBody, quote


def exchange(answer: bytes, method: str = "GET", body=None):
    """A response to a canned answer, and what was sent for it."""
    ours, theirs = socket.socketpair()
    sent = bytearray()

    def serve():
        theirs.settimeout(10)
        while b"\r\n\r\n" not in sent:
            sent.extend(theirs.recv(65536))
        if isinstance(body, FileBody):
            while len(sent.partition(b"\r\n\r\n")[2]) < body.size:
                sent.extend(theirs.recv(65536))
        elif body is not None and not isinstance(body, bytes):
            while not sent.endswith(b"0\r\n\r\n"):
                sent.extend(theirs.recv(65536))
        theirs.sendall(answer)
        theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        response = Connection(ours).request(method, "/x", {"A": "b"}, body)
        return response, sent
    finally:
        thread.join()


def test_content_length():
    response, sent = exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloEXTRA")
    assert response.status == 200
    assert response.read() == b"hello"
    assert bytes(sent).startswith(b"GET /x HTTP/1.1\r\nHost: api\r\n")
    assert b"\r\nA: b\r\n" in sent


def test_chunks_with_extensions_and_trailers():
    response, _ = exchange(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
    )
    assert response.read() == b"abcde"


def test_a_body_that_ends_with_the_connection():
    response, _ = exchange(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    assert response.read() == b"all of it"


def test_a_cut_body_is_noticed():
    response, _ = exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf")
    with pytest.raises(ConnectionFailed):
        response.read()


def test_informational_answers_are_passed_over():
    response, _ = exchange(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    assert response.status == 204
    assert response.read() == b""


def test_what_is_not_http_is_refused():
    with pytest.raises(ConnectionFailed, match="does not speak HTTP"):
        exchange(b"SSH-2.0-OpenSSH\r\n\r\n")


def test_a_streamed_body_is_chunked():
    parts = [b"a" * 300_000, b"", b"b"]
    response, sent = exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "POST", iter(parts))
    assert response.status == 200
    body = bytes(sent).partition(b"\r\n\r\n")[2]
    assert body.startswith(b"493e0\r\naaa") and body.endswith(b"1\r\nb\r\n0\r\n\r\n")


def test_a_file_is_sent_by_the_kernel_from_where_it_is_read_next(tmp_path):
    path = tmp_path / "archive"
    path.write_bytes(os.urandom(3_000_000))
    seen = []
    with path.open("rb") as file:
        assert FileBody.fits(file)
        file.read(10)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        response, sent = exchange(answer, "POST", FileBody(file, seen.append))
    assert response.status == 200
    head, _, body = bytes(sent).partition(b"\r\n\r\n")
    assert b"Content-Length: 2999990" in head and body == path.read_bytes()[10:]
    assert seen[-1] == 2_999_990
    with path.open("rb") as file:
        assert b"".join(FileBody(file)) == path.read_bytes()
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, os.fdopen(write, "wb"):
        assert not FileBody.fits(pipe)


def test_a_refusal_in_the_middle_of_a_body_is_read():
    ours, theirs = socket.socketpair()

    def endless():
        while True:
            yield b"x" * 65536

    def serve():
        theirs.recv(1000)
        theirs.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
        theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    response = Connection(ours).request("POST", "/x", {}, endless())
    thread.join()
    assert (response.status, response.read()) == (400, b"no")


@given(st.text())
def test_quoting_is_undone_by_the_standard_library(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert unquote(quote(text)) == text
    assert not set(quote(text)) & set(" ?#%&=+") - {"%"}


def test_a_querys_values():
    query = {"a": True, "b": False, "c": None, "d": ["x", "y"], "e": {"k": {"v": True}}, "f": 3}
    assert target("/p", query) == "/p?a=1&d=x&d=y&e=%7B%22k%22:%7B%22v%22:true%7D%7D&f=3"
    assert target("/p", {}) == "/p"


class Chunks:
    def __init__(self, chunks):
        self._chunks = chunks

    def chunks(self):
        return iter(self._chunks)


@given(st.lists(st.integers(1, 9), min_size=1), st.sampled_from(["", "\n", "\r\n", " "]))
def test_objects_are_found_whatever_the_chunks(sizes, between):
    values = [{"a": "}{"}, {"b": {"c": "é\n"}}, {"d": []}]
    from sampan import wirejson

    data = between.join(wirejson.dumps(value) for value in values).encode()
    chunks, position, turn = [], 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        chunks.append(data[position : position + size])
        position, turn = position + size, turn + 1
    assert list(objects(Chunks(chunks))) == values
