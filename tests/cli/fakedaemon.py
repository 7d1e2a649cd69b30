"""A daemon that answers requests from a table, on a unix socket."""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler


class FakeDaemon:
    """``answers`` maps ``METHOD /path`` to a status and a JSON value (or text); requests are kept
    as ``(method, target, body)``."""

    def __init__(self, path):
        self.path = str(path)
        self.answers = {}
        self.requests = []
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self._body()
                daemon.requests.append((self.command, self.path, body))
                key = f"{self.command} {self.path.partition('?')[0]}"
                status, value = daemon.answers.get(key, (404, {"message": f"No such thing: {key}"}))
                data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def _body(self):
                if self.headers.get("Transfer-Encoding") == "chunked":
                    parts = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any

            def log_message(self, *_):
                pass

            def address_string(self):
                return "client"

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_):
                """A client that goes away is no error."""

        self._server = Server(self.path, Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def sent(self, method, prefix):
        """The JSON body of the first request to ``prefix``."""
        for found, target, body in self.requests:
            if found == method and target.startswith(prefix):
                return json.loads(body)
        raise AssertionError(f"no {method} {prefix} among {self.requests}")
