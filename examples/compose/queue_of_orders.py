"""The queue in Redis and the table in PostgreSQL that web and worker share."""

import contextlib
from pathlib import Path

import psycopg2
import redis

QUEUE = "orders"
cache = redis.Redis("cache")


def connect():
    password = Path("/run/secrets/password").read_text().strip()
    database = psycopg2.connect(host="database", user="postgres", password=password)
    with database, database.cursor() as cursor, contextlib.suppress(psycopg2.Error):
        cursor.execute("CREATE TABLE IF NOT EXISTS done (item text, worker text)")
    return database
