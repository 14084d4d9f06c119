#!/usr/bin/env python3
"""The dashboard in a real browser, over a cluster of real processes that lose their leader.

    python3 tests/dashboard/run.py [--jumpgate target/debug/jumpgate] [--pictures docs]

Five nodes run under a little load while a headless Chromium looks at one of them:

    load      the page shows a healthy cluster, asks nobody but the cluster's nodes, and complains of nothing
    reach     every control has a name, and the keyboard gets to all of them
    live      a change made elsewhere appears
    edit      a key is made, changed, refused where somebody else changed it meanwhile, and deleted
    hostile   a key and a value that are markup stay text; a stored page can't run
    leader    the leader is killed: the page names the new one
    moved     the page's own node is killed: the page goes to another one by itself, and remembers what happened

With --pictures it leaves dashboard-light.png, -dark.png and -phone.png there (Pillow makes them small, if it is installed). Where there is no Chromium it says so and
ends with 0.
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import chromium  # noqa: E402
from chromium import Browser, Failure  # noqa: E402

NODES = 5
PICTURE_BYTES_MAX = 200 << 10
PATIENCE_S = 90


class Cluster:
    """Nodes as processes of their own, on free ports."""

    def __init__(self, program):
        self.folder = Path(tempfile.mkdtemp(prefix="jumpgate-dashboard-"))
        self.port = free_port()
        printed = subprocess.run(
            [program, "dev", "--print-config", "--nodes", str(NODES), "--port", str(self.port)], check=True, capture_output=True
        )
        # Generous times: on a busy machine a failover that nobody caused would spoil what is looked at.
        timing = b'\n[timing]\nheartbeat = "50ms"\nelection = "800ms"\nlease = "600ms"\ndown = "700ms"\n'
        config = self.folder / "cluster.toml"
        config.write_bytes(printed.stdout + timing)
        self.processes = {}
        for nth in range(1, NODES + 1):
            log = open(self.folder / f"n{nth}.log", "wb")
            command = [program, "serve", "--config", str(config), "--node", f"n{nth}"]
            self.processes[f"n{nth}"] = subprocess.Popen(command, stdout=log, stderr=log)
        self.until("all nodes are ready", lambda: all(self.ask(name, "GET", "/readyz")[0] == 200 for name in self.processes))

    def url(self, name):
        return f"http://127.0.0.1:{self.port + int(name[1:])}"

    def ask(self, name, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port + int(name[1:]), timeout=15)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def until(self, what, found):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            value = found()
            if value:
                return value
            time.sleep(0.05)
        raise Failure(f"it did not happen in {PATIENCE_S} s: {what}")

    def status(self, name):
        status, body = self.ask(name, "GET", "/v1/cluster")
        return json.loads(body) if status == 200 else {}

    def kill(self, name):
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def alive(self):
        return [name for name, process in self.processes.items() if process.poll() is None]

    def stop(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def free_port():
    """A port below those of NODES gateways, with room for the planes where --print-config puts them."""
    for _ in range(200):
        port = random.randrange(12000, 28000)
        wanted = [port + nth + plane for nth in range(1, NODES + 1) for plane in (0, 1000, 2000)]
        taken = []
        try:
            for one in wanted:
                probe = socket.socket()
                taken.append(probe)
                probe.bind(("127.0.0.1", one))
            return port
        except OSError:
            continue
        finally:
            for probe in taken:
                probe.close()
    raise Failure("no ports are free")


class Load:
    """A little traffic through every node, for the charts and the feed."""

    def __init__(self, cluster, pause_s):
        self.cluster, self.pause_s, self.ended = cluster, pause_s, threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(nth,), daemon=True) for nth in range(1, NODES + 1)]
        for thread in self.threads:
            thread.start()

    def run(self, nth):
        chance, connection = random.Random(nth), None
        kinds = [("users", "application/json"), ("sessions", "application/json"), ("carts", "text/plain"), ("pages", "text/html")]
        while not self.ended.wait(self.pause_s * chance.uniform(0.3, 1.7)):
            area, content_type = chance.choice(kinds)
            path = f"/v1/kv/{area}%2F{chance.randrange(4000):04}"
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.cluster.port + nth, timeout=10)
                if chance.random() < 0.35:
                    if area == "sessions":
                        path += "?ttl=30m"
                    body = os.urandom(chance.choice([60, 200, 900, 6000])).hex()
                    connection.request("PUT", path, body, {"content-type": content_type})
                elif chance.random() < 0.04:
                    connection.request("DELETE", path)
                else:
                    connection.request("GET", path)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection = None
                self.ended.wait(0.5)

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(timeout=20)


def check(is_so, what):
    if not is_so:
        raise Failure(what)


def events(browser):
    return browser.text("events")


def leader(browser):
    return browser.run("cluster.status?.leader")


# -------------------------------------------------------------------------------------------------------------- what is tried


def load(browser, cluster, home):
    browser.open(cluster.url(home))
    browser.until("the cluster is healthy", "document.getElementById('verdict-text').textContent === 'Healthy'")
    check(browser.run("document.querySelectorAll('#nodes tr').length") == NODES, "a row for each node")
    colours = """(() => { const map = document.getElementById('map'), pen = map.getContext('2d');
        const seen = new Set(), { data } = pen.getImageData(0, 0, map.width, map.height);
        for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 0) seen.add(data.slice(at, at + 3).join());
        return seen.size; })()"""
    browser.until("the map has a colour for each node", f"{colours} >= {NODES}")
    browser.until("every node's requests are counted", f"load.now.size === {NODES}")
    check(browser.run("load.unread.length") == 0, "every node can be asked from this page")


def reach(browser):
    nameless = browser.nameless()
    check(not nameless, f"controls without a name: {nameless}")
    browser.run("document.activeElement.blur()")
    wanted = browser.run("""[...document.querySelectorAll('a[href], button, input, select, textarea, [tabindex="0"]')]
        .filter((one) => !one.disabled && one.offsetParent !== null || one.matches('.skip')).length""")
    browser.run("window.reached = new Set()")
    for _ in range(wanted + 8):
        browser.press("Tab", 9)
        browser.run("reached.add(document.activeElement)")
    found = browser.run("[...reached].filter((one) => one !== document.body).length")
    check(found >= wanted, f"the keyboard gets to {found} of {wanted} controls")
    browser.run("document.getElementById('map').focus()")
    browser.press("ArrowRight", 39)
    browser.press("ArrowDown", 40)
    browser.until("the cell under the cursor is told", "/^Partition \\d+: led by n/.test(document.getElementById('map-info').textContent)")
    ring = browser.run("getComputedStyle(document.activeElement).outlineStyle")
    check(ring == "solid", f"the focus is seen ({ring})")
    browser.run("document.activeElement.blur()")


def live(browser, cluster, home):
    elsewhere = next(name for name in cluster.alive() if name != home)
    browser.until("the feed is live", "feed.cursor !== '' && document.getElementById('feed-note').textContent === ''")
    browser.type("feed-prefix", "live/")
    browser.until("the feed is live again", "feed.prefix === 'live/' && feed.cursor !== ''")
    check(cluster.ask(elsewhere, "PUT", "/v1/kv/live%2Fone", b"1")[0] == 201, "a write through another node")
    browser.until("the change is shown", "document.getElementById('feed').textContent.includes('live/one')")
    browser.type("feed-filter", "two")
    browser.until("the filter hides it", "[...document.querySelectorAll('#feed li')].every((line) => line.hidden)")
    browser.type("feed-filter", "")
    browser.type("feed-prefix", "")
    browser.until("the feed shows all again", "feed.prefix === '' && feed.cursor !== ''")


def edit(browser, cluster, home):
    elsewhere = next(name for name in cluster.alive() if name != home)
    path = "/v1/kv/edited%2Fa%20%C3%BC"
    browser.click("key-new")
    browser.type("editor-key", "edited/a ü")
    browser.type("editor-value", "first\nline")
    browser.type("editor-ttl", "2h")
    browser.click("editor-save")
    browser.until("it is saved", "document.getElementById('editor-note').textContent.startsWith('Saved')")
    check(cluster.ask(elsewhere, "GET", path) == (200, b"first\nline"), "the new key is there")
    browser.type("editor-value", "second")
    browser.click("editor-save")
    cluster.until("the change is there", lambda: cluster.ask(elsewhere, "GET", path) == (200, b"second"))
    browser.until("it says so", "!isEdited()")
    # Somebody else is faster.
    check(cluster.ask(elsewhere, "PUT", path, b"theirs")[0] == 204, "a write by somebody else")
    browser.type("editor-value", "mine")
    browser.click("editor-save")
    browser.until("it is refused", "document.getElementById('editor-note').textContent.includes('Somebody has changed it')")
    check(cluster.ask(elsewhere, "GET", path) == (200, b"theirs"), "the other change stays")
    browser.click("editor-reload")
    browser.until("the other value is shown", "document.getElementById('editor-value').value === 'theirs'")
    browser.type("keys-prefix", "edited/")
    browser.run("document.getElementById('keys-form').requestSubmit()")
    browser.until("it is listed", "document.getElementById('keys').textContent.includes('edited/a ü')")
    browser.click("editor-delete")
    check(cluster.ask(elsewhere, "GET", path)[0] == 200, "one press deletes nothing")
    browser.click("editor-delete")
    browser.until("it is deleted", "document.getElementById('keys-note').textContent.includes('is deleted')")
    check(cluster.ask(elsewhere, "GET", path)[0] == 404, "it is gone")
    browser.type("keys-prefix", "")
    browser.run("document.getElementById('keys-form').requestSubmit()")
    browser.until("all keys are listed", "document.querySelectorAll('#keys tr').length > 5 && !document.getElementById('keys-next').disabled")
    browser.click("keys-next")
    browser.until("there is a second page", "document.getElementById('keys-note').textContent.startsWith('page 2')")
    browser.click("keys-previous")
    browser.until("and back", "document.getElementById('keys-note').textContent.startsWith('page 1')")


def hostile(browser, cluster, home):
    markup = "<img src=x onerror=\"window.hurt=1\"><script>window.hurt=1</script>"
    key = "hostile%2F" + "".join(f"%{byte:02x}" for byte in markup.encode())
    check(cluster.ask(home, "PUT", f"/v1/kv/{key}", markup.encode(), {"content-type": "text/html"})[0] == 201, "a hostile key")
    browser.type("keys-prefix", "hostile/")
    browser.run("document.getElementById('keys-form').requestSubmit()")
    browser.until("it is listed as it is", f"document.getElementById('keys').textContent.includes({json.dumps(markup)})")
    browser.run("document.querySelector('#keys button').click()")
    browser.until("it is shown as it is", f"document.getElementById('editor-value').value === {json.dumps(markup)}")
    check(browser.run("window.hurt === undefined"), "markup of a key or a value has run")
    browser.click("editor-close")
    browser.type("keys-prefix", "")
    browser.run("document.getElementById('keys-form').requestSubmit()")
    browser.until("all keys are listed", "document.querySelectorAll('#keys tr').length > 5")
    # A script that gets into the page all the same, and one that is stored and pulled in: the policy stops both.
    check(browser.complaints == [], f"the page complains: {browser.complaints}")
    check(cluster.ask(home, "PUT", "/v1/kv/script.js", b"window.hurt=1", {"content-type": "text/javascript"})[0] in (201, 204), "a script")
    browser.run("""new Promise((done) => { const one = document.createElement('script'); one.textContent = 'window.hurt=1';
        const other = document.createElement('script'); other.src = '/v1/kv/script.js'; other.onerror = other.onload = done;
        document.body.append(one, other); })""")
    check(browser.run("window.hurt === undefined"), "the policy lets a foreign script run")
    browser.complaints.clear()


def leader_dies(browser, cluster):
    before = leader(browser)
    cluster.kill(before)
    browser.until("the page names another leader", f"cluster.status.leader && cluster.status.leader !== {json.dumps(before)}")
    browser.until("the change is told", f"/Leader {before} → n\\d, term/.test(document.getElementById('events').textContent)")
    browser.until("the dead node is shown as dead", f"rows.get({json.dumps(before)}).line.className === 'dead'")
    check(browser.run("cluster.failedSince") is None, "the page's own node still answers")
    return before


def own_node_dies(browser, cluster, home):
    cluster.kill(home)
    browser.until("the page says so", "!document.getElementById('banner').hidden")
    browser.until("it has gone to another node", f"!location.origin.endsWith(':{cluster.port + int(home[1:])}')")
    browser.until("it shows the cluster there", "cluster.status !== null && cluster.status.leader !== null")
    browser.until("it remembers what happened", f"/{home}, where this page comes from, does not answer/.test(document.getElementById('events').textContent)")
    check(browser.run("location.hash") == "", "the story is not left in the address")


# ------------------------------------------------------------------------------------------------------------------ all of it


def whole_page(browser, width, height, phone=False, scale=1, dark=False):
    browser.look(width, height, dark=dark, scale=scale, phone=phone)
    browser.run("document.activeElement.blur(); window.scrollTo(0, 0); new Promise((done) => setTimeout(done, 600))")


def take(browser, folder, name, **look):
    whole_page(browser, **look)
    size = browser.picture(folder / name)
    check(size < PICTURE_BYTES_MAX, f"{name} has {size} bytes")
    print(f"  {folder / name}: {size >> 10} KiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jumpgate", default="target/debug/jumpgate")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--seconds", type=float, default=0, help="load before the first picture, for the charts")
    arguments = parser.parse_args()
    path = chromium.find()
    if path is None:
        print("skipped: there is no Chromium here, so the dashboard was not looked at")
        return 0
    began = time.monotonic()
    cluster = Cluster(arguments.jumpgate)
    traffic = browser = None
    try:
        traffic = Load(cluster, 0.02 if arguments.pictures else 0.1)
        browser = Browser(path)
        browser.look(1280, 1000)
        home = next(node["name"] for node in cluster.status("n1")["nodes"] if node["role"] == "follower")
        steps = [
            ("load", lambda: load(browser, cluster, home)), ("reach", lambda: reach(browser)),
            ("live", lambda: live(browser, cluster, home)), ("edit", lambda: edit(browser, cluster, home)),
            ("hostile", lambda: hostile(browser, cluster, home)),
        ]
        for name, step in steps:
            step()
            print(f"  ok: {name}", flush=True)
        if arguments.pictures:
            time.sleep(arguments.seconds)
            browser.until("the cluster is healthy", "document.getElementById('verdict-text').textContent === 'Healthy'")
            take(browser, arguments.pictures, "dashboard-light.png", width=1280, height=1000)
            take(browser, arguments.pictures, "dashboard-phone.png", width=400, height=860, phone=True, scale=1.5)
            browser.look(1280, 1000, dark=True)
        leader_dies(browser, cluster)
        print("  ok: leader", flush=True)
        if arguments.pictures:
            time.sleep(2)
            take(browser, arguments.pictures, "dashboard-dark.png", width=1280, height=1000, dark=True)
        own_node_dies(browser, cluster, home)
        print("  ok: moved", flush=True)
        strangers = browser.hosts - {f"127.0.0.1:{cluster.port + nth}" for nth in range(1, NODES + 1)}
        check(not strangers, f"the page asked {strangers}")
        check(browser.complaints == [], f"the page complains: {browser.complaints}")
    except Failure as failure:
        print(f"the dashboard: {failure}", file=sys.stderr)
        if browser:
            print(f"the page's own complaints: {sorted(set(browser.complaints))[:5]}", file=sys.stderr)
            browser.picture(cluster.folder / "failed.png")
            print(f"a picture: {cluster.folder / 'failed.png'}; logs beside it", file=sys.stderr)
        return 1
    finally:
        if traffic:
            traffic.stop()
        if browser:
            browser.close()
        cluster.stop()
    shutil.rmtree(cluster.folder, ignore_errors=True)
    print(f"The dashboard was looked at in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
