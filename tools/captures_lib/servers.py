"""The servers: how each is set up for one capture, and which version it is."""

from __future__ import annotations

import random
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from captures_lib import lab

USER, UID = "visitor", 2000  # an invented user, known to the script's own mounts alone
WORDS = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "haven", "inlet",
         "juniper", "kelp", "larch", "maple", "north", "ochre", "pine", "quartz", "reed"]  # fmt: skip
POSTGRES = Path("/usr/lib/postgresql")


def text(rng: random.Random, n: int) -> str:
    """About n characters of words."""
    words = []
    while n > 0:
        words.append(rng.choice(WORDS))
        n -= len(words[-1]) + 1
    return " ".join(words)


def size(rng: random.Random, low: int, high: int) -> int:
    """Log-uniform."""
    return int(low * (high / low) ** rng.random())


def home() -> None:
    """The home of USER: a few notes and files."""
    folder = Path("/srv") / USER
    folder.mkdir()
    rng = random.Random("home")
    for i in range(12):
        (folder / f"notes{i}.txt").write_text(text(rng, size(rng, 100, 4000)) + "\n")
    subprocess.run(["chown", "-R", f"{UID}:{UID}", folder], check=True)


def prepare(work: Path, services: list[str]) -> None:
    """What is made once: a folder of logs, a key and a certificate, an empty database cluster."""
    (work / "logs").mkdir()
    subject = "-subj /CN=www.example.org -days 3650 -nodes"
    for kind, args in (("rsa", "rsa:2048"), ("ec", "ec -pkeyopt ec_paramgen_curve:prime256v1")):
        quiet(f"openssl req -x509 -newkey {args} {subject} -keyout {work}/{kind}.key -out {work}/{kind}.pem")
    if "postgresql" in services:
        data = work / "cluster"
        data.mkdir()
        shutil.chown(data, "postgres", "postgres")
        quiet(f"setpriv --reuid=postgres --regid=postgres --clear-groups {postgres('initdb')} -A trust -E UTF8 {data}")
        tables = (
            "create role shop superuser login;\ncreate table item (id int primary key, name text, price numeric);\n"
            "insert into item select i, repeat(md5(i::text), 1 + i % 5), i / 7.0 from generate_series(1, 400) i;\n"
            "create table sale (item int, at timestamptz default now(), note text);\n"
        )
        single = f"setpriv --reuid=postgres --regid=postgres --clear-groups {postgres('postgres')} --single -D {data} postgres"
        subprocess.run(shlex.split(single), input=tables.encode(), check=True, capture_output=True)


def quiet(command: str) -> None:
    subprocess.run(shlex.split(command), check=True, capture_output=True)


def postgres(name: str) -> Path:
    return max(POSTGRES.glob("*/bin")) / name


def start(c: lab.Conditions, space: str, folder: Path, work: Path, log: IO[bytes]) -> list[subprocess.Popen[bytes]]:
    """Start the server of a capture in its namespace and wait until it listens."""
    rng = random.Random(c.seed + "/server")
    service = SERVICES[c.service]
    command = service.configure(c, folder, work, rng)
    child = lab.start(space, *shlex.split(command), out=log)
    kind = "-u" if service.transport == "UDP" else "-t"

    def listens() -> bool:
        found = subprocess.run(
            ["ip", "netns", "exec", space, "ss", "-Hln", kind, f"sport = :{c.port}"], capture_output=True, check=True
        )
        if child.poll() not in (None, 0):
            log.flush()
            raise RuntimeError(f"{c.name}: the server ended: {Path(log.name).read_text()[-1000:]}")
        return bool(found.stdout.strip())

    lab.wait_for(listens, c.service, c.name)
    time.sleep(0.2)
    return [child]


