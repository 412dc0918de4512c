"""Conditions of a capture, and the namespaces, link and tcpdump that make it."""

from __future__ import annotations

import datetime
import gzip
import ipaddress
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from captures_lib import servers

HERE = Path(__file__).parent
SNAPLEN, MOST_PACKETS, ENOUGH = 160, 600, 36_000  # bytes; packets; bytes of a capture that begins no further session
# neighbours, routers and multicast groups of IPv6 are no traffic of the service
FILTER = "(ip or (ip6 and not (icmp6 and ip6[40] >= 130 and ip6[40] <= 143) and not ip6 proto 0)) and not multicast"


@dataclass(frozen=True)
class Conditions:
    """What is drawn for one capture. Pairs are of the client and the server; delay and jitter in s one way."""

    service: str
    n: int
    version: int
    server: str
    clients: tuple[str, ...]
    prefix: int
    port: int
    further: int  # the first of 40 ports that the server may use beside
    mtu: int
    ttl: tuple[int, int]
    timestamps: tuple[int, int]
    sack: tuple[int, int]
    scaling: tuple[int, int]
    buffer: tuple[int, int]
    delay: float
    jitter: float
    loss: float
    rate: float
    sessions: int
    at_once: int
    pause: float
    watched: str
    seed: str

    @property
    def name(self) -> str:
        return f"{self.service}-{self.n:02d}"


