"""POST /ITEM queues an order; GET / shows the greeting and what the workers have done."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from queue_of_orders import QUEUE, cache, connect

greeting = Path("/etc/greeting").read_text().strip()


class Shop(BaseHTTPRequestHandler):
    def do_POST(self):
        cache.rpush(QUEUE, self.path.strip("/"))
        self.answer({"queued": self.path.strip("/")})

    def do_GET(self):
        with connect() as database, database.cursor() as cursor:
            cursor.execute("SELECT item, worker FROM done ORDER BY item")
            self.answer({"greeting": greeting, "done": cursor.fetchall()})

    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


print("serving", flush=True)
ThreadingHTTPServer(("", 8000), Shop).serve_forever()