def stop(c: lab.Conditions, space: str, folder: Path) -> None:
    """Servers that leave their parent need more than a signal to it."""
    if c.service == "smtp":
        subprocess.run(["postfix", "-c", folder / "etc", "stop"], check=False, capture_output=True)
    left = subprocess.run(["ip", "netns", "pids", space], check=False, capture_output=True, text=True).stdout.split()
    if left:
        subprocess.run(["kill", *left], check=False, capture_output=True)


def bracketed(c: lab.Conditions) -> str:
    return f"[{c.server}]" if c.version == 6 else c.server


def write(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body)
    return path


def site(folder: Path, rng: random.Random) -> Path:
    root = folder / "site"
    for i in range(8):
        page = f"<html><title>{text(rng, 20)}</title><p>{text(rng, size(rng, 200, 12_000))}</html>\n"
        write(root / f"page{i}.html", page)
    for i in range(3):
        (root / f"file{i}.bin").write_bytes(rng.randbytes(size(rng, 8_000, 60_000)))
    return root


def nginx(c: lab.Conditions, folder: Path, work: Path, rng: random.Random, tls: bool = False) -> str:
    root = site(folder, rng)
    kind = rng.choice(("rsa", "ec"))
    secure = f"ssl_certificate {work}/{kind}.pem; ssl_certificate_key {work}/{kind}.key;" if tls else ""
    temp = "".join(
        f"{what}_temp_path {folder}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = write(
        folder / "nginx.conf",
        f"""daemon off; master_process off; user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
        events {{}}
        http {{ access_log off; {temp} gzip {rng.choice(("on", "off"))}; keepalive_timeout {rng.choice((5, 30, 75))};
          types {{ text/html html; }} default_type application/octet-stream;
          server {{ listen {bracketed(c)}:{c.port} {"ssl http2" if tls else ""}; server_name www.example.org; root {root};
            {secure} location /form {{ client_max_body_size 1m; return 200 "taken\\n"; }} }} }}""",
    )
    return f"nginx -c {path} -e {folder}/error.log"


