"""Makes an event of every line of a log file: ship.py FILE TOPIC [STATE]

It follows the file through rotation (by renaming, also while it was not running, and by truncation) and remembers in STATE
(FILE.shipped) how far it is. Each line is one event, however often this program is killed: lines are numbered, the number is
their key, and what is sent again after a crash is known by it. REDIS_URL says where.
"""

import glob
import json
import os
import sys
import time

import redis

STREAM = "tidegate:{0}:ingest"  # redis.prefix of the gateways
AT_ONCE = 500  # lines of one transaction
PAUSE = 0.2  # seconds between two looks at a file that has nothing new


class Place:
    """How far the file was read. It is written after the lines were sent, never before."""

    def __init__(self, path):
        self.path = path
        self.inode, self.offset, self.line = None, 0, 0
        if os.path.exists(path):
            with open(path) as file:
                self.inode, self.offset, self.line = json.load(file)

    def save(self):
        with open(self.path + ".new", "w") as file:
            json.dump([self.inode, self.offset, self.line], file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.path + ".new", self.path)


def inode_of(path):
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None


def open_next(log, place):
    """The file to read from now on: the one that was read last, wherever it is by now, else the one that came after it."""
    old = [path for path in glob.glob(glob.escape(log) + ".*") if not path.startswith(place.path)]
    files = sorted(old, key=os.path.getmtime) + [log]
    inodes = [inode_of(path) for path in files]
    if place.inode in inodes:
        at = inodes.index(place.inode)
    else:
        if place.inode is not None:
            print("the file that was read last is gone, and lines with it perhaps", file=sys.stderr)
        at, place.inode, place.offset = len(files) - 1, inodes[-1], 0
    if place.inode is None:
        return None, None  # there is no file yet
    following = files[at + 1] if at + 1 < len(files) else None
    if following is not None and not os.path.getsize(following):
        following = None  # whoever writes has not turned to it yet
    file = open(files[at], "rb")
    if os.fstat(file.fileno()).st_ino != place.inode:
        file.close()
        return None, None  # renamed a moment ago
    return file, following


def send(server, topic, place, lines):
    # All of them or none: one that fails in the middle would be sent after those behind it.
    transaction = server.pipeline(transaction=True)
    for number, line in enumerate(lines, place.line):
        data = line.rstrip(b"\r\n").decode("utf-8", "replace")
        transaction.xadd(STREAM, {"topic": topic, "data": data, "key": f"line {number}"})
    transaction.execute()
    place.line += len(lines)
    place.offset += sum(map(len, lines))
    place.save()


def ship(log, topic, place, server):
    while True:
        file, following = open_next(log, place)
        if file is None:
            time.sleep(PAUSE)
            continue
        with file:
            if os.fstat(file.fileno()).st_size < place.offset:
                place.offset = 0  # truncated
            file.seek(place.offset)
            lines = file.readlines(1 << 20)[:AT_ONCE]
        if lines and not lines[-1].endswith(b"\n") and following is None:
            lines.pop()  # somebody is still writing it
        if lines:
            try:
                send(server, topic, place, lines)
            except redis.RedisError as error:
                # Whether they are there or not: their keys make it safe.
                print(f"trying again: {error}", file=sys.stderr)
                time.sleep(1)
        elif following is not None:
            place.inode, place.offset = inode_of(following), 0
            place.save()
        else:
            time.sleep(PAUSE)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: ship.py FILE TOPIC [STATE]")
    log, topic = sys.argv[1:3]
    place = Place(sys.argv[3] if len(sys.argv) == 4 else log + ".shipped")
    server = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), socket_timeout=10)
    ship(log, topic, place, server)
