"""A headless Chromium, driven by the DevTools protocol over a pair of pipes. Nothing but Python's own library is needed."""

import base64
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
PATIENCE_S = 90


def find():
    """The path of a Chromium, or nothing."""
    return os.environ.get("CHROMIUM") or next((path for path in map(shutil.which, NAMES) if path), None)


def shrink(file):
    """Makes a picture small, where Pillow is there: 256 colours are enough for a page."""
    try:
        from PIL import Image
    except ImportError:
        return
    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


class Failure(Exception):
    """The browser, or the page in it, did not do what it should."""


class Browser:
    """One browser with one page. What the page complains of is kept in `complaints`, where it went in `hosts`."""

    def __init__(self, path):
        self.profile = tempfile.mkdtemp(prefix="jumpgate-dashboard-")
        for_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()
        arguments = [
            "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "--no-first-run",
            "--no-default-browser-check", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio", "--hide-scrollbars",
            "--force-color-profile=srgb", "about:blank",
        ]
        if os.geteuid() == 0:
            arguments.insert(0, "--no-sandbox")
        # Chromium takes commands from descriptor 3 and answers at descriptor 4.
        shell = f'exec "$0" "$@" 3<&{for_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, path, *arguments], pass_fds=(for_browser, from_browser),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(for_browser)
        os.close(from_browser)
        self._next, self._waiting, self._lock = 1, {}, threading.Lock()
        self._session = None
        self.complaints, self.hosts = [], set()
        threading.Thread(target=self._read, daemon=True).start()
        pages = self.ask("Target.getTargets")["targetInfos"]
        page = next(target for target in pages if target["type"] == "page")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.ask(f"{domain}.enable")

    def _read(self):
        rest = b""
        while True:
            part = os.read(self._answers, 1 << 16)
            if not part:
                return
            *messages, rest = (rest + part).split(b"\0")
            for message in messages:
                self._on_message(json.loads(message))

    def _on_message(self, message):
        if "id" in message:
            with self._lock:
                waiting = self._waiting.pop(message["id"], None)
            if waiting:
                waiting.put(message)
            return
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and parameters["entry"]["source"] in ("security", "violation", "javascript"):
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if url.split(":")[0] in ("http", "https"):
                self.hosts.add(url.split("/")[2])

    def ask(self, method, **parameters):
        answer = queue.Queue()
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._waiting[number] = answer
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        try:
            found = answer.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise Failure(f"Chromium did not answer {method}") from None
        if "error" in found:
            raise Failure(f"{method}: {found['error']}")
        return found["result"]

    def open(self, url):
        self.ask("Page.navigate", url=url)

    def run(self, expression):
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise Failure(f"{expression}: {details.get('exception', {}).get('description', details['text'])}")
        return found["result"].get("value")

    def until(self, what, expression, patience_s=PATIENCE_S):
        """Waits until an expression is true, and gives its value. What goes wrong while a page loads is asked again."""
        end = time.monotonic() + patience_s
        last = None
        while time.monotonic() < end:
            try:
                last = self.run(expression)
            except Failure as failure:
                last = failure
            else:
                if last:
                    return last
            time.sleep(0.05)
        raise Failure(f"it did not happen in {patience_s} s: {what} ({expression} is {last!r})")

    def text(self, element):
        return self.run(f"document.getElementById({json.dumps(element)}).textContent")

    def click(self, element):
        self.run(f"document.getElementById({json.dumps(element)}).click()")

    def type(self, element, text):
        """Puts the focus on a field, empties it, and types."""
        self.run(f"(() => {{ const field = document.getElementById({json.dumps(element)}); field.focus(); field.select(); }})()")
        if text:
            self.ask("Input.insertText", text=text)
        else:
            self.press("Delete", 46)

    def press(self, key, code):
        for kind in ["keyDown", "keyUp"]:
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def look(self, width, height, dark=False, scale=1, phone=False):
        """How wide the page is, and whether its reader likes it dark."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        scheme = "dark" if dark else "light"
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, file):
        """A picture of what is seen; its size in bytes."""
        data = base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])
        with open(file, "wb") as out:
            out.write(data)
        shrink(file)
        return os.path.getsize(file)

    def nameless(self):
        """Controls that a screen reader can't name."""
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        controls = ["button", "link", "textbox", "combobox", "application"]
        kinds = [(node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in nodes if not node.get("ignored")]
        return [kind for kind, name in kinds if kind in controls and not name]

    def close(self):
        self.process.kill()
        self.process.wait()
        for descriptor in (self._commands,):
            os.close(descriptor)
        shutil.rmtree(self.profile, ignore_errors=True)