def https(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    return nginx(c, folder, work, rng, tls=True)


def dns(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    lines = [f"port={c.port}", f"listen-address={c.server}", "bind-interfaces", "no-hosts", "no-resolv", "user=root"]
    lines += ["keep-in-foreground", "log-facility=-", "pid-file=", "local=/example.org/", "local=/test/", "bogus-priv"]
    lines += [f"local-ttl={rng.choice((60, 300, 3600))}"]
    for i, word in enumerate(WORDS):
        lines.append(f"host-record={word}.example.org,198.51.100.{i + 1},2001:db8::{i + 1:x}")
        for k in range(rng.randrange(4)):
            lines.append(f"address=/{word}.test/203.0.113.{k + 1}")
    for k in range(1 + rng.randrange(4)):
        lines.append(f"mx-host=example.org,mail{k}.example.org,{10 * k + 10}")
    lines += [
        f"txt-record=example.org,{text(rng, size(rng, 20, 200))}",
        "srv-host=_imap._tcp.example.org,mail0.example.org,143",
    ]
    return f"dnsmasq --conf-file={write(folder / 'dnsmasq.conf', chr(10).join(lines))}"


def smtp(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    etc = folder / "etc"
    write(
        etc / "main.cf",
        f"""compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mail.example.org
mydestination = example.org
inet_protocols = ipv{c.version}
inet_interfaces = {c.server}
smtp_bind_address =
mynetworks = 127.0.0.0/8
local_recipient_maps =
local_transport = discard:
default_transport = discard:
alias_maps =
alias_database =
smtpd_peername_lookup = no
smtpd_banner = $myhostname ESMTP
maillog_file = /dev/stdout
message_size_limit = 1000000
""",
    )
    services = """cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
discard unix - - n - - discard
error unix - - n - - error
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
    write(etc / "master.cf", f"{c.port} inet n - n - - smtpd\n{services}")
    (folder / "data").mkdir()
    (folder / "queue").mkdir()
    shutil.chown(folder / "data", "postfix")
    return f"postfix -c {etc} start-fg"


def imap(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    for name in ("mail", "run", "state"):
        (folder / name).mkdir()
    for i in range(rng.randint(3, 12)):
        head = f"From: {rng.choice(WORDS)}@example.org\nTo: visitor@example.org\nSubject: {text(rng, 30)}\n"
        write(folder / f"mail/Maildir/new/{1000 + i}.M{i}.lab", f"{head}\n{text(rng, size(rng, 200, 20_000))}\n")
    for name in ("cur", "tmp"):
        (folder / f"mail/Maildir/{name}").mkdir()
    quiet(f"chown -R {UID}:{UID} {folder}/mail")
    path = write(
        folder / "dovecot.conf",
        f"""protocols = imap
listen = {c.server}
base_dir = {folder}/run
state_dir = {folder}/state
ssl = no
disable_plaintext_auth = no
login_greeting = ready
first_valid_uid = {UID}
log_path = {folder}/dovecot.log
mail_location = maildir:{folder}/mail/Maildir
passdb {{
  driver = static
  args = password=harbour
}}
userdb {{
  driver = static
  args = uid={UID} gid={UID} home={folder}/mail
}}
service imap-login {{
  inet_listener imap {{
    port = {c.port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
""",
    )
    return f"dovecot -F -c {path}"


def ftp(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    root = folder / "ftp"
    for i in range(6):
        path = root / f"part{i}.dat"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(size(rng, 500, 60_000)))
    (root / "incoming").mkdir()
    shutil.chown(root / "incoming", UID, UID)
    (folder / "empty").mkdir()
    which = "listen_ipv6=YES\nlisten=NO\nlisten_address6" if c.version == 6 else "listen=YES\nlisten_address"
    path = write(
        folder / "vsftpd.conf",
        f"""{which}={c.server}
listen_port={c.port}
background=NO
anonymous_enable=YES
local_enable=NO
write_enable=YES
anon_upload_enable=YES
no_anon_password=NO
anon_root={root}
ftp_username={USER}
nopriv_user={USER}
secure_chroot_dir={folder}/empty
seccomp_sandbox=NO
ftpd_banner=ready
pasv_min_port={c.further}
pasv_max_port={c.further + 40}
connect_from_port_20=NO
use_localtime=NO
vsftpd_log_file={folder}/vsftpd.log
""",
    )
    return f"vsftpd {path}"


def ssh(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    kind = rng.choice(("ed25519", "rsa -b 3072", "ecdsa"))
    for name in ("host", "client"):
        quiet(f"ssh-keygen -q -t {kind} -N '' -C visitor -f {folder}/{name}")
    path = write(
        folder / "sshd.conf",
        f"""Port {c.port}
ListenAddress {c.server}
HostKey {folder}/host
AuthorizedKeysFile {folder}/client.pub
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
PrintMotd no
PidFile none
Subsystem sftp internal-sftp
Compression {rng.choice(("yes", "no"))}
IPQoS {rng.choice(("none", "af21 cs1"))}
""",
    )
    return f"/usr/sbin/sshd -D -e -f {path}"


def mqtt(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    body = f"listener {c.port} {c.server}\nallow_anonymous true\npersistence false\nlog_dest stderr\nuser root\n"
    body += f"set_tcp_nodelay {rng.choice(('true', 'false'))}\n"
    return f"mosquitto -c {write(folder / 'mosquitto.conf', body)}"


def redis(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    return f"redis-server --bind {c.server} --port {c.port} --protected-mode no --save '' --dir {folder} --daemonize no"


def postgresql(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    data = folder / "cluster"
    quiet(f"cp -a {work}/cluster {data}")
    (data / "pg_hba.conf").write_text("host all shop all trust\n")
    shutil.chown(folder, "postgres", "postgres")
    options = f"-p {c.port} -h {c.server} -k {data} -c fsync=off -c timezone=UTC -c autovacuum=off"
    return f"setpriv --reuid=postgres --regid=postgres --clear-groups {postgres('postgres')} -D {data} {options}"


def ntp(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    body = f"port {c.port}\nbindaddress {c.server}\nallow\nlocal stratum {rng.randint(1, 9)}\ncmdport 0\nbindcmdaddress /\n"
    body += f"pidfile {folder}/chronyd.pid\nuser root\n"
    return f"chronyd -x -d -f {write(folder / 'chrony.conf', body)}"


def snmp(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    body = """view lab included .1.3.6.1.2.1.1
view lab included .1.3.6.1.2.1.2
view lab included .1.3.6.1.2.1.4
view lab included .1.3.6.1.2.1.6
view lab included .1.3.6.1.2.1.7
rocommunity public default -V lab
rocommunity6 public default -V lab
sysDescr A laboratory
sysContact admin@example.org
sysName lab.example.org
sysLocation Nowhere
dontLogTCPWrappersConnects yes
"""
    where = f"{'udp6' if c.version == 6 else 'udp'}:{bracketed(c)}:{c.port}"
    path = write(folder / "snmpd.conf", body)
    return f"env SNMP_PERSISTENT_DIR={folder} snmpd -f -LE e -C -c {path} -I -smux -p {folder}/snmpd.pid {where}"


def syslog(c: lab.Conditions, folder: Path, work: Path, rng: random.Random) -> str:
    body = f"""global(workDirectory="{folder}")
module(load="imudp")
input(type="imudp" address="{c.server}" port="{c.port}")
action(type="omfile" file="{folder}/messages")
"""
    return f"rsyslogd -n -i {folder}/rsyslogd.pid -f {write(folder / 'rsyslog.conf', body)}"


@dataclass(frozen=True)
class Service:
    transport: str
    configure: Callable[[Any, Path, Path, random.Random], str]  # writes the configuration, gives the command
    sessions: tuple[int, int]
    package: str  # whose version is told
    title: str


SERVICES = {
    "dns": Service("UDP", dns, (3, 6), "dnsmasq-base", "dnsmasq; dig and nslookup"),
    "ftp": Service("TCP", ftp, (3, 4), "vsftpd", "vsftpd, passive; ftplib and curl"),
    "http": Service("TCP", nginx, (5, 9), "nginx-light", "nginx; curl and http.client"),
    "https": Service(
        "TCP", https, (5, 9), "nginx-light", "nginx, TLS 1.2 and 1.3, HTTP/1.1 and 2; curl and http.client"
    ),
    "imap": Service("TCP", imap, (4, 8), "dovecot-imapd", "Dovecot; imaplib and curl"),
    "mqtt": Service("TCP", mqtt, (6, 10), "mosquitto", "Mosquitto; mosquitto_pub and mosquitto_sub"),
    "ntp": Service("UDP", ntp, (3, 6), "chrony", "chronyd; chronyd"),
    "postgresql": Service("TCP", postgresql, (5, 9), "postgresql-15", "PostgreSQL; psql"),
    "redis": Service("TCP", redis, (5, 9), "redis-server", "Redis; redis-cli and redis-benchmark"),
    "smtp": Service("TCP", smtp, (5, 9), "postfix", "Postfix; smtplib and curl"),
    "snmp": Service("UDP", snmp, (4, 10), "snmpd", "snmpd of Net-SNMP; snmpget, snmpwalk and snmpbulkwalk"),
    "ssh": Service("TCP", ssh, (4, 6), "openssh-server", "sshd of OpenSSH; ssh, scp and sftp"),
    "syslog": Service("UDP", syslog, (5, 10), "rsyslog", "rsyslogd; logger of util-linux"),
}


def version(service: str) -> str:
    """The server and its clients, with the server's version as Debian counts it."""
    of = SERVICES[service]
    found = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", of.package], check=True, capture_output=True, text=True
    )
    server, _, clients = of.title.partition("; ")
    return f"{server} ({found.stdout}) | {clients}"
