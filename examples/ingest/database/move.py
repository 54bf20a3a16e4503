"""Moves the rows of the table outbox (schema.sql) to Tidegate, in their order, each once.

A row is deleted after it was sent, and its id is its key: what is sent again after a crash is known by it. Any number of these
may run, one of them works. DATABASE_URL (as psql takes it) and REDIS_URL say where.
"""

import os
import sys
import time

import psycopg
import redis

STREAM = "tidegate:{0}:ingest"  # redis.prefix of the gateways
AT_ONCE = 500  # rows of one transaction
LOCK = 7483  # any number that nobody else takes
IDLE = 5  # seconds after which it looks though nobody has called


def move(database, server):
    """Moves what is there, and returns how much that was."""
    rows = database.execute("SELECT id, topic, event, data FROM outbox ORDER BY id LIMIT %s", [AT_ONCE]).fetchall()
    if rows:
        # All of them or none: one that fails in the middle would be sent after those behind it.
        transaction = server.pipeline(transaction=True)
        for id, topic, event, data in rows:
            transaction.xadd(STREAM, {"topic": topic, "event": event, "data": data, "key": f"outbox {id}"})
        transaction.execute()
        database.execute("DELETE FROM outbox WHERE id = ANY(%s)", [[row[0] for row in rows]])
    return len(rows)


def run(url, server):
    with psycopg.connect(url, autocommit=True) as database:
        # Before the first look: what is committed after it is heard.
        database.execute("LISTEN outbox")
        database.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        while True:
            while move(database, server):
                pass
            for _ in database.notifies(timeout=IDLE, stop_after=1):
                pass


if __name__ == "__main__":
    server = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), socket_timeout=10)
    while True:
        try:
            run(os.environ.get("DATABASE_URL", ""), server)
        except (psycopg.Error, redis.RedisError) as error:
            print(f"trying again: {error}", file=sys.stderr)
            time.sleep(1)
