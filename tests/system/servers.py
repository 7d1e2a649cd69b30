"""An image with real servers of Debian packages: nginx, PostgreSQL, dnsmasq and iperf3.

The packages are unpacked, not installed, which takes a fifth of the time; what their scripts would
have done for these servers, the Dockerfile does.  Made once a week and kept beside the tests.
"""

from __future__ import annotations

import fcntl
import subprocess
import time
from pathlib import Path

from debian import CACHE
from harness import Daemon

PACKAGES = ("nginx-light", "postgresql", "dnsmasq-base", "iperf3", "busybox-static")

FILES = {
    "passwd": "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    "www-data:x:33:33::/:/bin/false\npostgres:x:100:100::/var/lib/pg:/bin/sh\n"
    "dnsmasq:x:101:65534::/:/bin/false\n",
    "group": "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\npostgres:x:100:\ndip:x:30:\n",
    "nginx.conf": "events {}\nhttp { access_log off; server { listen 80; listen [::]:80;\n"
    'location / { return 200 "$hostname $remote_addr\\n"; } } }\n',
    "Dockerfile": """\
FROM servers-base
SHELL ["/bin/busybox", "sh", "-c"]
COPY passwd group nginx.conf /etc/
RUN busybox --install -s /bin; ln -s /run /var/run; mkdir -p /var/lib/pg /var/log/nginx /tmp /run/postgresql; \
    chmod 1777 /tmp; chown 100:100 /var/lib/pg /run/postgresql
ENV PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER postgres
RUN initdb -D /var/lib/pg -A trust -E UTF8 --locale=C && \
    echo 'host all all all trust' >> /var/lib/pg/pg_hba.conf
USER root
""",
}


def load_servers(daemon: Daemon, folder: Path) -> None:
    """Give the daemon the image ``servers``."""
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / f"servers-{time.strftime('%G-%V')}.tar"
    with (CACHE / "servers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if archive.exists():
            with archive.open("rb") as data:
                daemon.client.images.load(data)
            return
        for old in CACHE.glob("servers-*.tar*"):
            old.unlink()
        base = folder / "base.tar"
        command = ["mmdebstrap", "--variant=extract", f"--include={','.join(PACKAGES)}", "bookworm"]
        done = subprocess.run([*command, str(base)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with base.open("rb") as data:
            daemon.client.api.import_image_from_data(data, repository="servers-base")
        base.unlink()
        for name, content in FILES.items():
            (folder / name).write_text(content)
        daemon.client.images.build(path=str(folder), tag="servers")
        partial = archive.with_suffix(".tar.new")
        with partial.open("wb") as output:
            for chunk in daemon.client.api.get_image("servers"):
                output.write(chunk)
        partial.rename(archive)