def draw(seed: int, service: str, n: int) -> Conditions:
    """The conditions of capture n of a service. No distribution but that of `sessions` depends on the service."""
    key = f"{seed}/{service}/{n}"
    rng = random.Random(key)
    version = 6 if rng.random() < 0.3 else 4
    if version == 6:
        net = ipaddress.ip_network(((0xFD << 120) | (rng.getrandbits(56) << 64), 64))
    else:
        block = ipaddress.ip_network(rng.choice(("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
        net = ipaddress.ip_network((int(block[0]) + 256 * rng.randrange(block.num_addresses // 256), 24))
    hosts = [str(net[i]) for i in rng.sample(range(2, 250), 1 + rng.choice((1, 1, 2, 3)))]
    if service == "ftp":  # a server refuses data connections from another address than its control connection's
        del hosts[2:]

    def two(*choices: int) -> tuple[int, int]:
        return rng.choice(choices), rng.choice(choices)

    delay = 10 ** rng.uniform(-3.3, -1.2)
    return Conditions(
        service=service,
        n=n,
        version=version,
        server=hosts[0],
        clients=tuple(hosts[1:]),
        prefix=net.prefixlen,
        port=rng.randrange(1024, 60000),
        further=rng.randrange(1024, 59000),
        mtu=rng.choice((1280, 1400, 1420, 1450, 1492, 1500)),
        # as if seen some routers away
        ttl=tuple(start - rng.randrange(20) for start in two(64, 128, 255)),  # type: ignore[arg-type]
        timestamps=two(0, 1, 1),
        sack=two(0, 1, 1),
        scaling=two(0, 1, 1),
        buffer=two(16384, 65536, 131072, 262144),
        delay=delay,
        jitter=delay * rng.uniform(0, 0.3),
        loss=rng.choice((0.0, 0.0, 0.002, 0.01)),
        rate=10 ** rng.uniform(6.3, 8),
        sessions=rng.randint(*servers.SERVICES[service].sessions),
        at_once=rng.randint(1, 4),
        pause=10 ** rng.uniform(-2, 0),
        watched=rng.choice(("client", "server")),
        seed=key,
    )


def capture(c: Conditions, work: Path, out: Path) -> str:
    """Make one capture as out/SERVICE/SERVICE-NN.pcap.gz; a line about it."""
    folder = work / c.name
    folder.mkdir(mode=0o755)
    spaces = {who: f"{c.name}-{who}" for who in ("client", "wire", "server")}
    raw = folder / "all.pcap"
    children: list[subprocess.Popen[bytes]] = []
    try:
        for space in spaces.values():
            ip("netns", "add", space)
        connect(c, spaces)
        shape = map(str, (c.delay, c.jitter, c.loss, c.rate, c.seed))
        children.append(start(spaces["wire"], sys.executable, HERE / "wire.py", "left", "right", *shape))
        watch = ["tcpdump", "-i", "eth", "-n", "-U", "-Z", "root", "-s", SNAPLEN, "-c", MOST_PACKETS, "-w", raw, FILTER]
        sniffer = start(spaces[c.watched], *watch, "--time-stamp-precision=nano")
        children.append(sniffer)
        with (work / "logs" / f"{c.name}.server").open("wb") as log:
            children += servers.start(c, spaces["server"], folder, work, log)
        wait_for(lambda: raw.exists() and raw.stat().st_size >= 24, "tcpdump", c.name)
        visit(c, spaces["client"], folder, raw, work)
        time.sleep(0.5 + 4 * c.delay)
        if sniffer.poll() is None:
            sniffer.send_signal(signal.SIGINT)
        sniffer.wait(10)
    finally:
        servers.stop(c, spaces["server"], folder)
        for child in reversed(children):
            child.terminate()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
        for space in spaces.values():
            subprocess.run(["ip", "netns", "del", space], check=False)
    path = out / c.service / f"{c.name}.pcap.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(raw.read_bytes(), 9, mtime=0))
    return f"{c.name}: {raw.stat().st_size} bytes, {path.stat().st_size} compressed"


def connect(c: Conditions, spaces: dict[str, str]) -> None:
    """client eth - left of the wire, right of the wire - eth server."""
    rng = random.Random(c.seed + "/macs")
    for i, (who, end) in enumerate((("client", "left"), ("server", "right"))):
        space = spaces[who]
        ip("-n", space, "link", "add", "eth", "type", "veth", "peer", "name", end, "netns", spaces["wire"])
        mac = ":".join(f"{b:02x}" for b in (2, *rng.randbytes(5)))
        ip("-n", space, "link", "set", "eth", "address", mac, "mtu", c.mtu)
        within(space, "ethtool", "-K", "eth", *(w for what in ("tx", "rx", "tso", "gso", "gro") for w in (what, "off")))
        settings = {
            "net.ipv4.ip_default_ttl": c.ttl[i],
            "net.ipv6.conf.eth.hop_limit": c.ttl[i],
            "net.ipv6.conf.eth.router_solicitations": 0,
            "net.ipv4.tcp_timestamps": c.timestamps[i],
            "net.ipv4.tcp_sack": c.sack[i],
            "net.ipv4.tcp_window_scaling": c.scaling[i],
            "net.ipv4.tcp_rmem": f"4096 {c.buffer[i]} 4194304",
        }
        within(space, "sysctl", "-q", "-w", *(f"{k}={v}" for k, v in settings.items()))
        for address in c.clients if who == "client" else (c.server,):
            nodad = ("nodad",) if c.version == 6 else ()
            ip("-n", space, "address", "add", f"{address}/{c.prefix}", "dev", "eth", *nodad)
        for link in ("lo", "eth"):
            ip("-n", space, "link", "set", link, "up")
        within(spaces["wire"], "sysctl", "-q", "-w", f"net.ipv6.conf.{end}.disable_ipv6=1")
        ip("-n", spaces["wire"], "link", "set", end, "mtu", c.mtu, "up")


def visit(c: Conditions, space: str, folder: Path, raw: Path, work: Path) -> None:
    """All sessions, some at once, each from one of the clients' addresses, until the capture holds enough."""
    rng = random.Random(c.seed + "/visits")

    def one(i: int) -> None:
        if raw.stat().st_size > ENOUGH:
            return
        time.sleep(rng.expovariate(1 / c.pause))
        length = 128 if c.version == 6 else 32
        ip(
            f"-{c.version}",
            "-n",
            space,
            "route",
            "replace",
            f"{c.server}/{length}",
            "dev",
            "eth",
            "src",
            rng.choice(c.clients),
        )
        command = [sys.executable, HERE / "sessions.py", c.service, c.server, c.port, f"{c.seed}/{i}", folder]
        with (work / "logs" / f"{c.name}.client").open("ab") as log:
            child = start(space, *command, out=log)
            try:
                child.wait(40)
            except subprocess.TimeoutExpired:
                child.kill()

    with ThreadPoolExecutor(c.at_once) as pool:
        list(pool.map(one, range(c.sessions)))


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True)


def within(space: str, *words: object) -> None:
    subprocess.run(["ip", "netns", "exec", space, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def start(space: str, *words: object, out: object = None) -> subprocess.Popen[bytes]:
    to = subprocess.DEVNULL if out is None else out
    command = ["ip", "netns", "exec", space, *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=to, stderr=to)  # type: ignore[call-overload,no-any-return]


def wait_for(done: object, what: str, where: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        if time.monotonic() > end:
            sys.exit(f"captures: {what} of {where} did not start")
        time.sleep(0.05)


def readme(conditions: list[Conditions], seed: int, date: datetime.date) -> str:
    """What the folder says of itself."""
    head = (HERE / "README.md.in").read_text()
    services = sorted({c.service for c in conditions})
    made = "\n".join(f"| {s} | {servers.SERVICES[s].transport} | {servers.version(s)} |" for s in services)
    rows = [
        f"| {c.service}/{c.name} | {c.version} | {c.port} | {c.mtu} | {c.ttl[0]}, {c.ttl[1]} | {1000 * c.delay:.1f} "
        f"| {1000 * c.jitter:.1f} | {100 * c.loss:g} | {c.rate / 1e6:.1f} | {len(c.clients)} | {c.sessions} | {c.watched} |"
        for c in sorted(conditions, key=lambda c: c.name)
    ]
    return head.format(
        date=date, seed=seed, captures=len(conditions), services=len(services), made=made, rows="\n".join(rows)
    )
