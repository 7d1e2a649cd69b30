"""Takes orders from the queue and records that they are done."""

import socket

from queue_of_orders import QUEUE, cache, connect

database = connect()
print("working", flush=True)
while True:
    item = cache.blpop(QUEUE)[1].decode()
    with database, database.cursor() as cursor:
        cursor.execute("INSERT INTO done VALUES (%s, %s)", (item, socket.gethostname()))
    print("done", item, flush=True)
