"""A link between two interfaces that delays, loses and limits frames: `wire.py LEFT RIGHT DELAY JITTER LOSS RATE SEED`.

DELAY and JITTER in s one way, LOSS as a share, RATE in bit/s. Frames keep their order. In user space, since not every
kernel has netem.
"""

import heapq
import random
import select
import socket
import sys
import time

QUEUE = 1.0  # s of frames that wait for their turn; more are dropped, as a full router does


def main(left: str, right: str, delay: float, jitter: float, loss: float, rate: float, seed: str) -> None:
    rng = random.Random(seed)
    ends = []
    for name in (left, right):
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        end.bind((name, 0))
        ends.append(end)
    free, last = [0.0, 0.0], [0.0, 0.0]
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    print("ready", flush=True)
    while True:
        until = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], until)[0]:
            frame, source = end.recvfrom(65535)
            way = ends.index(end)
            now = time.monotonic()
            if source[2] == socket.PACKET_OUTGOING or free[way] - now > QUEUE:
                continue
            if rng.random() < loss:
                continue
            free[way] = max(now, free[way]) + 8 * len(frame) / rate
            last[way] = max(last[way], free[way] + delay + abs(rng.gauss(0, jitter)))
            count += 1
            heapq.heappush(waiting, (last[way], count, 1 - way, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, to, frame = heapq.heappop(waiting)
            ends[to].send(frame)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(float, sys.argv[3:7]), sys.argv[7])
