"""Follows a stream by the Python package httpx-sse: python follow.py URL

Says what it sees, a line of JSON for each: see tests/interop.rs.
"""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse

# Its keepalive is the only thing that a quiet stream sends: wait for longer than stream.keepalive (15 s).
# The 5 s that httpx waits by itself end every quiet stream.
TIMEOUT = httpx.Timeout(10, read=45)


def say(**line):
    print(json.dumps(line), flush=True)


def follow(url):
    cursor, retry = "", 3.0
    with httpx.Client(timeout=TIMEOUT) as client:
        while True:  # httpx-sse does not come back by itself
            try:
                with connect_sse(client, "GET", url, headers={"Last-Event-ID": cursor} if cursor else {}) as source:
                    response = source.response
                    if response.status_code != 200:
                        problem = json.loads(response.read() or "{}")
                        if response.status_code not in (429, 503):
                            return say(saw="over", status=response.status_code, why=problem.get("code", ""))
                        raise httpx.TransportError(problem["code"])
                    say(saw="open")
                    for event in source.iter_sse():
                        if event.retry is not None:
                            retry = event.retry / 1000
                        # What it makes of a keepalive: an empty message with the id of the event before.
                        if event.event == "message" and event.data == "" and event.id == cursor:
                            continue
                        cursor = event.id
                        say(saw="event", type=event.event, id=event.id, data=event.data)
                        if event.event == "$end":
                            return say(saw="over", why="left")
                say(saw="cut", why="the stream ended")
            except httpx.TransportError as error:
                say(saw="cut", why=str(error))
            time.sleep(retry)


follow(sys.argv[1])
