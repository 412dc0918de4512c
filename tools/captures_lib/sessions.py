"""One session of a client: `sessions.py SERVICE HOST PORT SEED FOLDER`, run within the client's namespace.

What a session does is drawn by its seed: how much, how large, how fast, and which client.
"""

from __future__ import annotations

import contextlib
import ftplib
import http.client
import imaplib
import io
import os
import random
import smtplib
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable
from email.message import EmailMessage
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from captures_lib.servers import USER, WORDS, size, text

NAME = "www.example.org"


class Session:
    def __init__(self, host: str, port: int, seed: str, folder: Path) -> None:
        self.host, self.port, self.folder = host, port, folder
        self.rng = random.Random(seed)
        self.think = 10 ** self.rng.uniform(-2.5, -0.2)  # s, mean

    def pause(self, mean: float | None = None) -> None:
        time.sleep(min(4.0, self.rng.expovariate(1 / (mean or self.think))))

    def bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def run(self, *words: object, given: bytes | None = None) -> None:
        subprocess.run(list(map(str, words)), input=given, stdout=subprocess.DEVNULL, timeout=30, check=False)

    def typed(self, lines: Iterable[str], *words: object, mean: float | None = None) -> None:
        """A program that is given one line after the other, with pauses for thought."""
        child = subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert child.stdin
        with contextlib.suppress(BrokenPipeError):
            for line in lines:
                self.pause(mean)
                child.stdin.write(line.encode())
                child.stdin.flush()
            self.pause()
            child.stdin.close()
        child.wait(20)

    # --- the services

    def http(self, tls: bool = False) -> None:
        rng = self.rng
        base = f"{'https' if tls else 'http'}://{NAME}:{self.port}"
        curl: list[object] = [
            "curl",
            "-s",
            "-k",
            "--max-time",
            20,
            "--resolve",
            f"{NAME}:{self.port}:{self.bracketed()}",
        ]
        if tls:
            curl += rng.choice(([], ["--http1.1"], ["--tls-max", "1.2"], ["--http1.1", "--tls-max", "1.2"]))
        pages = [f"{base}/page{rng.randrange(8)}.html" for _ in range(rng.randint(1, 6))]
        kind = rng.choice(("pages", "reader", "download", "form", "parallel", "heads"))
        if kind == "reader":
            if tls:
                context = ssl._create_unverified_context()
                link: http.client.HTTPConnection = http.client.HTTPSConnection(
                    self.host, self.port, timeout=20, context=context
                )
            else:
                link = http.client.HTTPConnection(self.host, self.port, timeout=20)
            for page in pages:
                link.request("GET", page.removeprefix(base), headers={"Host": NAME, "Accept-Encoding": "gzip"})
                link.getresponse().read()
                self.pause()
            link.close()
        elif kind == "download":
            self.run(*curl, f"{base}/file{rng.randrange(3)}.bin")
        elif kind == "form":
            for _ in range(rng.randint(1, 3)):
                self.run(*curl, "--data-binary", "@-", f"{base}/form", given=text(rng, size(rng, 50, 20_000)).encode())
                self.pause()
        elif kind == "parallel":
            self.run(*curl, "-Z", "--parallel-immediate", *pages[:3])
        elif kind == "heads":
            self.run(*curl, "-I", *pages[:2], f"{base}/{rng.choice(WORDS)}.html")
        else:
            self.run(*curl, "--compressed", *pages)

    def https(self) -> None:
        self.http(tls=True)

    def dns(self) -> None:
        rng = self.rng
        for _ in range(rng.randint(1, 3)):
            name = rng.choice(
                (f"{rng.choice(WORDS)}.example.org", f"{rng.choice(WORDS)}.test", f"no{rng.randrange(999)}.test")
            )
            host = f"@{self.host}"
            asked = rng.choice(((name, "A"), (name, "AAAA"), (name, "A", name, "AAAA"), ("example.org", "MX"),
                                ("example.org", "TXT"), ("_imap._tcp.example.org", "SRV")))  # fmt: skip
            if rng.random() < 0.2:
                self.run("nslookup", f"-port={self.port}", name, self.host)
            else:
                options = rng.choice(((), ("+noedns",), ("+bufsize=512",), ("+dnssec",), ("+nocookie",)))
                self.run("dig", host, "-p", self.port, "+tries=2", "+time=2", *options, *asked)
            self.pause()

    def smtp(self) -> None:
        rng = self.rng
        if rng.random() < 0.3:
            body = f"From: a@example.org\r\nTo: b@example.org\r\nSubject: {text(rng, 20)}\r\n\r\n{text(rng, size(rng, 100, 15_000))}\r\n"
            url = f"smtp://{self.bracketed()}:{self.port}/{rng.choice(WORDS)}.example.org"
            people = ["--mail-from", "a@example.org", "--mail-rcpt", "b@example.org"]
            self.run("curl", "-s", "--max-time", 20, url, *people, "-T", "-", given=body.encode())
            return
        with smtplib.SMTP(self.host, self.port, local_hostname=f"{rng.choice(WORDS)}.example.org", timeout=20) as link:
            for _ in range(rng.randint(1, 3)):
                mail = EmailMessage()
                mail["From"] = f"{rng.choice(WORDS)}@example.org"
                mail["To"] = ", ".join(f"{w}@example.org" for w in rng.sample(WORDS, rng.randint(1, 4)))
                mail["Subject"] = text(rng, 30)
                mail.set_content(text(rng, size(rng, 50, 3000)) + "\n")
                if rng.random() < 0.4:
                    mail.add_attachment(
                        rng.randbytes(size(rng, 500, 30_000)), "application", "octet-stream", filename="a.bin"
                    )
                link.send_message(mail)
                self.pause()
            if rng.random() < 0.3:
                link.verify("nobody")

    def imap(self) -> None:
        rng = self.rng
        if rng.random() < 0.25:
            url = f"imap://{self.bracketed()}:{self.port}/INBOX;UID={rng.randint(1, 5)}"
            self.run("curl", "-s", "--max-time", 20, url, "-u", f"{USER}:harbour")
            return
        link = imaplib.IMAP4(self.host, self.port, timeout=20)
        link.login(USER, "harbour")
        link.select("INBOX")
        for _ in range(rng.randint(1, 5)):
            what = rng.choice(("heads", "body", "search", "append", "noop", "flag"))
            if what == "heads":
                link.fetch("1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (FROM SUBJECT)])")
            elif what == "body":
                link.fetch(str(rng.randint(1, 3)), "(RFC822)")
            elif what == "search":
                link.search(None, "TEXT", rng.choice(WORDS))
            elif what == "append":
                link.append(
                    "INBOX", "", None, f"Subject: {text(rng, 9)}\r\n\r\n{text(rng, size(rng, 99, 8000))}\r\n".encode()
                )  # type: ignore[arg-type]
            elif what == "flag":
                link.store("1", "+FLAGS", "\\Seen")
            else:
                link.noop()
            self.pause()
        link.logout()

    def ftp(self) -> None:
        rng = self.rng
        if rng.random() < 0.3:
            self.run("curl", "-s", "--max-time", 20, f"ftp://{self.bracketed()}:{self.port}/part{rng.randrange(6)}.dat")
            return
        with ftplib.FTP(timeout=20) as link:
            link.connect(self.host, self.port)
            link.login("anonymous", "visitor@example.org")
            for _ in range(rng.randint(1, 3)):
                what = rng.choice(("list", "names", "get", "put", "walk"))
                if what == "list":
                    link.retrlines("LIST", lambda line: None)
                elif what == "names":
                    link.nlst()
                elif what == "get":
                    link.retrbinary(f"RETR part{rng.randrange(6)}.dat", lambda block: None)
                elif what == "put":
                    content = io.BytesIO(rng.randbytes(size(rng, 200, 30_000)))
                    link.storbinary(f"STOR incoming/{rng.getrandbits(40):010x}.dat", content)
                else:
                    link.cwd("incoming")
                    link.pwd()
                    link.cwd("..")
                self.pause()

    def ssh(self) -> None:
        rng = self.rng
        given = ["-i", self.folder / "client", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                 "-o", "LogLevel=ERROR", "-o", f"Compression={rng.choice(('yes', 'no'))}",
                 "-o", f"IPQoS={rng.choice(('none', 'af21 cs1'))}", "-F", "none"]  # fmt: skip
        there = f"{USER}@{self.bracketed()}"
        kind = rng.choice(("typing", "typing", "command", "up", "down", "sftp"))
        note = f"notes{rng.randrange(12)}.txt"
        if kind == "typing":
            orders = rng.choices(
                ("ls -l\n", f"cat {note}\n", f"wc {note}\n", "date\n", "echo done\n"), k=rng.randint(1, 4)
            )
            keys = [*"".join(orders), *"exit\n"]
            command = ["ssh", "-tt", *given, "-p", self.port, f"{USER}@{self.host}"]
            self.typed(keys, *command, mean=rng.uniform(0.03, 0.2))
        elif kind == "command":
            order = rng.choice(("uptime", "ls", f"cat {note}", f"head -c {size(rng, 1000, 60_000)} /dev/urandom"))
            self.run("ssh", *given, "-p", self.port, f"{USER}@{self.host}", order)
        elif kind == "up":
            content = self.folder / f"up{rng.getrandbits(40):010x}"
            content.write_bytes(rng.randbytes(size(rng, 500, 60_000)))
            self.run("scp", "-q", *given, "-P", self.port, content, f"{there}:/dev/null")
        elif kind == "down":
            self.run("scp", "-q", *given, "-P", self.port, f"{there}:{note}", f"/srv/down{rng.getrandbits(40):010x}")
        else:
            orders = [
                f"{o}\n" for o in rng.choices(("ls -l", "pwd", f"get {note} /dev/null", "cd ."), k=rng.randint(1, 4))
            ]
            self.typed(orders, "sftp", "-q", "-b", "-", *given, "-P", self.port, there)

    def mqtt(self) -> None:
        rng = self.rng
        link = ["-h", self.host, "-p", self.port, "-q", rng.randrange(3), "-i", f"{rng.choice(WORDS)}{rng.randrange(10**6)}",
                "-V", rng.choice(("mqttv311", "mqttv5")), "-k", rng.choice((5, 30, 60))]  # fmt: skip
        topic = f"home/{rng.choice(WORDS)}"
        kind = rng.choice(("listen", "meter", "meter", "once", "blob"))
        if kind == "listen":
            self.run("mosquitto_sub", *link, "-t", "home/#", "-W", rng.randint(2, 8))
        elif kind == "meter":
            lines = [f'{{"t": {rng.uniform(10, 30):.2f}, "at": {i}}}\n' for i in range(rng.randint(2, 15))]
            self.typed(lines, "mosquitto_pub", *link, "-t", topic, "-l")
        elif kind == "once":
            self.run(
                "mosquitto_pub", *link, "-t", topic, "-m", text(rng, size(rng, 5, 300)), *rng.choice(((), ("-r",)))
            )
        else:
            self.run("mosquitto_pub", *link, "-t", topic, "-s", given=rng.randbytes(size(rng, 500, 20_000)))

    def redis(self) -> None:
        rng = self.rng
        link = ["-h", self.host, "-p", self.port]
        kind = rng.choice(("typed", "single", "single", "benchmark", "large", "listen"))
        if kind == "benchmark":
            tests = ",".join(rng.sample(("ping", "set", "get", "incr", "lpush", "hset"), 2))
            clients = rng.randint(1, 2)
            amount = ["-n", rng.randint(3, 12), "-d", size(rng, 3, 2000), "-P", rng.choice((1, 1, 5))]
            self.run("redis-benchmark", *link, "-q", "-c", clients, "-t", tests, *amount)
        elif kind == "large":
            self.run("redis-cli", *link, "-x", "set", rng.choice(WORDS), given=rng.randbytes(size(rng, 1000, 30_000)))
            self.run("redis-cli", *link, "get", rng.choice(WORDS))
        elif kind == "single":
            for _ in range(rng.randint(1, 4)):
                self.run(
                    "redis-cli",
                    *link,
                    *rng.choice((("incr", "n"), ("get", "kelp"), ("lrange", "l", 0, -1), ("dbsize",))),
                )
                self.pause()
        elif kind == "listen":
            self.typed(["PING\n"] * rng.randint(1, 4), "redis-cli", *link, mean=1.0)
        else:
            word = lambda: rng.choice(WORDS)  # noqa: E731
            orders = [
                rng.choice((f"SET {word()} {text(rng, size(rng, 5, 900)).replace(' ', '_')}\n", f"GET {word()}\n", f"INCR n{word()}\n",
                            f"RPUSH l{word()} {word()} {word()}\n", f"LRANGE l{word()} 0 -1\n", "INFO stats\n", "KEYS *\n",
                            f"HSET h{word()} {word()} {rng.random()}\n", f"DEL {word()}\n"))
                for _ in range(rng.randint(2, 15))
            ]  # fmt: skip
            self.typed(orders, "redis-cli", *link)

    def postgresql(self) -> None:
        rng = self.rng
        link = f"host={self.host} port={self.port} user=shop dbname=postgres gssencmode=disable sslmode={rng.choice(('disable', 'prefer'))}"
        orders = [
            rng.choice((f"select * from item where id = {rng.randint(1, 400)};\n", f"select * from item limit {size(rng, 1, 200)};\n",
                        f"insert into sale values ({rng.randint(1, 400)}, default, '{text(rng, size(rng, 5, 2000))}');\n",
                        "select count(*), avg(price) from item;\n", "begin;\nupdate item set price = price + 1 where id < 9;\ncommit;\n",
                        f"copy (select * from item where id < {size(rng, 5, 300)}) to stdout;\n", "select now();\n", "\\d item\n",
                        f"select repeat('x', {size(rng, 10, 20_000)});\n"))
            for _ in range(rng.randint(1, 10))
        ]  # fmt: skip
        if rng.random() < 0.3:
            self.run("psql", "-X", "-q", link, given="".join(orders).encode())
        else:
            self.typed(orders, "psql", "-X", "-q", link)

    def ntp(self) -> None:
        rng = self.rng
        own = self.folder / f"chronyd{rng.getrandbits(40):010x}.pid"
        options = rng.choice(("iburst", "iburst version 3", "iburst maxsamples 2", "burst", "iburst xleave"))
        settings = ["cmdport 0", "bindcmdaddress /", f"pidfile {own}", "user root"]
        server = f"server {self.host} port {self.port} minpoll {rng.choice((0, 1, 2, 6))} {options}"
        self.run("chronyd", "-Q", "-d", "-t", rng.randint(4, 15), server, *settings)

    def snmp(self) -> None:
        rng = self.rng
        where = f"{'udp6' if ':' in self.host else 'udp'}:{self.bracketed()}:{self.port}"
        link = ["-On", "-m", "", "-r", 2, "-t", 1, "-v", rng.choice(("1", "2c", "2c")), "-c", "public"]
        system = [f".1.3.6.1.2.1.1.{i}.0" for i in (1, 2, 3, 4, 5, 6, 7)]
        trees = [f".1.3.6.1.2.1.{i}" for i in ("1.9", "2.2.1.2", "4", "6", "7", "2.2.1.10")]
        kind = rng.choice(("get", "poll", "walk", "bulk"))
        if kind == "get":
            self.run("snmpget", *link, where, *rng.sample(system, rng.randint(1, 7)))
        elif kind == "poll":
            for _ in range(rng.randint(2, 4)):
                self.run("snmpget", *link, where, ".1.3.6.1.2.1.1.3.0", ".1.3.6.1.2.1.2.2.1.10.2")
                self.pause()
        elif kind == "walk":
            self.run("snmpwalk", *link, where, rng.choice(trees[:2] + trees[4:]))
        else:
            link[link.index("-v") + 1] = "2c"
            self.run("snmpbulkwalk", *link, f"-Cr{rng.choice((5, 10, 25))}", where, rng.choice(trees))

    def syslog(self) -> None:
        rng = self.rng
        link = [
            "logger",
            "-d",
            "-n",
            self.host,
            "-P",
            self.port,
            "-t",
            rng.choice(WORDS),
            "-p",
            f"local{rng.randrange(8)}.info",
        ]
        link += rng.choice(([], ["--rfc3164"], ["--rfc5424=notq"]))
        if rng.random() < 0.3:
            self.run(*link, "--", text(rng, size(rng, 20, 900)))
        else:
            self.typed((text(rng, size(rng, 20, 600)) + "\n" for _ in range(rng.randint(2, 25))), *link)


if __name__ == "__main__":
    service, host, port, seed, folder = sys.argv[1:6]
    os.environ["SNMP_PERSISTENT_DIR"] = folder
    getattr(Session(host, int(port), seed, Path(folder)), service)()
