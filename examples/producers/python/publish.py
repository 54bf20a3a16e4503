"""Publishes one event to a topic of Tidegate: python publish.py TOPIC DATA [TYPE] [KEY]

An empty TYPE is message. With a KEY a repetition is safe: it stores the event once. REDIS_URL says where.
Exit code 0: stored. 1: refused, and would be again. 75: try again later, with the same key.
"""

import hashlib
import os
import sys
import time

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

PREFIX = "tidegate"  # redis.prefix of the gateways
PUBLISHER = "example"  # so that two publishers may use the same key
# Nothing was stored, and it may be another time.
TEMPORARY = ("LOADING", "BUSY", "OOM", "READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN")


def publish(client, topic, data, kind="", key=None):
    """Returns the id of the event, and "stored" or "duplicate"."""
    base = f"{PREFIX}:{{0}}:"
    keys = [base + name for name in ("meta", "last", "heads", f"topic:{topic}", f"ch:{topic}")]
    if key:
        name = "\n".join((PUBLISHER, topic, key))
        keys.append(f"{base}idem:{hashlib.sha1(name.encode()).hexdigest()}")
    return client.fcall("tidegate_publish", len(keys), *keys, kind, data)


def main(topic, data, kind="", key=None):
    url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
    # Without retry the client would send it again by itself: without a key that may store it twice.
    client = redis.Redis.from_url(url, decode_responses=True, socket_timeout=5, retry=Retry(NoBackoff(), 0))
    for pause in (0.1, 0.5, 2, 0):
        try:
            print(*publish(client, topic, data, kind, key))
            return 0
        except exceptions.ResponseError as error:
            code = getattr(error, "status_code", None) or str(error).split(" ")[0]
            if "Function not found" in str(error):
                print("the functions of Tidegate are not in this Redis: start a gateway once, or load functions.lua", file=sys.stderr)
                return 1
            if code not in TEMPORARY:
                print(f"refused: {error}", file=sys.stderr)
                return 1
            print(f"not stored: {code} {error}", file=sys.stderr)
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            print(f"whether it was stored is unknown: {error}", file=sys.stderr)
            if not key:
                break
        time.sleep(pause)
    return 75


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
