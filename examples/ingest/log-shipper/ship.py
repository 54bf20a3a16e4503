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


def files_once(log, place):
    found = []
    for path in glob.glob(glob.escape(log) + ".*") + [log]:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue  # renamed a moment ago
        if not path.startswith(place.path):
            found.append((path == log, status.st_mtime, status.st_ino, path))
    return [(inode, path) for *_, inode, path in sorted(found)]


def files_of(log, place):
    """The log and what it was renamed to, oldest first. One look may miss a file that is being renamed, so two have to agree."""
    files = None
    while files != (files := files_once(log, place)):
        pass
    return files


def open_next(log, place):
    """The file to read from now on (the one that was read last, wherever it is by now), and the one that came after it."""
    files = files_of(log, place)
    inodes = [inode for inode, _ in files]
    if place.inode not in inodes:
        if place.inode is not None:
            print("the file that was read last is gone, and lines with it perhaps", file=sys.stderr)
        if not files or files[-1][1] != log:
            return None, None  # there is no file yet
        place.inode, place.offset = inodes[-1], 0
    at = inodes.index(place.inode)
    try:
        file = open(files[at][1], "rb")
    except FileNotFoundError:
        return None, None  # renamed a moment ago
    if os.fstat(file.fileno()).st_ino != place.inode:
        file.close()
        return None, None
    following = None
    if at + 1 < len(files):
        try:
            if os.path.getsize(files[at + 1][1]):  # else whoever writes has not turned to it yet
                following = inodes[at + 1]
        except FileNotFoundError:
            pass
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
            place.inode, place.offset = following, 0
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
