"""A page that says which container answers."""

import os
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = f"{os.environ['GREETING']} from container {socket.gethostname()}\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    print("listening on port 8000", flush=True)
    ThreadingHTTPServer(("", 8000), Page).serve_forever()
