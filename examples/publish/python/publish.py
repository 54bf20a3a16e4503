"""Publishes to a topic of Tidegate: python publish.py TOPIC DATA [TYPE] [KEY]

An empty TYPE is message. KEY makes a repetition safe: it stores the event once; without one there is a new one for each run.
python publish.py --lines publishes the events of its standard input, one JSON object a line, while they come.
TIDEGATE_URL says where, PUBLISH_TOKEN what to show there.
Exit code 0: stored. 1: refused, and would be again. 75: try again later, with the same key.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

URL = os.environ.get("TIDEGATE_URL", "http://127.0.0.1:8080")
TOKEN = os.environ.get("PUBLISH_TOKEN")
# Too fast, not now, or nobody knows: with the same key it may be sent again.
TEMPORARY = (429, 503, 504)


def request(body, content_type, **headers):
    """Sends it once. Returns the status, the answer, and for how many seconds not to come back."""
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    headers["Content-Type"] = content_type
    # An iterable is sent in chunks, as it comes.
    what = urllib.request.Request(f"{URL}/publish", data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(what, timeout=30) as response:
            return response.status, json.load(response), 0
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), float(error.headers.get("Retry-After", 0))


def publish(topic, data, kind="message", key=None):
    """Publishes one event, and does not give up at once."""
    event = {"topic": topic, "data": data, "event": kind or "message"}
    body = json.dumps(event).encode()
    key = key or str(uuid.uuid4())  # one for all attempts: this is what makes them safe
    for pause in (0.1, 0.5, 2, 0):
        try:
            status, answer, after = request(body, "application/json", **{"Idempotency-Key": key})
        except (OSError, http.client.HTTPException) as error:
            print(f"whether it was stored is unknown: {error}", file=sys.stderr)
            after = 0
        else:
            if status == 200:
                print(answer["id"], "duplicate" if answer.get("duplicate") else "stored")
                return 0
            print(f"{answer['code']}: {answer['detail']}", file=sys.stderr)
            if status not in TEMPORARY:
                return 1
        if pause:
            time.sleep(max(pause, after))
    return 75


def publish_lines(lines):
    """Publishes a stream of events. Give each of them a `key`: then what broke off may be sent again."""
    try:
        status, answer, _ = request(lines, "application/x-ndjson")
    except (OSError, http.client.HTTPException) as error:
        print(f"how much was stored is unknown: {error}", file=sys.stderr)
        return 75
    print(json.dumps(answer))
    return 0 if status == 200 else 75 if status in TEMPORARY else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--lines"]:
        sys.exit(publish_lines(sys.stdin.buffer))
    if not 3 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    sys.exit(publish(*sys.argv[1:]))
